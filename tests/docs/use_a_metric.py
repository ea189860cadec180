"""Snippets of docs/how-to/use-a-metric.md; run by tests/test_docs.py."""

# --8<-- [start:use]
import explainkit as ek
from explainkit.metrics import deletion, road, srg

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="public_test").images[:2]
explanation = ek.explain(model, faces, method="integrated_gradients", steps=10)

gain = srg(model, faces, explanation.attribution, explanation.target)  # one number per image
road(model, faces, explanation.attribution, explanation.target, shares=(0.1, 0.3, 0.5))
# --8<-- [end:use]
assert gain.shape == (2,)

# --8<-- [start:probability]
from torch import nn

probable = nn.Sequential(model, nn.Softmax(1))
area = deletion(probable, faces, explanation.attribution, explanation.target)
# --8<-- [end:probability]
assert ((area >= 0) & (area <= 1)).all()

# --8<-- [start:mask]
import torch

from explainkit.metrics import area_share, mass_accuracy, rank_accuracy

mouth = torch.zeros(2, 48, 48, dtype=torch.bool)
mouth[:, 32:42, 14:34] = True
mass_accuracy(explanation.attribution, mouth)
rank_accuracy(explanation.attribution, mouth)
area_share(mouth)  # what a map that knows nothing has on average
# --8<-- [end:mask]
assert (area_share(mouth) == 200 / 48**2).all()

# --8<-- [start:method]
from explainkit.methods import SmoothGrad
from explainkit.metrics import max_sensitivity, mprt

mprt(model, faces, SmoothGrad(samples=2))
max_sensitivity(model, faces, "saliency", samples=4)
# --8<-- [end:method]
