"""Snippets of docs/how-to/explain-a-volume.md; run by tests/test_docs.py."""

# --8<-- [start:model]
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv3d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool3d(2),
    nn.Conv3d(8, 8, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool3d(1),
    nn.Flatten(),
    nn.Linear(8, 2),
).eval()
scan = torch.rand(1, 1, 12, 24, 24)  # batch, channel, depth, height, width
# --8<-- [end:model]

# --8<-- [start:explain]
import explainkit as ek

found = ek.explain(model, scan, 1, method=["integrated_gradients", "gradcam"])
found[1].attribution.shape  # torch.Size([1, 1, 12, 24, 24])
# --8<-- [end:explain]
assert found[1].attribution.shape == scan.shape

# --8<-- [start:draw]
found.plot(slices="strongest").savefig("slices.png")
found.report("report.html")
# --8<-- [end:draw]

# --8<-- [start:occlusion]
ek.explain(model, scan, 1, "occlusion", window=(6, 8, 8), stride=(6, 8, 8), baseline="mean")
# --8<-- [end:occlusion]

# --8<-- [start:layer]
ek.explain(model, scan, 1, "gradcam", layer="1", upsample="nearest")
# --8<-- [end:layer]
