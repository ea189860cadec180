"""What a heatmap cannot tell.

An attribution map always looks plausible. Five things to know before trusting one, each with
numbers.

Topic: Interpreting maps with care
Order: 40
"""

# %% Color is a choice
# One map, four scalings. The network and the map are the same; what seems important is not.
#
# Alt: One map of a happy face four times: faint when scaled to its maximum, denser with percentiles
# 99 and 90, and a bright cloud without its sign.
import torch

import explainkit as ek
from explainkit.render.compare import colored, images_figure
from explainkit_fer_hw3.data import load_synthetic

model = ek.load_model("fer_hw3/cnn")
faces = load_synthetic(split="all", count=350)
happy = ek.explain(model, faces.images[[10]], method="saliency")
scalings = ["max", "percentile:99", "percentile:90", "percentile:97:absolute"]
images_figure(
    [colored(happy.heatmap(), scaling)[0] for scaling in scalings],
    scalings,
    title="One saliency map, four scalings",
)

# %% An untrained network has maps, too
# The same face in a network with random weights. What both rows have in common comes from the image
# and the architecture, not from training.
#
# Alt: Two rows of four maps of one face: saliency, input times gradient, guided backpropagation and
# occlusion. Top: the trained network; bottom: random weights.
from explainkit_fer_hw3.models import CNN, build_cnn

torch.manual_seed(0)
untrained = build_cnn().eval()
untrained.explainkit_spec = CNN
names = ["saliency", "input_x_gradient", "guided_backprop", "occlusion"]
both = [ek.explain(one, faces.images[[10]], "happy", names) for one in (model, untrained)]
images_figure(
    [colored(one.heatmap())[0] for found in both for one in found],
    names * 2,
    columns=4,
    title="Maps of one face for happy",
    subtitle="top: the trained network; bottom: the same network with random weights",
)

# %%
# The rank correlation of the absolute values of the two maps, per method. A method whose maps
# hardly change when the weights are randomized can't show what was learned (Adebayo et al., 2018,
# arXiv:1810.03292).


def correlation(first, second):
    """Spearman's rank correlation of the absolute values."""
    ranks = [one.heatmap().abs().flatten().argsort().argsort().double() for one in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


[
    {"method": name, "trained against random": correlation(first, second)}
    for name, first, second in zip(names, *both, strict=True)
]

# %% Wrong predictions have plausible maps, too
# Two faces that the fully connected network misclassifies, and one that it classifies correctly.
# The maps don't tell which is which.
#
# Alt: Three synthetic faces, two misclassified and one classified correctly, with probabilities and
# maps for the predicted class.
from explainkit.render.figure import study_figure

dnn = ek.load_model("fer_hw3/dnn")
with torch.no_grad():
    confidence, predicted = dnn(faces.images).softmax(1).max(1)
wrong = torch.where(predicted != faces.labels, confidence, -1).argsort(descending=True)[:2]
correct = torch.where(
    predicted == faces.labels, (confidence - confidence[wrong[0]]).abs(), 2
).argmin()
shown = torch.stack([*wrong, correct])
three = ek.explain(dnn, faces.images[shown], method="integrated_gradients", steps=20)
study_figure(three, labels=faces.labels[shown].tolist(), scalings=["percentile:97"])

# %% Where it cannot look
# Zero attribution may mean that pixels didn't matter, or that the network can't see them. The CNN's
# pooling layers drop the last row and column of odd maps, so the pixels at the right and lower edge
# reach no output: changing them doesn't change the scores.
some = faces.images[:14]
seen = ek.explain(model, some, method="saliency").attribution.abs().amax((0, 1)) > 0
reach = [int(seen.any(axis).nonzero().max()) + 1 for axis in (1, 0)]
changed = some.clone()
changed[..., reach[0] :, :] = changed[..., reach[1] :] = 9.0
with torch.no_grad():
    same = torch.equal(model(changed), model(some))
[
    {
        "rows with any saliency": f"1 to {reach[0]} of {seen.shape[0]}",
        "columns": f"1 to {reach[1]} of {seen.shape[1]}",
        "scores with the other pixels white": "bit-identical" if same else "different",
    }
]

# %% Do relevant pixels matter to the network?
# The score should drop when the most relevant pixels are hidden. Here a fifth of the pixels is set
# to the mean gray: the most relevant according to a map, or a random fifth (mean of 10 samples).
# The mean drop of the score over 7 faces, one per class:
subset = faces.images[:14:2]
with torch.no_grad():
    target = model(subset).argmax(1)
    before = model(subset).gather(1, target[:, None])[:, 0]


def drop(importance):
    """Mean drop of the score when the most relevant fifth of the pixels is hidden."""
    order = importance.flatten(1).argsort(descending=True)[:, : 48 * 48 // 5]
    hidden = subset.flatten(1).scatter(1, order, 0.0).reshape(subset.shape)
    with torch.no_grad():
        return float((before - model(hidden).gather(1, target[:, None])[:, 0]).mean())


generator = torch.Generator().manual_seed(0)
random = [drop(torch.rand(7, 48, 48, generator=generator)) for _ in range(10)]
found = {
    name: drop(ek.explain(model, subset, target, name, **options).heatmap())
    for name, options in {
        "saliency": {},
        "integrated_gradients": {"steps": 10},
        "occlusion": {},
    }.items()
}
[{"hidden first": name, "mean drop of the score": value} for name, value in found.items()] + [
    {"hidden first": "random pixels", "mean drop of the score": sum(random) / len(random)}
]
