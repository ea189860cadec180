"""Any model.

Your own network needs no registration and no change: here a CNN for RGB images and a small vision
transformer. Both are trained on a small task whose solution is known.

Topic: First steps
Order: 20
"""

# %% A task with a known solution
# RGB images with a disc at a random position in noise; the class is the disc's color. A good map
# highlights the disc and nothing else.
#
# Alt: Six noisy color images, each with a red, green or blue disc at a different position.
import torch
from torch import nn

import explainkit as ek
from explainkit.render.compare import images_figure

COLORS = ("red", "green", "blue")


def discs(count, seed):
    """Images [count, 3, 48, 48] in [0, 1], the colors of the discs, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    center = 10 + 28 * torch.rand(count, 2, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    disc = (y - center[:, 0]).square() + (x - center[:, 1]).square() < 64
    images = 0.35 + 0.3 * torch.rand(count, 3, 48, 48, generator=generator)
    images = images + 0.25 * disc[:, None] * nn.functional.one_hot(labels, 3)[..., None, None]
    return images.clamp(0, 1), labels, disc


images, labels, disc = discs(6, seed=1)
images_figure([one.permute(1, 2, 0).numpy() for one in images], [COLORS[k] for k in labels])

# %% Two networks
# A CNN with in-place ReLUs and a residual connection, and a transformer that returns a dict, as the
# models of many libraries do. Neither depends on explainkit.


class SmallCNN(nn.Module):
    """Functional and in-place ReLUs, a residual connection, global pooling."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, stride=2)
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 32, 3, stride=2)
        self.head = nn.Linear(32, 3)

    def forward(self, pixels):
        features = torch.relu_(self.stem(pixels))
        features = features + nn.functional.relu(self.block(features))
        return self.head(torch.relu(self.last(features)).mean((2, 3)))


class SmallViT(nn.Module):
    """Patches of 6 × 6, two layers, four heads."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 6, stride=6)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 64, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).mT + self.positions
        return {"logits": self.head(self.encoder(tokens).mean(1))}


def scores(model, images):
    """The logits of either network."""
    out = model(images)
    return out["logits"] if isinstance(out, dict) else out


torch.manual_seed(0)
networks = {"cnn": SmallCNN(), "vit": SmallViT()}
train, classes, _ = discs(384, seed=0)
test, truth, _ = discs(96, seed=2)
rows = []
for name, network in networks.items():
    optimizer = torch.optim.Adam(network.parameters(), 6e-3)
    for step in range(150):
        batch = torch.arange(step * 64, step * 64 + 64) % len(train)
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores(network, train[batch]), classes[batch]).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        accuracy = float((scores(network, test).argmax(1) == truth).double().mean())
    size = sum(p.numel() for p in network.parameters())
    rows.append({"network": name, "parameters": size, "accuracy on new images": accuracy})
rows

# %% The CNN
# No layer has to be named: class activation maps use the last layer with spatial positions that
# the score depends on. The maps highlight the red and the blue disc. The network predicts green
# from the absence of the other two colors, so its evidence is spread over the whole image: a map
# that highlights no object can be correct.
#
# Alt: Three images with discs; under each its maps by DeepLIFT, LRP, Grad-CAM and occlusion: red
# on the red and on the blue disc, scattered over the image for the green one.
METHODS = ["deeplift", "lrp", "gradcam", "occlusion"]
found = {"cnn": ek.explain(networks["cnn"], images[:3], labels[:3], METHODS)}
found["cnn"].plot()

# %% The transformer
# The same methods, and methods that use attention. Rules apply to operators, not to modules, so
# attention and layer norm are covered in any implementation. The transformer uses only a few
# patches. Grad-CAM is flat: after the last block every token contains the class, because attention
# has mixed them. That is a property of this layer; another one can be passed.
#
# Alt: The same three images; under each the maps of the transformer. DeepLIFT marks two or
# three patches at or near the disc, attention rollout the same ones; Grad-CAM is uniform; LeGrad is
# strongest at the disc for green and blue.
METHODS = ["deeplift", "gradcam", "legrad", "attention_rollout"]
found["vit"] = ek.explain(networks["vit"], images[:3], labels[:3], METHODS)
found["vit"].plot()

# %% Do the maps find the disc?
# The share of the absolute map on the disc, divided by the disc's share of the image: a uniform map
# has density 1. DeepLIFT distributes the whole change of the score from its baseline, so its
# completeness gap should be zero up to rounding, through attention too.
rows = []
for name, maps in found.items():
    for one in maps:
        sizes = one.heatmap().abs()
        density = (sizes * disc[:3]).sum() / sizes.sum() / disc[:3].double().mean()
        gap = one.diagnostics.get("completeness_gap")
        rows.append(
            {
                "network": name,
                "method": one.method.rpartition("/")[2],
                "at layer": one.layer or "",
                "density on the disc": float(density),
                "completeness gap": "" if gap is None else f"{float(gap.max()):.0g}",
            }
        )
rows

# %% Other targets, and maps of a layer
# A target may be a function of the model's output or an expression: here the difference of the
# first two logits. With `at=` the map explains a layer's output instead of the image.
difference = ek.explain(
    networks["vit"], images, lambda out: out["logits"][:, 0] - out["logits"][:, 1]
)
same = ek.explain(networks["vit"], images, "logit(0) - logit(1)", "input_x_gradient", at="patches")
[
    {
        "image": color,
        "logit(red) − logit(green)": float(difference.score[i]),
        "as an expression": float(same.score[i]),
        "shape of the layer's map": "×".join(map(str, same.attribution.shape[1:])),
    }
    for i, color in enumerate(COLORS)
]
