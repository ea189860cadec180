"""Classifiers, detectors and segmenters of transformers, by name on the Hub or a folder."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from explainkit.adapters import timm
from explainkit.adapters.checkpoints import load_state, outputs_in
from explainkit.adapters.packages import loading, package
from explainkit.adapters.preprocessing import (
    CenterCrop,
    Interpolation,
    Mode,
    Preprocessing,
    Resampler,
    Resize,
    ReverseChannels,
    Step,
)
from explainkit.adapters.spec import Wanted, spec_for
from explainkit.errors import ExplainkitWarning, ModelError, line
from explainkit.interfaces import ModelSpec
from explainkit.scores import Task

_TASKS: dict[object, Task] = {
    "regression": "regression",
    "multi_label_classification": "multilabel",
}
"""``problem_type`` of a configuration."""

_LOADERS = {
    "ForObjectDetection": "AutoModelForObjectDetection",
    "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
}
"""End of an architecture's name to what loads it; all others are loaded as classifiers."""

_FILTERS: tuple[Interpolation, ...] = (
    "nearest", "lanczos", "bilinear", "bicubic", "box", "hamming",
)  # fmt: skip
"""Pillow's filters, in the order of its numbers."""

_ROUNDED = 1.01
"""Pixel values by which two pipelines may differ, because they round in another order."""

_NOISES = (241, 317), (350, 130)
"""Sizes of the images that tell; where the longer side has a limit, the second exceeds it."""

_YOLOS_PATCH = 16
"""YOLOS's processor cuts sides down to a multiple of this."""

_SQUASHED_FROM = 384
"""From this side on, ConvNeXT's processor resizes to a square instead of cropping one."""


def load(wanted: Wanted) -> tuple[nn.Module, ModelSpec]:
    """A classifier, detector or segmenter of images, with the preprocessing of its processor.

    Raises:
        ModelError: transformers is not installed, there is no such model, its weights can't be
            downloaded or don't fit, or they lack a layer.
    """
    found = package("transformers")
    name = wanted.name
    if name.startswith(("~", ".", "/")) or Path(name).is_absolute():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ModelError(f"expected a folder with a transformers model, found none at {folder}")
        name = str(folder)
    remedy = "expected a model of images on the Hub that can be reached, or a folder that has one"
    if not wanted.allow_pickle:
        remedy += "; allow_pickle=True also reads weights that are not in safetensors"
    with loading(f"transformers:{name}", remedy):
        config = found.AutoConfig.from_pretrained(name)
        auto = getattr(found, _loader(config))
        if wanted.state is None and wanted.pretrained:
            model, info = auto.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True,
                use_safetensors=None if wanted.allow_pickle else True,
            )  # fmt: skip
            if lacking := sorted(info["missing_keys"]):
                raise ModelError(
                    f"expected a trained image classifier, but {name} has no weights for "
                    f"{', '.join(lacking[:3])}: they would be random"
                )
        else:
            model = auto.from_config(config, dtype=torch.float32)
            count = None if wanted.state is None else outputs_in(model, wanted.state)
            if count not in {None, config.num_labels}:
                config.num_labels = count
                model = auto.from_config(config, dtype=torch.float32)
        processor = found.AutoImageProcessor.from_pretrained(name)
    if wanted.state is not None:
        load_state(model, wanted.state, f"transformers:{name}")
    task, names = declared_outputs(model.config)
    return model, spec_for(known_preprocessing(processor), task=task, class_names=names)


def _loader(config: Any) -> str:
    """The class of transformers that loads a model, from the architecture it was saved as."""
    for saved_as in getattr(config, "architectures", None) or ():
        for ending, loader in _LOADERS.items():
            if saved_as.endswith(ending):
                return loader
    return "AutoModelForImageClassification"


def declared_outputs(config: object) -> tuple[Task, tuple[str, ...]]:
    """The task and the class names of a configuration; a single logit has no name for each side."""
    task = _TASKS.get(getattr(config, "problem_type", None), "classification")
    names = getattr(config, "id2label", None)
    if not isinstance(names, Mapping) or len(names) < 2:
        return task, ()
    by_id = {str(i): str(name) for i, name in names.items()}
    ids = [str(i) for i in range(len(names))]
    return task, tuple(by_id[i] for i in ids) if by_id.keys() == set(ids) else ()


def known_preprocessing(processor: Any) -> Preprocessing:
    """What an image processor does, if that is what it does to images of noise; else a guess.

    Processors can have rules of their own. Those that this module does not know show here.
    """
    from PIL import Image

    random = np.random.default_rng(0)
    try:
        found = preprocessing_of(processor)
        for size in _NOISES:
            image = Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8))
            theirs = processor(image, return_tensors="pt")["pixel_values"][0]
            ours, _ = found(image)
            if why := _difference(ours, theirs, found):
                break
        else:
            return found
    except Exception as error:  # noqa: BLE001 - a processor of another kind lacks anything
        why = line(error)
    warnings.warn(
        f"the preprocessing of {type(processor).__name__} is not one that explainkit knows ({why}):"
        " explain tensors that it made, or declare a Preprocessing by ek.adapt",
        ExplainkitWarning,
        stacklevel=2,
    )
    return Preprocessing(known=False)


def _difference(ours: torch.Tensor, theirs: torch.Tensor, found: Preprocessing) -> str:
    """How the inputs differ that a preprocessing and a processor make; empty if they don't."""
    if theirs.shape != ours.shape:
        return f"it makes {list(theirs.shape)} of an image, expected {list(ours.shape)}"
    std = torch.tensor(found.normalization[1])[:, None, None]
    difference = 255 * float(((theirs - ours) * std).abs().max())
    return "" if difference <= _ROUNDED else f"it differs by {difference:.1f} pixel values"


def preprocessing_of(processor: Any) -> Preprocessing:
    """What an image processor does, from its configuration.

    Values are ``(pixel · rescale_factor - mean) / std``, here in units of pixel / 255.
    """
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    if kind == "TimmWrapperImageProcessor":
        return timm.preprocessing_of(processor.data_config)
    factor = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    mean, std = (
        np.broadcast_to(np.asarray(value, float), 3)
        for value in (
            (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        )
    )
    if kind == "EfficientNetImageProcessor":
        mean = mean + processor.rescale_offset
        std = std * std if processor.include_top else std
    flip = [ReverseChannels()] if getattr(processor, "do_flip_channel_order", False) else []
    return Preprocessing(
        steps=(*flip, *_steps(processor, kind)), mean=tuple(mean / factor), std=tuple(std / factor)
    )


def _steps(processor: Any, kind: str) -> list[Step]:
    """The resize and the crop; some processors enlarge the first by a rule of their own."""
    crops = bool(getattr(processor, "do_center_crop", False))
    crop = _pair(processor.crop_size) if crops else None
    if not processor.do_resize:
        return [CenterCrop(crop, rounding="floor")] if crop else []
    how = _FILTERS[int(processor.resample)]
    size, part = dict(processor.size), getattr(processor, "crop_pct", None)
    exact = "shortest_edge" not in size
    longest = None if exact else size.get("longest_edge")
    goal = _pair(size) if exact else (size["shortest_edge"],) * 2
    if kind == "ConvNextImageProcessor":
        exact = goal[0] >= _SQUASHED_FROM
        crop = crop if exact else goal
    if kind in {"ConvNextImageProcessor", "PoolFormerImageProcessor"} and part and not exact:
        goal = int(goal[0] / part), int(goal[1] / part)
    elif kind == "LevitImageProcessor" and not exact:
        goal = (int(256 / 224 * goal[0]),) * 2
    # processors on torchvision resize tensors, whose bicubic filter differs from Pillow's
    resampler: Resampler = "torch" if processor.backend == "torchvision" else "pillow"
    mode: Mode = "exact" if exact else "shortest"
    steps: list[Step] = [
        Resize(
            goal[0] if longest else goal, mode, how, resampler=resampler, longest_edge=longest,
            multiple_of=_YOLOS_PATCH if kind == "YolosImageProcessor" and longest else 1,
        )
    ]  # fmt: skip
    if crop:
        steps.append(CenterCrop(crop, rounding="floor"))
    return steps


def _pair(size: Any) -> tuple[int, int]:
    fields = dict(size)
    return fields["height"], fields["width"]
