"""Only what matters, and from a real image.

Two ways to make maximizing images say more. With `alpha()`, the optimizer may leave pixels
transparent, so what stays opaque is what the unit needs. With `start=`, it begins at an image, so
the difference is what the unit lacks there.

Topic: Inside the networks
Order: 37
"""

# %% Only what matters
# Three filters of the CNN's fifth convolution, without and with an opacity. Transparent pixels show
# another random background at every step, and `alpha()`, the mean opacity, is subtracted from the
# objective, so that opacity has a cost.
#
# Alt: Three rows of three images: patterns that fill the image; the same filters' patterns on plain
# gray where they are transparent; and their opacity, white where it is high.
import torch

import explainkit as ek
from explainkit.render.compare import images_figure
from explainkit.render.heatmap import to_pixels

model = ek.load_model("fer_hw3/cnn")
UNITS = range(3)
units = [f'channel("13", {unit})' for unit in UNITS]
SIZE = {"shape": (1, 32, 32), "steps": 32}
whole = ek.maximize(model, units, **SIZE)
opaque = ek.maximize(model, [f"{unit} - 2 * alpha()" for unit in units], **SIZE)


def pixels(found):
    """The images of a visualization, in [0, 1]."""
    return [to_pixels(image, found.mean, found.std)[0] for image in found.images]


images_figure(
    [*pixels(whole), *pixels(opaque), *opaque.opacity[:, 0].numpy()],
    [f"filter {unit}" for unit in UNITS]
    + [f"opaque: {float(one.mean()):.0%}" for one in opaque.opacity]
    + ["opacity"] * 3,
    columns=3,
    title="Three filters of convolution 5",
    subtitle="top: no transparency; middle: over gray; bottom: opacity",
)

# %% What transparency costs
# The filter's activation for both images, as the mean over the map. With transparency it is usually
# lower, but gradient ascent takes another way and may also end higher.
with torch.no_grad():
    activations = [model[:14](found.images).mean((2, 3)) for found in (whole, opaque)]
[
    {
        "filter": unit,
        "without": float(activations[0][unit, unit]),
        "with transparency": float(activations[1][unit, unit]),
        "mean opacity": float(opaque.opacity[unit].mean()),
    }
    for unit in UNITS
]

# %% From a synthetic face
# Gradient ascent from a neutral face: which changes make the network predict another expression? A
# penalty on the total variation keeps the changes smooth, at the cost of fine detail.
#
# Alt: A neutral synthetic face, and four variants of it that maximize the CNN's score of another
# expression.
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES

neutral = CLASS_NAMES.index("neutral")
start = load_synthetic(split="all", count=neutral + 1).images[neutral]
WANTED = ["angry", "happy", "sad", "surprise"]
changed = ek.maximize(
    model,
    [f'logit("{label}") - 8 * tv()' for label in WANTED],
    start=start,
    steps=16,
)
images_figure(
    [to_pixels(start, changed.mean, changed.std)[0], *pixels(changed)],
    ["neutral", *(f"more {label}" for label in WANTED)],
    title="A neutral face, changed to raise four scores of the CNN",
)

# %% Small changes, for one network
# The probability of the new expression before and after, by the CNN that the image was made for and
# by the DNN. The change is the mean absolute difference of the gray values, which range from 0
# (black) to 1 (white). A change that convinces only the network that it was made for says more
# about that network than about the expression.
other = ek.load_model("fer_hw3/dnn")
std = model.explainkit_spec.std[0]
rows = []
for label, image in zip(WANTED, changed.images, strict=True):
    with torch.no_grad():
        before, after, foreign = (
            float(net(one[None]).softmax(1)[0, CLASS_NAMES.index(label)])
            for net, one in ((model, start), (model, image), (other, image))
        )
    rows.append(
        {"to": label, "change": float((image - start).abs().mean()) * std,
         "cnn before": before, "cnn after": after, "dnn after": foreign}
    )  # fmt: skip
rows
