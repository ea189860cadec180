"""Class maximization.

Which image does a network classify as happy with the highest score? Gradient ascent from noise
shows the features that the network relies on, exaggerated, and not necessarily a face.

Topic: Inside the networks
Order: 36
Command: explainkit run fer_hw3 classes
"""

# %% The maximizing images of two networks
# The images that maximize each class score, within valid gray values and under small random shifts
# and rotations.
#
# Alt: Two rows of seven images, one per expression. Top: images that maximize the CNN's class
# scores; bottom: the DNN's.
import torch

import explainkit as ek
from explainkit.render.compare import images_figure
from explainkit.render.heatmap import to_pixels
from explainkit_fer_hw3.faces import CLASS_NAMES

networks = {name: ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn")}
ideals = {name: ek.maximize(net, "classes()", steps=32) for name, net in networks.items()}


def images(found):
    """The images of a visualization, in [0, 1]."""
    return [to_pixels(image, found.mean, found.std)[0] for image in found.images]


images_figure(
    [one for found in ideals.values() for one in images(found)],
    [f"{name}: {label}" for name in ideals for label in CLASS_NAMES],
    title="Images that maximize each class score",
    subtitle="32 steps in the Fourier basis",
)

# %% Do they transfer to the other network?
# A network is confident about its own images. If they showed an expression, the other network would
# recognize it as well.
rows = []
for c, label in enumerate(CLASS_NAMES):
    row = {"class": label}
    for name, other in (("cnn", "dnn"), ("dnn", "cnn")):
        image = ideals[name].images[[c]]
        with torch.no_grad():
            own, foreign = (networks[n](image).softmax(1)[0, c] for n in (name, other))
        row[f"{name}'s image, probability by {name}"] = float(own)
        row[f"by {other}"] = float(foreign)
    rows.append(row)
rows
