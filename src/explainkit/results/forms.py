"""What a stored result consists of, and whether its fields are valid."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explainkit.results import originals
from explainkit.scores import TASKS


@dataclass(frozen=True)
class Form:
    """How one type of result is stored.

    Attributes:
        noun: The type's name, in lowercase.
        tensors: Prefix of its tensor files.
        axes: For each tensor field, its number of axes and the index of its batch axis.
        kinds: Types of the other fields.
        texts: Fields that are tuples of strings.
        dtypes: Of the tensors that have one type only.
        finite: Floating-point tensors without NaN and infinity, first the images.
    """

    noun: str
    tensors: str
    axes: Mapping[str, tuple[int, int]]
    kinds: Mapping[str, Any]
    texts: tuple[str, ...]
    dtypes: Mapping[str, torch.dtype]
    finite: tuple[str, ...]

    @property
    def record(self) -> str:
        """The name of the JSON file."""
        return f"{self.noun}.json"

    def names_tensors(self, name: str) -> bool:
        """Whether a file name is that of a tensor file."""
        return re.fullmatch(rf"{self.tensors}-[0-9a-f]{{16}}\.safetensors", name) is not None

    def names_file(self, name: str) -> bool:
        """Whether a file name is that of a tensor file or of the JSON file."""
        return name == self.record or self.names_tensors(name)


VOLUME = 5
"""Axes of volumes and clips, ``[batch, channel, depth, height, width]``."""

EXPLANATION = Form(
    "explanation",
    "tensors",
    {"inputs": (4, 0), "attribution": (4, 0), "target": (1, 0), "score": (1, 0), "logits": (2, 0)},
    {
        "method": str, "model": str, "layer": str | None, "at": str | None,
        "expression": str | None, "seed": int | np.integer, "input": str | None,
        "task": str, "output": int | str | None, "precision": str | None,
        "params": Mapping, "diagnostics": Mapping, "versions": Mapping, "coverage": Mapping | None,
        "receipt": Mapping | None,
    },
    ("class_names", "names"),
    {"target": torch.int64},
    ("inputs", "attribution", "logits"),
)  # fmt: skip
VISUALIZATION = Form(
    "visualization",
    "visualization",
    {
        "images": (4, 0), "opacity": (4, 0), "score": (1, 0), "trace": (2, 1), "rank": (1, 0),
        "dead": (1, 0), "converged": (1, 0), "frames": (5, 1),
    },
    {
        "maximizer": str, "model": str, "layer": str | None, "seed": int | np.integer,
        "task": str, "output": int | str | None,
        "params": Mapping, "diagnostics": Mapping, "versions": Mapping, "quality": Mapping,
    },
    ("class_names", "objective"),
    {"rank": torch.int64, "dead": torch.bool, "converged": torch.bool},
    ("images", "opacity"),
)  # fmt: skip
CONCEPTS = Form(
    "concepts",
    "concepts",
    {
        "directions": (2, 0), "importance": (2, 0), "standard_error": (2, 0), "p": (1, 0),
        "stability": (2, 1), "exemplar": (2, 0), "index": (2, 0), "maps": (4, 0),
        "upsampled": (4, 0),
    },
    {
        "layer": str, "model": str, "kind": str, "measure": str, "seed": int | np.integer,
        "count": int,
        "unexplained": float, "random_unexplained": float, "random_stability": float,
        "task": str, "output": int | str | None, "versions": Mapping,
    },
    ("class_names", "names", "warnings"),
    {"exemplar": torch.int64, "index": torch.int64},
    ("images", "directions", "importance", "maps", "upsampled"),
)  # fmt: skip


FORMS = {form.noun: form for form in (EXPLANATION, VISUALIZATION, CONCEPTS)}


def form_of(result: type) -> Form:
    """The form of a type of result."""
    return FORMS[result.__name__.lower()]


def check(form: Form, fields: Mapping[str, Any]) -> None:
    """Checks a result's fields, also those of a file that somebody has changed and sealed again.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A field has the wrong shape, or values that no run writes.
    """
    first = next(iter(form.axes))
    for name, (rank, axis) in form.axes.items():
        tensor = fields[name]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if name == "attribution" and fields["at"] is not None:
            rank = tensor.ndim  # a layer's output can have any number of axes
        elif name == "attribution":
            rank = fields["inputs"].ndim
        elif name == "inputs" and tensor.ndim == VOLUME:
            rank = VOLUME
        if tensor.ndim != rank or tensor.shape[axis] != len(fields[first]):
            raise ValueError(
                f"{name}: expected {rank} axes, with axis {axis} as long as {first}, "
                f"got {list(tensor.shape)}"
            )
    for name, kind in form.kinds.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise TypeError(
                f"{name}: expected {getattr(kind, '__name__', kind)}, got {fields[name]!r:.40}"
            )
    if fields["task"] not in TASKS:
        raise ValueError(f"task: expected {', '.join(TASKS)}, got {fields['task']!r:.40}")
    if not isinstance(fields.get("squashed", False), bool):
        raise TypeError(f"squashed: expected a bool, got {fields['squashed']!r:.40}")
    for name in form.texts:
        if not isinstance(fields[name], list | tuple):
            raise TypeError(f"{name}: expected a list, got {fields[name]!r:.40}")
        if not all(isinstance(text, str) for text in fields[name]):
            raise TypeError(f"{name}: expected strings only")
    if not all(isinstance(version, str) for version in fields["versions"].values()):
        raise TypeError("versions: expected strings only")
    for name in ("mean", "std"):
        numbers = () if fields[name] is None else fields[name]
        if not isinstance(numbers, list | tuple) or not all(
            isinstance(number, float | int) for number in numbers
        ):
            raise TypeError(f"{name}: expected numbers, got {numbers!r:.40}")
    _check_tensors(form, fields)
    if form is EXPLANATION:
        _check_classes(fields)
        originals.check(fields)
        _check_receipt(fields)
    elif form is CONCEPTS:
        _check_exemplars(fields)
    elif len(fields["objective"]) != len(fields["images"]):
        raise ValueError(
            f"objective: expected {len(fields['images'])}, got {len(fields['objective'])}"
        )


def _check_tensors(form: Form, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for no images, and for tensors of the wrong type or with NaN."""
    for name, dtype in form.dtypes.items():
        if fields[name].dtype != dtype:
            raise ValueError(f"{name}: expected {dtype}, got {fields[name].dtype}")
    for name in form.finite:
        tensor = fields[name]
        if not tensor.numel():
            raise ValueError(f"{name}: expected values, got none: {list(tensor.shape)}")
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{name}: expected finite numbers, got NaN, infinity or {tensor.dtype}"
            )
    channels = fields[form.finite[0]].shape[1]
    for name in ("mean", "std"):
        if fields[name] is not None and len(fields[name]) != channels:
            raise ValueError(
                f"{name}: expected one number for each of {channels} channels, got "
                f"{len(fields[name])}"
            )


def _check_receipt(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a receipt of other images."""
    if fields["receipt"] is None:
        return
    listed = fields["receipt"].get("images")
    if not isinstance(listed, list | tuple) or len(listed) != len(fields["inputs"]):
        raise ValueError(f"receipt: expected {len(fields['inputs'])} images, got {listed!r:.40}")


def _check_exemplars(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for exemplars without image, other tables, and other numbers."""
    images, names, shown = fields["images"], fields["names"], fields["exemplar"]
    if images.ndim != 4 or len(names) != len(images):
        raise ValueError(f"images: expected {len(names)} images, got {list(images.shape)}")
    if bool(((shown < 0) | (shown >= len(images))).any()):
        raise ValueError(f"exemplar: expected 0 to {len(images) - 1}, got {shown.tolist()!r:.40}")
    if not bool(fields["stability"].isfinite().all()):  # given directions have none
        raise ValueError("stability: expected finite numbers, got NaN or infinity")
    for name, like in (("standard_error", "importance"), ("index", "exemplar")):
        if fields[name].shape != fields[like].shape:
            raise ValueError(f"{name}: expected the shape of {like}, got {fields[name].shape}")
    if fields["maps"].shape[1] != shown.shape[1]:
        raise ValueError(f"maps: expected {shown.shape[1]} each, got {fields['maps'].shape[1]}")
    wanted = (*shown.shape, *images.shape[2:])
    if tuple(fields["upsampled"].shape) != wanted:
        raise ValueError(
            f"upsampled: expected {list(wanted)}, got {list(fields['upsampled'].shape)}"
        )


def _check_classes(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for targets and class names that the logits don't have."""
    outputs = fields["logits"].shape[1]
    if fields["task"] == "binary" and outputs != 1:
        raise ValueError(f"logits: expected one for a binary task, got {outputs}")
    classes = 2 if fields["task"] == "binary" else outputs
    # of a model that returns no scores per class, logits are the explained score
    named = {0, classes} if fields["expression"] is None else {len(fields["class_names"])}
    if len(fields["class_names"]) not in named:
        raise ValueError(f"class_names: expected {classes}, got {len(fields['class_names'])}")
    target = fields["target"]
    if bool(((target < 0) | (target >= classes)).any()):
        raise ValueError(
            f"target: expected classes 0 to {classes - 1}, got {target.tolist()!r:.40}"
        )
