"""Snippets of docs/how-to/explain-a-layer.md; run by tests/test_docs.py."""

import torch
from torch import nn

from explainkit.layers import layer_names


class Block(nn.Module):
    """Returns windows of the image, and the image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        windows = nn.functional.unfold(x, 8, stride=8).transpose(1, 2)
        return windows.flatten(0, 1), self.conv(x).relu()


class Net(nn.Module):
    """Scores of an image, read from the second output of a block."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, padding=1), Block(), nn.Linear(8, 3)

    def forward(self, images):
        _, hidden = self.block(self.stem(images).relu())
        return self.head(hidden.mean((2, 3)))


model, images = Net().eval(), torch.rand(2, 3, 24, 32)

# --8<-- [start:output]
import explainkit as ek

explanation = ek.explain(model, images, 1, "integrated_gradients", at="stem")
explanation.attribution.shape  # [2, 8, 24, 32], as the layer's output
# --8<-- [end:output]
assert explanation.attribution.shape == (2, 8, 24, 32)
assert layer_names(model) == ["stem", "block", "block.conv", "head"]

# --8<-- [start:input]
ek.explain(model, images, 1, "integrated_gradients", at="block:input")
# --8<-- [end:input]

# --8<-- [start:one]
ek.explain(model, images, 1, "integrated_gradients", at="block:output.1")
# --8<-- [end:one]

try:
    ek.explain(model, images, 1, at="block")
except ek.errors.ModelError as error:
    text = str(error)
assert text == (
    "expected one tensor from layer 'block' with a row for each image, got several: name one of "
    "'block:output.0' [24, 512], 'block:output.1' [2, 8, 24, 32]"
)

# --8<-- [start:several]
found = ek.explain(model, images, 1, "integrated_gradients", at=["stem", "block:output.1"])
found.get(at="stem").plot()
# --8<-- [end:several]
assert [one.at for one in found] == ["stem", "block:output.1"]

# --8<-- [start:elsewhere]
ek.explain(model, images, 1, "gradcam", layer="block:output.1")
ek.explain(model, images, 1, "conductance", layer="block:input")
ek.explain(model, images, 'channel("block:output.1", 5)', "saliency")
# --8<-- [end:elsewhere]
