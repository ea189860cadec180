"""Snippets of docs/how-to/from-a-photo.md; run by tests/test_docs.py."""

import warnings

import numpy as np
import torch
from PIL import Image
from torch import nn

torch.manual_seed(0)
pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
Image.fromarray(pixels).save("photo.jpg")
Image.fromarray(np.swapaxes(pixels, 0, 1)).save("tall.png")
net = nn.Sequential(
    nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
).eval()

# --8<-- [start:explain]
import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize

trained_on = Preprocessing(
    (Resize(112), CenterCrop(96)), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
model = ek.adapt(net, preprocessing=trained_on, class_names=["cat", "dog"])

explanation = ek.explain(model, ["photo.jpg", "tall.png"], method="gradcam")
explanation.plot().savefig("heatmaps.png")
explanation.report("heatmaps.html")
# --8<-- [end:explain]
assert explanation.names == ("photo.jpg", "tall.png")
assert explanation.originals is not None
assert explanation.geometries is not None

# --8<-- [start:original]
values = explanation.on_original()[0]  # [120, 200] as photo.jpg; NaN where it was not seen
values.nanmean()
explanation.originals[0]  # the photo itself, uint8 [120, 200, 3]
explanation.geometries[0].seen()  # bool [120, 200]
# --8<-- [end:original]
assert values.shape == (120, 200)
assert torch.equal(~values.isnan(), explanation.geometries[0].seen())
assert explanation.originals[0].shape == (120, 200, 3)

# --8<-- [start:batch]
photos = ek.load_images(["photo.jpg", "tall.png"], model)
photos.inputs.shape  # [2, 3, 96, 96]
maps = ek.explain(model, photos, method=["gradcam", "integrated_gradients"])
maps.plot()
# --8<-- [end:batch]
assert photos.inputs.shape == (2, 3, 96, 96)

warnings.simplefilter("ignore")
# --8<-- [start:guess]
ek.load_images("photo.jpg", net).inputs.shape  # [1, 3, 120, 200], with a warning
ek.load_images(["photo.jpg", "tall.png"], net, size=96).inputs.shape  # [2, 3, 96, 96]
# --8<-- [end:guess]

# --8<-- [start:by_hand]
inputs, geometry = trained_on(Image.open("photo.jpg"))  # [3, 96, 96]
geometry.scale, geometry.offset  # a point y of the photo is at scale · y + offset in the input
geometry.to_original(torch.rand(96, 96))  # any map of the input, [120, 200]
# --8<-- [end:by_hand]
assert geometry == explanation.geometries[0]
