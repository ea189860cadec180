"""What a heatmap cannot tell.

A map looks like an answer whatever the question was. Five things to know before one is believed,
each with its numbers.

Topic: Predictions maps with care
Order: 40
"""

# %% Color is a choice
# One map, four scalings. Nothing of the network differs between these images; what seems
# important does.
#
# Alt: One map of a happy face four times: faint when scaled to its maximum, ever denser with
# percentile 99 and 90, and without its sign a bright cloud.
import torch

import explainkit as ek
from explainkit.render.compare import colored, images_figure

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
happy = ek.explain(model, faces.images[[10]], method="saliency")
scalings = ["max", "percentile:99", "percentile:90", "percentile:97:absolute"]
images_figure(
    [colored(happy.heatmap(), scaling)[0] for scaling in scalings],
    scalings,
    title="One saliency map, four scalings",
)

# %% An untrained network has maps too
# The same face in a network with random weights, which knows nothing about faces. What is alike in
# both rows comes from the image and the architecture, not from what was learnt.
#
# Alt: Two rows of four maps of one face, by saliency, input times gradient, guided backpropagation
# and occlusion: above in the trained network, below in the random one.
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
    subtitle="above: the trained network; below: the same with random weights",
)

# %%
# The rank correlation of the two maps' absolute values, for each method. A method whose maps hardly
# change when all that was learnt is gone cannot tell what was learnt (Adebayo et al., 2018,
# arXiv:1810.03292).


def correlation(first, second):
    """Spearman's, of absolute values."""
    ranks = [one.heatmap().abs().flatten().argsort().argsort().double() for one in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


[
    {"method": name, "trained against random": correlation(first, second)}
    for name, first, second in zip(names, *both, strict=True)
]

# %% A wrong reading has a map as good as a right one
# Two faces that the fully connected network reads wrongly, and one that it reads rightly. Who could
# tell by the maps which is which?
#
# Alt: Three synthetic faces, two read wrongly and one rightly, with probabilities and maps for the
# class that was read.
from explainkit.render.figure import study_figure

dnn = ek.load_model("fer_hw3/dnn")
with torch.no_grad():
    confidence, read = dnn(faces.images).softmax(1).max(1)
sure = torch.where(read != faces.labels, confidence, -1).argsort(descending=True)[:2]
right = torch.where(read == faces.labels, (confidence - confidence[sure[0]]).abs(), 2).argmin()
shown = torch.stack([*sure, right])
three = ek.explain(dnn, faces.images[shown], method="integrated_gradients", steps=20)
study_figure(three, labels=faces.labels[shown].tolist(), scalings=["percentile:97"])

# %% Where it cannot look
# A map of nought may say that nothing there mattered, or that nothing there is seen. The CNN's
# poolings halve odd maps and drop their last row and column, so the pixels at the right and lower
# edge reach no output: whatever is there, the scores don't change by a bit.
some = faces.images[:14]
seen = ek.explain(model, some, method="saliency").attribution.abs().amax((0, 1)) > 0
reach = [int(seen.any(axis).nonzero().max()) + 1 for axis in (1, 0)]
painted = some.clone()
painted[..., reach[0] :, :] = painted[..., reach[1] :] = 9.0
with torch.no_grad():
    same = torch.equal(model(painted), model(some))
[
    {
        "rows with any saliency": f"1 to {reach[0]} of {seen.shape[0]}",
        "columns": f"1 to {reach[1]} of {seen.shape[1]}",
        "scores with the rest painted white": "equal to the bit" if same else "differ",
    }
]

# %% Does it matter to the network?
# The score should fall when what a map calls most relevant is hidden. Hidden here: a fifth of
# the pixels, set to the mean gray: the most relevant by a map, or a fifth at random (mean of 10
# draws). The mean fall of the score over 14 faces:
subset = faces.images[:14]
with torch.no_grad():
    target = model(subset).argmax(1)
    before = model(subset).gather(1, target[:, None])[:, 0]


def fall(importance):
    """Mean fall of the score when the fifth of the pixels that matter most is hidden."""
    order = importance.flatten(1).argsort(descending=True)[:, : 48 * 48 // 5]
    hidden = subset.flatten(1).scatter(1, order, 0.0).reshape(subset.shape)
    with torch.no_grad():
        return float((before - model(hidden).gather(1, target[:, None])[:, 0]).mean())


generator = torch.Generator().manual_seed(0)
random = [fall(torch.rand(14, 48, 48, generator=generator)) for _ in range(10)]
found = {
    name: fall(ek.explain(model, subset, target, name, **options).heatmap())
    for name, options in {
        "saliency": {},
        "integrated_gradients": {"steps": 20},
        "occlusion": {},
    }.items()
}
[{"hidden first": name, "mean fall of the score": value} for name, value in found.items()] + [
    {"hidden first": "pixels at random", "mean fall of the score": sum(random) / len(random)}
]
