"""The true classes that a caller gives with images: in order, by name, or as folders."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from explainkit.errors import InputError

Labels: TypeAlias = "Sequence[int | str | None] | Tensor | Mapping[str, int | str] | str | None"
"""The true classes: in the order of the images, by their names, or ``"folder"``."""


def by_label(labels: Labels, names: Sequence[str]) -> Callable[[int], Any]:
    """Gives the true class of the image in a row, or None.

    Args:
        labels: As above; None: all unknown.
        names: Of the images; their folders are classes for ``"folder"``.

    Raises:
        InputError: The number of labels is another, or none belongs to an image.
    """
    if labels is None:
        return lambda _row: None
    if isinstance(labels, str):
        if labels != "folder":
            raise InputError(f"labels: expected one per image or 'folder', got {labels!r}")
        return lambda row: PurePosixPath(names[row]).parent.name or None
    if isinstance(labels, Mapping):
        if labels.keys().isdisjoint(names):
            shown = next(iter(labels), "none")
            raise InputError(f"labels: expected names such as {names[0]!r}, got {shown!r}")
        return lambda row: labels.get(names[row])
    listed = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    if len(listed) != len(names):
        raise InputError(f"labels: expected {len(names)}, one per image, got {len(listed)}")
    return lambda row: listed[row]
