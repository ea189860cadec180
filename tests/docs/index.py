"""The snippet of docs/index.md, here with a small network and noise; run by tests/test_docs.py.

docs/write_home.py runs the same lines with the network and the photo of the page.
"""

from pathlib import Path

import numpy as np
from PIL import Image

Path("net.py").write_text(
    "from torch import nn\n"
    "import explainkit as ek\n"
    "from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize\n"
    "def make():\n"
    "    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))\n"
    "    steps = Resize(36), CenterCrop(32)\n"
    "    return ek.adapt(net.eval(), preprocessing=Preprocessing(steps))\n"
)
Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(
    "chelsea.jpg"
)

# --8<-- [start:explain]
import explainkit as ek

model = ek.load_model("net.py:make")
found = ek.explain(model, "chelsea.jpg", method=["gradcam", "integrated_gradients", "occlusion"])
found.plot(cards=found.scorecards()).savefig("maps.png")
# --8<-- [end:explain]
assert found[0].on_original()[0].shape == (40, 60)
