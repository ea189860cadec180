"""What activates the filters.

Gradient ascent finds an image that maximally activates a filter. Such images exaggerate, so they
are shown beside the faces that activate the same filter.

Topic: Inside the networks
Order: 34
Command: explainkit run fer_hw3 filters --layer 13 --units 0-3 --maximizer fourier --exemplars
"""

# %% From edges to parts
# Four filters of each of four convolutions, after the ReLU that follows them: before the ReLU, a
# uniform image maximizes the mean of the first convolution. A filter of the first convolution sees
# 3 × 3 pixels, an edge or a brightness; deeper filters have larger receptive fields and respond to
# richer patterns. Images of 32 × 32 pixels are large enough: that is what the sixth convolution
# sees.
#
# Alt: Four rows of four images, one row per convolution: the deeper the layer, the larger and
# richer the patterns.
import torch

import explainkit as ek
from explainkit.render.compare import images_figure
from explainkit.render.heatmap import to_pixels

model = ek.load_model("fer_hw3/cnn")
LAYERS = {"1": "convolution 1", "7": "convolution 3", "13": "convolution 5", "15": "convolution 6"}
found = {
    layer: ek.maximize(
        model, [f'channel("{layer}", {unit})' for unit in range(4)], shape=(1, 32, 32), steps=32
    )
    for layer in LAYERS
}
images_figure(
    [to_pixels(image, one.mean, one.std)[0] for one in found.values() for image in one.images],
    [f"{name}, filter {unit}" for name in LAYERS.values() for unit in range(4)],
    columns=4,
    title="Images that maximally activate 16 filters",
    subtitle="32 steps in the Fourier basis, with small random shifts and rotations",
)

# %% Stronger than any face?
# The filter's activation for its image, and its highest activation among 140 synthetic faces, both
# as the mean over the map. If the image is far above the best face, it exaggerates. What the filter
# detects *in faces* is then better seen in the faces.
from explainkit.layers import capture
from explainkit_fer_hw3.data import load_synthetic

real = load_synthetic(split="public_test", count=140).images
with torch.no_grad(), capture(model, LAYERS) as outputs:
    model(real)
rows = []
for layer, name in LAYERS.items():
    means = outputs[layer][0].mean((2, 3))[:, :4]
    for unit in range(4):
        score, best = float(found[layer].score[unit]), float(means[:, unit].max())
        rows.append({"filter": f"{name}, {unit}", "maximizing image": score, "best face": best})
rows

# %% What activates it in faces
# The patches of faces, as large as the filter's receptive field, that activate it most. What these
# patches have in common often tells more about the filter than a maximizing image (Borowski et al.,
# 2021, arXiv:2010.12606).
#
# Alt: Four rows, one for each of four filters of the fifth convolution: the maximizing image, then
# the four patches of synthetic faces that activate it most.
from explainkit.activation_maximization.exemplars import find_exemplars, receptive_fields

exemplars = find_exemplars(model, "13", real, k=4)
fields = receptive_fields(model, "13", tuple(real.shape[1:]))
images, titles = [], []
for unit in range(4):
    images.append(to_pixels(found["13"].images[unit], found["13"].mean, found["13"].std)[0])
    titles.append(f"filter {unit}")
    for number, position in zip(exemplars.top[unit], exemplars.top_place[unit], strict=True):
        patch = fields.at(*position.tolist()).crop(real[number])
        images.append(to_pixels(patch, found["13"].mean, found["13"].std)[0])
        titles.append(f"face {number}")
images_figure(
    images, titles, columns=5, title="Convolution 5: maximizing images, and patches of faces"
)
