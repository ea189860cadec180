"""Synthetic faces as a data set."""

from pathlib import Path

import numpy as np
import torch

from explainkit.errors import DatasetError
from explainkit_fer_hw3.data.dataset import FaceDataset
from explainkit_fer_hw3.faces import CLASS_NAMES, draw

_POPULATIONS = {
    "train": 1_000_000, "validation": 2_000_000, "public_test": 3_000_000,
    "private_test": 4_000_000, "all": 5_000_000,
}  # fmt: skip

_APART = 10_000_000
"""Distance between the populations of consecutive seeds, so that they never overlap."""

COUNTS = {"train": 7000, "validation": 700, "public_test": 700, "private_test": 700, "all": 700}
"""Faces of each split, unless another number is asked for."""


def load_synthetic(
    path: Path | None = None, split: str = "train", *, seed: int = 0, count: int | None = None
) -> FaceDataset:
    """Generates synthetic faces; image ``i`` has class ``i`` mod 7.

    Every split is a separate population, so splits share no faces. ``all`` is a population of its
    own, not the union of the others.

    Args:
        path: Must be None; nothing is read.
        split: ``train``, ``validation``, ``public_test``, ``private_test`` or ``all``.
        seed: Selects the populations.
        count: Number of faces; by default 7,000 for training and 700 for every other split.

    Returns:
        A data set with ``parts``, the part of the face that each pixel shows.

    Raises:
        DatasetError: A path, an unknown split, or a count or seed out of range.

    Examples:
        >>> faces = load_synthetic(split="validation", count=14)
        >>> len(faces), faces.labels[:3].tolist(), faces.parts.shape
        (14, [0, 1, 2], torch.Size([14, 48, 48]))
    """
    if path is not None:
        raise DatasetError(f"synthetic faces are generated: leave out the path, got {path}")
    if split not in _POPULATIONS:
        raise DatasetError(f"split: expected {', '.join(_POPULATIONS)}, got {split!r}")
    count = COUNTS[split] if count is None else count
    if count < 1:
        raise DatasetError(f"count: expected at least 1, got {count}")
    if not 0 <= seed < 2**32:
        raise DatasetError(f"seed: expected 0 to {2**32 - 1}, got {seed}")
    population = _POPULATIONS[split] + _APART * seed
    faces = draw(np.arange(count) % len(CLASS_NAMES), seed=population)
    return FaceDataset(
        pixels=torch.from_numpy(faces.pixels),
        labels=torch.from_numpy(faces.labels),
        indices=torch.arange(count),
        names=tuple(f"face {i}" for i in range(count)),
        parts=torch.from_numpy(faces.parts),
    )
