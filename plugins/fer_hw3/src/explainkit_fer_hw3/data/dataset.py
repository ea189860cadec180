"""Images in memory, stored as bytes and normalized on access."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.models import MEAN, STD


@dataclass(frozen=True, eq=False)
class FaceDataset:
    """Labeled gray faces.

    Attributes:
        pixels: uint8 ``[n, 1, 48, 48]``.
        labels: int64 ``[n]``, indices into ``class_names``; -1 if unlabeled.
        indices: Index of each image in its file, in file order, int64 ``[n]``.
        names: Name of each image: its path in a tree, or its row in a table.
        parts: For synthetic faces, the part that each pixel shows, uint8 ``[n, 48, 48]``.
        class_names: In the order of the labels.
    """

    pixels: Tensor
    labels: Tensor
    indices: Tensor
    names: tuple[str, ...]
    parts: Tensor | None = None
    class_names: tuple[str, ...] = CLASS_NAMES

    @property
    def images(self) -> Tensor:
        """``(pixel / 255 − mean) / std``, float32 ``[n, 1, 48, 48]``: the networks' input."""
        return normalize(self.pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image as in `images`, ``[1, 48, 48]``, and its label."""
        return normalize(self.pixels[index]), int(self.labels[index])

    def __add__(self, other: "FaceDataset") -> "FaceDataset":
        """Concatenates two data sets; the result has parts if both have them."""
        changes: dict[str, Any] = {
            name: torch.cat([getattr(self, name), getattr(other, name)])
            for name in ("pixels", "labels", "indices")
        }
        parts = (
            None
            if self.parts is None or other.parts is None
            else torch.cat([self.parts, other.parts])
        )
        return replace(self, **changes, parts=parts, names=self.names + other.names)

    def split(self, size: int) -> Iterator["FaceDataset"]:
        """Consecutive parts of this many images; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self.subset(range(start, min(start + size, len(self))))

    def subset(self, indices: Iterable[int] | Tensor) -> "FaceDataset":
        """The images with these indices, in this order; or those selected by a bool mask."""
        rows = indices if isinstance(indices, Tensor) else torch.tensor(list(indices))
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows.to(torch.int64)
        changes: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in ("pixels", "labels", "indices")
        }
        parts = None if self.parts is None else self.parts[rows]
        return replace(
            self, **changes, parts=parts, names=tuple(self.names[i] for i in rows.tolist())
        )


def normalize(pixels: Tensor) -> Tensor:
    """Converts bytes to the networks' input."""
    return (pixels.float() / 255 - MEAN) / STD
