"""The study's two networks: a convolutional one, and a fully connected one of nearly its size."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files

from safetensors.torch import load
from torch import Tensor, nn

from explainkit.adapters.preprocessing import CenterSquare, Preprocessing, Resize
from explainkit.errors import ModelError
from explainkit.interfaces import ModelSpec
from explainkit_fer_hw3.calibration import calibration
from explainkit_fer_hw3.faces import CLASS_NAMES

MEAN, STD = 0.5077, 0.2550
"""Mean and standard deviation of FER2013's training images, in units of pixel / 255."""

PHOTO = Preprocessing(
    # the crop comes first: resampling with a box would blend in pixels outside it
    (CenterSquare(), Resize(48, "exact", "lanczos")), (MEAN,), (STD,), channels=1,
)  # fmt: skip
"""How a photo becomes an input: its central square, gray, resized."""

REACH = {"cnn": 43, "dnn": 48}
"""Rows and columns, from the upper left, that a network's output depends on. The CNN's pooling
layers drop the last row and column of odd maps: it ignores the last five pixels."""


def build_cnn() -> nn.Sequential:
    """Six 3×3 convolutions of 128-128-256-256-512-512 channels, then 2048-128-64-7.

    The first convolution is padded by 1, the others are not; 2×2 max pooling and channel
    dropout follow each pair. 4,845,063 parameters, as in the study.

    Examples:
        >>> sum(p.numel() for p in build_cnn().parameters())
        4845063
    """
    layers: list[nn.Module] = []
    channels = 1
    for width, dropout in ((128, 0.05), (256, 0.05), (512, 0.1)):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1 if channels == 1 else 0),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(dropout),
        ]
        channels = width
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(2048, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(64, len(CLASS_NAMES)),
    )


def build_dnn() -> nn.Sequential:
    """Five linear layers, 2304-1216-1024-768-200-7, with dropout: 4,991,495 parameters.

    The study gives the total and the number of layers but not the widths, which are chosen here
    to match the total.

    Examples:
        >>> sum(p.numel() for p in build_dnn().parameters())
        4991495
    """
    widths = (48 * 48, 1216, 1024, 768, 200)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, width in enumerate(widths[1:]):
        layers += [nn.Linear(widths[i], width), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], len(CLASS_NAMES)))


def packaged_weights(file: str) -> Mapping[str, Tensor]:
    """The weights that ship with the plugin, verified by their hash, in float32.

    The model cards are beside them: ``weights/cnn.md`` and ``weights/dnn.md``.
    """
    folder = files("explainkit_fer_hw3") / "weights"
    try:
        expected = json.loads((folder / "hashes.json").read_text())[file]
        data = (folder / file).read_bytes()
    except (OSError, KeyError) as error:
        raise ModelError(
            f"expected packaged weights {file}, found none ({error}): reinstall explainkit-fer-hw3"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelError(
            f"expected {file} to have sha256 {expected[:12]}…, got {found[:12]}…: the file was "
            "modified; reinstall explainkit-fer-hw3"
        )
    return {name: tensor.float() for name, tensor in load(data).items()}


def _control(model: str) -> tuple[int, int] | None:
    found = calibration(model)
    return None if found is None else found.positive_control


CNN = ModelSpec(
    build=build_cnn,
    weights=partial(packaged_weights, "cnn.safetensors"),
    class_names=CLASS_NAMES,
    image_shape=(1, 48, 48),
    mean=(MEAN,),
    std=(STD,),
    preprocessing=PHOTO,
    dataset="fer_hw3/fer2013",
    layer="15",
    positive_control=_control("cnn"),
    summary="Six convolutions on 48×48 gray faces, seven expressions, 4,845,063 parameters.",
)

DNN = replace(
    CNN,
    build=build_dnn,
    weights=partial(packaged_weights, "dnn.safetensors"),
    layer=None,
    positive_control=_control("dnn"),
    summary="Five linear layers on 48×48 gray faces, seven expressions, 4,991,495 parameters.",
)
