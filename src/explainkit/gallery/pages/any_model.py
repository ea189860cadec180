"""Any model.

A network of your own needs no registration and no change: one in RGB, and a small vision
transformer. Both are untrained here, so their maps show where an output comes from, not what a
class looks like.

Topic: First steps
Order: 20
"""

# %% A network in RGB
# In-place operators, layers that are used twice, outputs in a tuple, a dict or `.logits`: all of
# it is read as it is. The model is left as it was.
#
# Alt: Two smooth colour pictures with their softmax probabilities and saliency maps in a fine
# chequered pattern.
import torch
from torch import nn

import explainkit as ek


def waves(count, side):
    """Colour pictures without a file: waves of random direction in each channel."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.linspace(0, 6, side), torch.linspace(0, 6, side), indexing="ij")
    a, b, c = torch.randn(3, count, 3, 1, 1, generator=generator)
    return (a * x + b * y + 3 * c).sin() / 2 + 0.5


torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 5, stride=2),
    nn.ReLU(inplace=True),
    nn.Conv2d(16, 32, 3, stride=2),
    nn.ReLU(inplace=True),
    nn.AdaptiveAvgPool2d(4),
    nn.Flatten(),
    nn.Linear(512, 5),
)
images = waves(2, 64)
explanation = ek.explain(network.eval(), images, method="saliency")
explanation.plot()

# %% A small vision transformer
# Patches, attention, layer norm, and an output in a dict, as libraries give it. The grid of the
# patches shows in the map: each is read by one linear layer.
#
# Alt: The same two pictures explained for a transformer: the map falls into squares of the size of
# a patch.


class SmallViT(nn.Module):
    """Patches of 8 × 8, two layers, four heads."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, stride=8)
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 5)

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).mT + self.places
        return {"logits": self.head(self.encoder(tokens).mean(1))}


torch.manual_seed(0)
transformer = SmallViT().eval()
ek.explain(transformer, images, method="smoothgrad", samples=20).plot()

# %% A question of one's own
# A target may be a function of the model's own output: here the lead of the first class over the
# second.
lead = ek.explain(
    transformer, images, lambda out: out["logits"][:, 0] - out["logits"][:, 1], "input_x_gradient"
)
[{"picture": i, "lead of class 0 over class 1": float(score)} for i, score in enumerate(lead.score)]
