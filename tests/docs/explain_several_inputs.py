"""Snippets of docs/how-to/explain-several-inputs.md; run by tests/test_docs.py."""

import torch
from torch import nn


class Fusion(nn.Module):
    """Scores of an image and a depth map."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(4, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, rgb, depth):
        hidden = self.features(torch.cat([rgb, depth], 1)).relu()
        return self.head(hidden.mean((2, 3)))


model = Fusion().eval()
rgb, depth = torch.rand(2, 3, 24, 32), torch.rand(2, 1, 24, 32)

# --8<-- [start:both]
import explainkit as ek

found = ek.explain(model, (rgb, depth), 1, "integrated_gradients")
found.get(input="depth").plot()
# --8<-- [end:both]
assert [one.input for one in found] == ["rgb", "depth"]

# --8<-- [start:one]
inputs = {"rgb": rgb, "depth": depth}
ek.explain(model, inputs, 1, "integrated_gradients", wrt="depth")
# --8<-- [end:one]

# --8<-- [start:baseline]
ek.explain(model, inputs, 1, "integrated_gradients", baseline={"rgb": rgb.mean(0), "depth": 0})
# --8<-- [end:baseline]


class Captioned(nn.Module):
    """Scores of an image and a text."""

    def __init__(self):
        super().__init__()
        self.words, self.features = nn.Embedding(100, 8), nn.Conv2d(3, 8, 3)

    def forward(self, input_ids, pixel_values):
        return self.words(input_ids).mean(1) * self.features(pixel_values).relu().mean((2, 3))


captioned = Captioned().eval()
ids = torch.randint(0, 100, (2, 5))

# --8<-- [start:text]
inputs = {"pixel_values": rgb, "input_ids": ids}
[explanation] = ek.explain(captioned, inputs, 3, "occlusion", window=8)
# --8<-- [end:text]
assert explanation.input == "pixel_values"

# --8<-- [start:data]
scenes = {f"scene {i}": {"rgb": rgb[i], "depth": depth[i]} for i in range(2)}
store = ek.batch(scenes, model, ["saliency", "occlusion"], "maps", window=8)
store["scene 1"].get(method="occlusion", input="depth").plot()
# --8<-- [end:data]
assert store.methods[1] == "explainkit/saliency depth"
