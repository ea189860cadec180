"""Synthetic faces with exact part masks; no download needed.

A procedural renderer of gray 48x48 faces, framed like FER2013, with the seven expressions made
from facial action units. The geometry is known, so the part of the face that every pixel shows is
known, too. The same face can be rendered again with one part relaxed or left out: a ground truth
for explanations of a model.

    >>> from explainkit_fer_hw3.faces import CLASS_NAMES, draw
    >>> happy, surprise = CLASS_NAMES.index("happy"), CLASS_NAMES.index("surprise")
    >>> faces = draw([happy, surprise], seed=0)
    >>> faces.pixels.shape, faces.pixels.dtype
    ((2, 1, 48, 48), dtype('uint8'))
    >>> bool(faces.mask("mouth").any(axis=(1, 2)).all())
    True

    The same two people with a neutral mouth:

    >>> relaxed = draw([happy, surprise], seed=0, neutral="mouth")
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explainkit.errors import DatasetError
from explainkit_fer_hw3.faces.expressions import ACTION_UNITS, CLASS_NAMES, PART_UNITS, UNITS
from explainkit_fer_hw3.faces.identity import SIZE, Array, sample
from explainkit_fer_hw3.faces.render import render
from explainkit_fer_hw3.faces.scene import PARTS, REMOVABLE

__all__ = ["ACTION_UNITS", "CLASS_NAMES", "PARTS", "PART_UNITS", "REMOVABLE", "Faces", "draw"]

_CHUNK = 8  # faces per batch: small enough for the cache, large enough to outweigh call overhead

_ACTIVE = np.array(
    [[unit in ACTION_UNITS[name] for unit in UNITS] for name in CLASS_NAMES], np.float32
)


@dataclass(frozen=True)
class Faces:
    """Synthetic images with their labels and parts.

    Attributes:
        pixels: Gray values, uint8 ``[faces, 1, 48, 48]``.
        labels: Indices into ``CLASS_NAMES``, int64 ``[faces]``.
        parts: The part that covers most of each pixel, an index into ``PARTS``, uint8
            ``[faces, 48, 48]``.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.uint8]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The mask of a part, bool ``[faces, 48, 48]``; the masks of all parts sum to one.

        Raises:
            DatasetError: ``name`` is not one of ``PARTS``.
        """
        _check_part("mask", name, PARTS)
        here: NDArray[np.bool_] = self.parts == PARTS.index(name)
        return here


def draw(
    labels: Sequence[int] | NDArray[Any],
    *,
    seed: int,
    first: int = 0,
    neutral: str | None = None,
    without: str | None = None,
    intensity: float | None = None,
) -> Faces:
    """Draws one face per label.

    Face ``i`` depends only on ``seed``, ``first + i`` and ``labels[i]``, not on the other faces.
    The person, the pose, the light and the noise depend only on ``seed`` and ``first + i``, so
    with another label, ``neutral`` or ``without`` the same person is drawn and nothing else
    changes.

    Args:
        labels: Indices into ``CLASS_NAMES``, one per face.
        seed: Chooses the population, 0 to 2**64 - 1.
        first: Index of the first face within the population.
        neutral: A part to relax, one of ``PART_UNITS``: its action units are 0 in this part, as
            in a neutral face.
        without: A part to leave out, one of ``REMOVABLE``; what is behind it becomes visible.
        intensity: Strength of every action unit, 0 to 1. By default sampled per face and unit,
            between 0.55 and 1.

    Returns:
        The images, their labels and their parts.

    Raises:
        DatasetError: A label, number, part or intensity is out of range.

    Examples:
        >>> face = draw([3], seed=7)
        >>> bare = draw([3], seed=7, without="brows")
        >>> changed = (face.pixels != bare.pixels)[:, 0]
        >>> bool((changed & face.mask("mouth")).any())
        False
    """
    labels = _check_labels(labels)
    seed = _check_integer("seed", seed)
    first = _check_integer("first", first)
    if first + len(labels) > 2**64:
        raise DatasetError(f"first: expected at most 2**64 - {len(labels)}, got {first}")
    if neutral is not None:
        _check_part("neutral", neutral, tuple(PART_UNITS))
    if without is not None:
        _check_part("without", without, REMOVABLE)
    if intensity is not None and not 0 <= intensity <= 1:
        raise DatasetError(f"intensity: expected a number from 0 to 1, got {intensity}")
    # freed at once: makes the C library recycle blocks of this size instead of mapping new ones
    np.empty(1 << 22, np.uint8)
    pixels = np.empty((len(labels), 1, SIZE, SIZE), np.uint8)
    parts = np.empty((len(labels), SIZE, SIZE), np.uint8)
    for start in range(0, len(labels), _CHUNK):
        rows = slice(start, start + _CHUNK)
        count = len(labels[rows])
        who, strength, noise = sample(seed, first + start, count)
        level = _ACTIVE[labels[rows]] * (
            np.float32(0.55) + np.float32(0.45) * strength
            if intensity is None
            else np.float32(intensity)
        )
        units = _units_by_part(level, neutral)
        pixels[rows, 0], parts[rows] = render(who, units, noise, without)
    return Faces(pixels, labels, parts)


def _units_by_part(level: Array, neutral: str | None) -> dict[str, dict[int, Array]]:
    columns = {unit: level[:, column, None, None] for column, unit in enumerate(UNITS)}
    rest = np.zeros_like(level[:, 0, None, None])
    return {
        part: {unit: rest if part == neutral else columns[unit] for unit in shown}
        for part, shown in PART_UNITS.items()
    }


def _check_labels(labels: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DatasetError(
            f"labels: expected a sequence of integers, got {array.dtype} of shape {array.shape}"
        )
    wrong = (array < 0) | (array >= len(CLASS_NAMES))
    if wrong.any():
        row = int(wrong.argmax())
        raise DatasetError(
            f"labels: expected 0 to {len(CLASS_NAMES) - 1}, got {array[row]} at index {row}"
        )
    return array.astype(np.int64)


def _check_integer(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise DatasetError(f"{name}: expected an integer, got {value!r}") from None
    if not 0 <= number < 2**64:
        raise DatasetError(f"{name}: expected 0 to 2**64 - 1, got {number}")
    return number


def _check_part(argument: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise DatasetError(f"{argument}: expected one of {', '.join(allowed)}, got {name!r}")
