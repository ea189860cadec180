"""Where each pixel of a model's input lies in the image it was made from."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainkit.errors import InputError

_SLACK = 1e-6
"""Pixels; a rounded scale must not move the border of a crop past a pixel's center."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """The position of a model's input in the original image.

    In both, the pixel in row i covers the interval [i, i + 1]. A point y of the original is at
    y · scale + offset in the model's input, and likewise for columns.

    Attributes:
        original: Height and width of the original in pixels.
        size: Height and width of the model's input in pixels.
        scale: Pixels of the input per pixel of the original, for rows and columns.
        offset: Position of the original's top left corner in the input; negative where it was
            cropped, positive where it was padded.
        content: Top, left, bottom, right of the part of the input that shows the image, in pixels
            of the input; the rest is padding. None: all of the image that lies inside the input.

    Examples:
        >>> crop = Geometry((6, 8), (4, 4), offset=(-1.0, -2.0))
        >>> crop.to_original(torch.ones(4, 4)).isnan().sum()
        tensor(32)
    """

    original: Size
    size: Size
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    content: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("original", "size", "scale", "offset", "content"):
            values = getattr(self, name)
            if name == "content" and values is None:
                continue
            kind = int if name in {"original", "size"} else int | float
            positive = name not in {"offset", "content"}
            if (
                len(values) != (4 if name == "content" else 2)
                or not all(isinstance(value, kind) and math.isfinite(value) for value in values)
                or (positive and min(values) <= 0)
            ):
                above = " above 0" if positive else ""
                raise InputError(f"{name}: expected finite numbers{above}, got {values!r:.80}")

    def resized(self, size: Size) -> "Geometry":
        """After the input was resized to a height and width."""
        y, x = (new / old for new, old in zip(size, self.size, strict=True))
        top, left, bottom, right = self._content
        return replace(
            self,
            size=size,
            scale=(self.scale[0] * y, self.scale[1] * x),
            offset=(self.offset[0] * y, self.offset[1] * x),
            content=(top * y, left * x, bottom * y, right * x),
        )

    def windowed(self, top: int, left: int, size: Size) -> "Geometry":
        """After a window was cut out of the input; what lies outside the input is padding.

        Args:
            top: First row of the window in the input; negative: rows of padding above it.
            left: First column.
            size: Height and width of the window.
        """
        first_row, first_column, last_row, last_column = self._content
        return replace(
            self,
            size=size,
            offset=(self.offset[0] - top, self.offset[1] - left),
            content=(
                max(first_row - top, 0.0),
                max(first_column - left, 0.0),
                min(last_row - top, float(size[0])),
                min(last_column - left, float(size[1])),
            ),
        )

    def seen_from(self, size: Size) -> "Geometry":
        """The same input, in the original resized to a height and width."""
        y, x = (new / old for new, old in zip(size, self.original, strict=True))
        content = self._content
        scale = self.scale[0] / y, self.scale[1] / x
        return replace(self, original=size, scale=scale, content=content)

    def seen(self) -> Tensor:
        """The pixels of the original that the model saw: those whose center is in its input.

        Returns:
            bool ``[height, width]`` of the original.
        """
        rows, columns = (self._seen(axis) for axis in (0, 1))
        mask = torch.zeros(self.original, dtype=torch.bool)
        mask[rows, columns] = True
        return mask

    def to_original(self, values: Tensor) -> Tensor:
        """Carries a map of the model's input to the original image.

        The value of a pixel of the original is interpolated linearly between the centers of the
        input's pixels, at its own center, along rows and columns (bilinear). Where a pixel covers
        s > 1 pixels of an enlarged input, this is averaged over a length of s - 1 around the
        center, so that no pixel of the input is skipped. Padding does not contribute.

        Args:
            values: ``[…, height, width]`` of the model's input.

        Returns:
            ``[…, height, width]`` of the original; NaN where the model did not see it.

        Raises:
            InputError: The map has another size than the model's input.
        """
        if tuple(values.shape[-2:]) != self.size:
            raise InputError(
                f"expected a map of the model's input, {list(self.size)}, got "
                f"{list(values.shape[-2:])}"
            )
        dtype = values.dtype if values.dtype == torch.float64 else torch.float32
        # columns first: the original has more rows than the input
        values = values.to(dtype) @ self._weights(1).to(values.device, dtype).T
        values = self._weights(0).to(values.device, dtype) @ values
        found = values.new_full((*values.shape[:-2], *self.original), torch.nan)
        found[..., self._seen(0), self._seen(1)] = values
        return found

    def points_to_original(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Carries points (or boxes) of the model's input to the original image.

        Args:
            points: x and y in turn, in pixels of the input, ``[…, 2]`` or ``[…, 4]``.

        Examples:
            >>> halved = Geometry((8, 8), (4, 4), scale=(0.5, 0.5))
            >>> halved.points_to_original(np.array([1.0, 2.0])).tolist()
            [2.0, 4.0]
        """
        pairs = points.reshape(-1, 2)
        moved: NDArray[np.float64] = (pairs - self.offset[::-1]) / self.scale[::-1]
        return moved.reshape(points.shape)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it."""
        values = {**vars(self), "content": self._content}
        return {name: list(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Geometry":
        """What `to_dict` wrote."""
        return cls(**{name: tuple(value) for name, value in fields.items()})

    @property
    def _content(self) -> tuple[float, float, float, float]:
        if self.content is not None:
            return self.content
        (top, left), (y, x) = self.offset, self.scale
        return (
            max(top, 0.0),
            max(left, 0.0),
            min(top + self.original[0] * y, float(self.size[0])),
            min(left + self.original[1] * x, float(self.size[1])),
        )

    def _seen(self, axis: int) -> slice:
        """The rows (axis 0) or columns of the original that the model saw."""
        scale, offset = self.scale[axis], self.offset[axis]
        first, last = ((self._content[side] - offset) / scale for side in (axis, axis + 2))
        return slice(
            max(math.ceil(first - 0.5 - _SLACK), 0),
            min(math.ceil(last - 0.5 - _SLACK), self.original[axis]),
        )

    def _weights(self, axis: int) -> Tensor:
        """Weights ``[seen, input]`` of the input's rows or columns in those of the original."""
        scale, seen = self.scale[axis], self._seen(axis)
        first, last = self._content[axis], self._content[axis + 2]
        centers = torch.arange(seen.start, seen.stop, dtype=torch.float64) + 0.5
        centers = centers * scale + self.offset[axis] - 0.5
        pixels = torch.arange(self.size[axis], dtype=torch.float64)
        inside = (pixels + 0.5 > first - _SLACK) & (pixels + 0.5 < last + _SLACK)
        distance = centers[:, None] - pixels
        if (half := (scale - 1) / 2) > 0:
            weights = (_hat_integral(distance + half) - _hat_integral(distance - half)) / (2 * half)
        else:
            weights = (1 - distance.abs()).clamp_min(0)
        weights = weights * inside
        return weights / weights.sum(1, keepdim=True)


def _hat_integral(end: Tensor) -> Tensor:
    """The integral of max(0, 1 − |x|) from −∞ to each end."""
    rest = (1 - end.abs()).clamp_min(0).square() / 2
    return torch.where(end < 0, rest, 1 - rest)
