"""Snippets of docs/how-to/explain-your-own-network.md; run by tests/test_docs.py."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

Path("nets.py").write_text(
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(\n"
    "        nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),\n"
    "        nn.Linear(128, 3),\n"
    "    )\n"
)
Path("classes.txt").write_text("cat\ndog\ncrane\n")
Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save("photo.png")

# --8<-- [start:code]
import explainkit as ek

model = ek.load_model(
    "nets.py:make",  # a function without arguments, or a module
    class_names=["cat", "dog", "crane"],
    mean=0.5,
    std=0.5,
    size=64,
)
explanation = ek.explain(model, "photo.png", "dog", "gradcam")
explanation.on_original()  # one map per image, in pixels of the photo
# --8<-- [end:code]
assert explanation.on_original()[0].shape == (90, 120)

torch.save({"state_dict": {f"net.{k}": v for k, v in model.state_dict().items()}}, "last.ckpt")

# --8<-- [start:weights]
model = ek.load_model("nets.py:make", weights="last.ckpt", allow_pickle=True)
# --8<-- [end:weights]

# --8<-- [start:adapt]
from torch import nn

from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize

net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
model = ek.adapt(
    net.eval(),
    preprocessing=Preprocessing((Resize(72), CenterCrop(64)), mean=(0.5,) * 3, std=(0.5,) * 3),
    class_names=["healthy", "ill"],
)
ek.explain(model, "photo.png", "ill")
# --8<-- [end:adapt]


# --8<-- [start:function]
def brightness(images):  # a numpy array [batch, channel, height, width], to scores
    means = images.mean((1, 2, 3))
    return np.stack([-means, means], 1)


dark_or_bright = ek.adapt(brightness, class_names=["dark", "bright"])
ek.explain(dark_or_bright, torch.rand(1, 3, 32, 32), "bright", "occlusion")
# --8<-- [end:function]

# --8<-- [start:names]
from explainkit.adapters.class_names import read_class_names

names = read_class_names("classes.txt")  # one per line, or JSON
model = ek.load_model("nets.py:make", class_names=names)
# --8<-- [end:names]
assert names == ("cat", "dog", "crane")
