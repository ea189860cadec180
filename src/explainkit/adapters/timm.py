"""Models of timm (``timm:resnet50``) with the preprocessing of their ``pretrained_cfg``."""

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from explainkit.adapters.checkpoints import load_state, outputs_in
from explainkit.adapters.overrides import Size
from explainkit.adapters.packages import UNREACHABLE, loading, package, unknown
from explainkit.adapters.preprocessing import (
    CenterCrop,
    Fill,
    Interpolation,
    Preprocessing,
    Resize,
    Step,
    compact,
)
from explainkit.adapters.spec import Wanted, spec_for
from explainkit.interfaces import ModelSpec

_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of names that are not in timm's own registry."""


def load(wanted: Wanted) -> tuple[nn.Module, ModelSpec]:
    """A model by its name in timm, with its tag if it has one, such as ``resnet50.a1_in1k``.

    Raises:
        UnknownNameError: timm has no such model.
        ModelError: timm is not installed, or the weights can't be downloaded or don't fit.
    """
    timm = package("timm")
    name = wanted.name
    if not name.startswith(_SOURCES):
        kind, _, tag = name.partition(".")
        if not timm.is_model(kind):
            raise unknown("timm", name, timm.list_models())
        if tag and name not in (tagged := timm.list_pretrained(f"{kind}.*")):
            raise unknown("timm", name, tagged)
    own = wanted.state is None and wanted.pretrained
    with loading(f"timm:{name}", UNREACHABLE):
        model: nn.Module = timm.create_model(name, pretrained=own)
    if wanted.size is not None and callable(resize := getattr(model, "set_input_size", None)):
        resize(img_size=wanted.size)
    if wanted.state is not None:
        count = outputs_in(model, wanted.state)
        if count not in {None, getattr(model, "num_classes", None)}:
            cast(Any, model).reset_classifier(count)
        load_state(model, wanted.state, f"timm:{name}")
    return model, spec_of_model(model, wanted.size)


def is_timm(module: nn.Module) -> bool:
    """Whether timm built a model."""
    return isinstance(getattr(module, "pretrained_cfg", None), Mapping)


def spec_of_model(model: Any, size: Size | None = None) -> ModelSpec:
    """What timm knows about a model: its preprocessing and its classes.

    Args:
        model: With a ``pretrained_cfg``.
        size: The size of inputs in place of the configured one.
    """
    data = package("timm.data")
    cfg = model.pretrained_cfg
    sides = (size, size) if isinstance(size, int) else size
    channels = getattr(model, "in_chans", cfg.get("input_size", (3,))[0])
    args = {} if sides is None else {"input_size": (channels, *sides)}
    config = data.resolve_data_config(args, pretrained_cfg=cfg)
    fixed = cfg.get("fixed_input_size") and not getattr(model, "dynamic_img_size", False)
    return spec_for(
        preprocessing_of(config) if config["input_size"][0] in {1, 3} else None,
        class_names=_class_names(data, model, cfg),
        image_shape=tuple(config["input_size"]) if fixed else None,
    )


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """What timm's evaluation transform does, from a resolved data configuration.

    ``crop_mode`` is ``"center"`` (a crop of the resized image), ``"squash"`` (resized whatever its
    aspect ratio) or ``"border"`` (the whole image, padded with the mean).

    Examples:
        >>> imagenet = {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center"}
        >>> config = imagenet | {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
        >>> [(type(step).__name__, step.size) for step in preprocessing_of(config).steps]
        [('Resize', 256), ('CenterCrop', 224)]
    """
    channels, height, width = config["input_size"]
    tall, wide = (math.floor(side / config["crop_pct"]) for side in (height, width))
    large = compact((tall, wide))
    how = cast(Interpolation, config["interpolation"])
    mode = config["crop_mode"]
    border: Fill = 0
    first: Step
    if mode == "squash":
        first = Resize(large, "exact", how)
    elif mode == "border":
        first = Resize(large, "longest", how, rounding="nearest")
        border = tuple(round(255 * value) for value in config["mean"])
    elif isinstance(large, int):
        first = Resize(large, "shortest", how)
    else:
        first = Resize(large, "shortest", how, rounding="nearest")
    return Preprocessing(
        steps=(first, CenterCrop(compact((height, width)), border)),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        channels=channels,
    )


def _class_names(data: Any, model: Any, cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in a model's own configuration, or those of the ImageNet of its size."""
    count = getattr(model, "num_classes", None)
    if names := cfg.get("label_names"):
        described = cfg.get("label_descriptions") or {}
        if not isinstance(described, Mapping):
            described = dict(zip(names, described, strict=True))
        found = tuple(str(described.get(name, name)) for name in names)
    elif subset := data.infer_imagenet_subset(model):
        found = tuple(data.ImageNetInfo(subset).label_descriptions())
    else:
        found = ()
    return found if len(found) == count else ()
