"""What the filters look for.

Gradient ascent finds an image that a filter answers to most. What it shows is a caricature, so
synthetic faces that excite the same filter stand beside it.

Topic: Inside the networks
Order: 34
Command: explainkit run fer_hw3 filters --layer 13 --units 0-3 --maximizer fourier --exemplars
"""

# %% From edges to parts
# Four filters of each of four convolutions, in their order, behind the rectifier that follows:
# before it, the mean over the map of one of the first asks for a flat image. A filter of the
# first sees 3 × 3 pixels, an edge or a shade; the deeper, the larger the window and the richer the
# pattern.
#
# Alt: Four rows of four images, one row for each convolution: the deeper, the larger and the
# richer the patterns.
import torch

import explainkit as ek
from explainkit.render.compare import images_figure
from explainkit.render.heatmap import to_pixels

model = ek.load_model("fer_hw3/cnn")
LAYERS = {"1": "convolution 1", "7": "convolution 3", "13": "convolution 5", "15": "convolution 6"}
found = {
    layer: ek.maximize(model, [f'channel("{layer}", {unit})' for unit in range(4)], steps=96)
    for layer in LAYERS
}
images_figure(
    [to_pixels(image, one.mean, one.std)[0] for one in found.values() for image in one.images],
    [f"{name}, filter {unit}" for name in LAYERS.values() for unit in range(4)],
    columns=4,
    title="What 16 filters answer to most",
    subtitle="96 steps in the Fourier basis, with small shifts and turns at each step",
)

# %% Is that more than a face does?
# The filter's answer to its image against its strongest answer to 140 synthetic faces, both the mean
# over the whole map. Where its image is far above the best face it is an exaggeration, which is
# what it is for; the question what the filter means *on faces* is then answered by the faces.
from explainkit.layers import capture

faces = ek.load_dataset("fer_hw3/synthetic", split="public_test")
real = faces.images[:140]
with torch.no_grad(), capture(model, LAYERS) as outputs:
    model(real)
rows = []
for layer, name in LAYERS.items():
    means = outputs[layer][0].mean((2, 3))[:, :4]
    for unit in range(4):
        score, best = float(found[layer].score[unit]), float(means[:, unit].max())
        rows.append({"filter": f"{name}, {unit}", "its image": score, "best face": best})
rows

# %% Where faces excite it
# The same question asked of faces: the patch of the size of the filter's window that excites it
# most. What these patches have in common is the better guess at what the filter is for (Borowski
# et al., 2021, arXiv:2010.12606).
#
# Alt: Four rows, one for each of four filters of the fifth convolution: its synthetic image, then
# the four patches of synthetic faces that excite it most.
from explainkit.activation_maximization.exemplars import find_exemplars, receptive_fields

exemplars = find_exemplars(model, "13", real, k=4)
windows = receptive_fields(model, "13", tuple(real.shape[1:]))
images, titles = [], []
for unit in range(4):
    images.append(to_pixels(found["13"].images[unit], found["13"].mean, found["13"].std)[0])
    titles.append(f"filter {unit}")
    for number, place in zip(exemplars.top[unit], exemplars.top_place[unit], strict=True):
        patch = windows.at(*place.tolist()).crop(real[number])
        images.append(to_pixels(patch, found["13"].mean, found["13"].std)[0])
        titles.append(f"face {number}")
images_figure(
    images, titles, columns=5, title="Convolution 5: synthetic images, and patches of faces"
)
