"""Class ideals.

Which image would a network call the happiest face? Ascent from noise answers with what the
network exaggerates, which need not be a face to us. Ascent from a face says what the network would
change in it.

Topic: Inside the networks
Order: 36
Command: explainkit run fer_hw3 classes
"""

# %% Two networks' ideals
# The images that raise each class's score most, within valid gray values and in spite of small
# shifts and turns.
#
# Alt: Two rows of seven images, one for each expression: above the CNN's ideals, below the DNN's.
import torch

import explainkit as ek
from explainkit.render.compare import images_figure
from explainkit.render.heatmap import to_pixels
from explainkit_fer_hw3.faces import CLASS_NAMES

networks = {name: ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn")}
ideals = {name: ek.maximize(net, "classes()", steps=64) for name, net in networks.items()}


def images(found):
    """The images of a visualization, as they look."""
    return [to_pixels(image, found.mean, found.std)[0] for image in found.images]


images_figure(
    [one for found in ideals.values() for one in images(found)],
    [f"{name}: {label}" for name in ideals for label in CLASS_NAMES],
    title="What each network would call the ideal of a class",
    subtitle="64 steps in the Fourier basis",
)

# %% How sure it is, and how sure the other
# A network should be certain of its own ideals. If they showed an expression, the other network
# would read it too.
rows = []
for c, label in enumerate(CLASS_NAMES):
    row = {"class": label}
    for name, other in (("cnn", "dnn"), ("dnn", "cnn")):
        image = ideals[name].images[[c]]
        with torch.no_grad():
            own, foreign = (networks[n](image).softmax(1)[0, c] for n in (name, other))
        row[f"{name}'s ideal, read by {name}"] = float(own)
        row[f"by {other}"] = float(foreign)
    rows.append(row)
rows

# %% From a synthetic face
# The same ascent from a neutral face: what would the network change to see another expression in
# it? A penalty on the total variation keeps the changes smooth, at the price of the fine detail.
#
# Alt: A neutral synthetic face, and what becomes of it when the CNN's score of each of the six other
# expressions is raised.
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
neutral = CLASS_NAMES.index("neutral")
start = faces.images[int((faces.labels == neutral).nonzero()[0])]
changed = ek.maximize(
    networks["cnn"],
    [f'logit("{label}") - 8 * tv()' for label in CLASS_NAMES[:neutral]],
    start=start,
    steps=24,
)
images_figure(
    [to_pixels(start, changed.mean, changed.std)[0], *images(changed)],
    ["neutral", *(f"more {label}" for label in CLASS_NAMES[:neutral])],
    title="A neutral face on its way to six expressions, as the CNN sees them",
)
