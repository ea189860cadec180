"""Where each expression is seen.

One map explains one face. The mean over many faces of a class shows where the network looks for
that expression, and exact part masks turn this into numbers.

Topic: Where the network looks
Order: 30
"""

# %% The mean map of each class
# DeepLIFT of 8 faces per class, for their true class. Synthetic faces are all framed in the same
# way, with the eyes near the same position, so mean images and mean maps are not blurred.
#
# Alt: Two rows of seven images. Top: the mean face of each expression; bottom: the mean absolute
# map of its faces, bright where it is large.
import torch

import explainkit as ek
from explainkit.render.compare import colored, images_figure
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES, PARTS

model = ek.load_model("fer_hw3/cnn")
faces = load_synthetic(split="public_test", count=56)
found = ek.explain(model, faces.images, faces.labels, "deeplift")
sizes = found.heatmap().abs()
mean_faces = [faces.pixels[faces.labels == c].float().mean(0)[0] / 255 for c in range(7)]
mean_maps = torch.stack([sizes[faces.labels == c].mean(0) for c in range(7)])
images_figure(
    [face.numpy() for face in mean_faces] + colored(mean_maps, "max:absolute"),
    [*CLASS_NAMES, *(f"up to {float(one.max()):.2g}" for one in mean_maps)],
    title="Mean face and mean |DeepLIFT| of each class",
    subtitle="8 synthetic faces per class; each map from 0 (black) to its largest mean (yellow)",
)

# %% In numbers
# The density of a part: its share of the map divided by its share of the image. A uniform map has
# 1. The three parts with the highest density in each class:
rows = []
for c, name in enumerate(CLASS_NAMES):
    of_class = faces.labels == c
    parts, weights = faces.parts[of_class], sizes[of_class]
    density = {}
    for p, part in enumerate(PARTS):
        here = parts == p
        if here.float().mean() > 0.002:
            density[part] = float(weights[here].sum() / weights.sum() / here.float().mean())
    best = sorted(density, key=density.get, reverse=True)[:3]
    rows.append(
        {"expression": name}
        | {f"{number}.": f"{part} ({density[part]:.1f})" for number, part in enumerate(best, 1)}
    )
rows

# %% Does the network use these parts?
# A map is a claim; relaxing one part and nothing else tests it. The mean drop of the true class's
# score when the mouth, the brows or another part shows no expression:
from explainkit_fer_hw3.faces import PART_UNITS, draw

mean, std = model.explainkit_spec.mean[0], model.explainkit_spec.std[0]


def scores(label, **how):
    """The scores of one class for 8 faces of it."""
    found = draw([label] * 8, seed=99, **how)
    pixels = torch.from_numpy(found.pixels).float() / 255
    with torch.no_grad():
        return model((pixels - mean) / std)[:, label]


rows = []
for c, name in enumerate(CLASS_NAMES):
    if name != "neutral":
        before = scores(c)
        drops = {part: (before - scores(c, neutral=part)).mean() for part in PART_UNITS}
        rows.append(
            {"expression": name} | {f"neutral {part}": float(drop) for part, drop in drops.items()}
        )
rows
