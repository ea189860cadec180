"""Snippets of docs/how-to/write-a-plugin.md; run by tests/test_docs.py."""

# --8<-- [start:spec]
from importlib.resources import files

from safetensors.torch import load
from torch import nn

from explainkit.interfaces import ModelSpec


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2304, 10)
    )


def weights():
    return load((files("my_plugin") / "digits.safetensors").read_bytes())


DIGITS = ModelSpec(
    build=build,
    weights=weights,
    class_names=tuple("0123456789"),
    image_shape=(1, 28, 28),
    mean=(0.1307,),
    std=(0.3081,),
    layer="1",
    summary="One convolution on handwritten digits.",
)
# --8<-- [end:spec]

# --8<-- [start:hook]
from explainkit import hookimpl


@hookimpl
def explainkit_models():
    return {"digits": "my_plugin.models:DIGITS"}


# --8<-- [end:hook]

# --8<-- [start:check]
import torch

import explainkit as ek
from explainkit.catalog.weights import build as built

fresh = build().state_dict()
net = built("digits", DIGITS, fresh)  # as load_model("digits") does
image = (torch.rand(1, 1, 28, 28) - 0.1307) / 0.3081
explanation = ek.explain(net, image, "7", "gradcam")
assert explanation.layer == "1"
assert explanation.target_name(0) == "7"
# --8<-- [end:check]
