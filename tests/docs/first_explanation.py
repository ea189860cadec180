"""Snippets of docs/tutorial/first-explanation.md; run by tests/test_docs.py."""

# --8<-- [start:explain]
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="public_test")
image, label = faces[3]

explanation = ek.explain(model, image[None], "happy", method="integrated_gradients", tolerance=0.01)
# --8<-- [end:explain]

# --8<-- [start:read]
explanation.score  # the explained score: the logit of "happy"
explanation.attribution.sum()  # the part attributed to the pixels
explanation.diagnostics["completeness_gap"]
explanation.diagnostics["steps"]
# --8<-- [end:read]

# --8<-- [start:keep]
explanation.plot(scaling="percentile:99").savefig("happy.png")
explanation.save("happy")
loaded = ek.Explanation.load("happy")
# --8<-- [end:keep]

# --8<-- [start:own]
import torch
from torch import nn

mine = nn.Sequential(
    nn.Conv2d(3, 8, 3),
    nn.ReLU(inplace=True),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 10),
).eval()

explanation = ek.explain(mine, torch.rand(2, 3, 224, 180), target=7, method="smoothgrad", samples=5)
explanation.diagnostics["standard_error"]  # per pixel
# --8<-- [end:own]

assert float(loaded.diagnostics["completeness_gap"]) <= 0.01
assert explanation.attribution.shape == (2, 3, 224, 180)
