"""Snippets of docs/how-to/use-a-model.md; run by tests/test_docs.py."""

# --8<-- [start:registered]
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")  # with its weights, in eval mode
faces = ek.load_dataset("fer_hw3/synthetic", split="public_test")

explanation = ek.explain(model, faces.images[:4])
explanation.class_names  # ('angry', 'disgust', …)
explanation.mean, explanation.std  # images are (pixel / 255 − mean) / std
# --8<-- [end:registered]
assert explanation.class_names[0] == "angry"

# --8<-- [start:own]
import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 4)

    def forward(self, pixels):
        features = self.features(pixels).mean((2, 3))
        return {"logits": self.head(features), "features": features}


net = Detector().eval()
images = torch.rand(2, 3, 32, 32)
explanation = ek.explain(net, images, method="gradcam")
explanation.layer  # 'features', the default layer
# --8<-- [end:own]
assert explanation.layer == "features"

# --8<-- [start:questions]
ek.explain(net, images, 2)  # one class, by its index or its name
ek.explain(net, images, [2, 0])  # one class per image
ek.explain(net, images, targets="all")  # every class: a list of explanations
ek.explain(net, images, "logit(2) - logit(0)")  # one class against another
ek.explain(net, images, 'channel("features.0", 5)')  # the mean of a channel
ek.explain(net, images, lambda out: out["features"].norm(dim=1))  # any function of the output
# --8<-- [end:questions]

# --8<-- [start:tasks]
sick = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1)).eval()  # one logit
one = ek.explain(sick, images, class_names=("healthy", "ill"))
one.predicted, one.probabilities  # by the logit's sign; [2, 2], of each side
one.score  # of the predicted side: −logit for "healthy", the logit for "ill"

ek.explain(net, images, 2, task="multilabel").predicted  # [2, 4]: labels with a logit above 0
ek.explain(sick, images, task="regression").score  # the value itself
# --8<-- [end:tasks]
assert one.task == "binary"
assert bool((one.score >= 0).all())


# --8<-- [start:output]
class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.box, self.label = nn.Flatten(), nn.Linear(3072, 4), nn.Linear(3072, 2)

    def forward(self, pixels):
        features = self.body(pixels)
        return self.box(features), {"label": self.label(features)}


ek.explain(Heads().eval(), images, output="1.label")  # an index, key or attribute, or a path
# --8<-- [end:output]
