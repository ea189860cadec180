"""Splits: which images belong to which."""

import numpy as np
from numpy.typing import NDArray

from explainkit.errors import DatasetError
from explainkit_fer_hw3.faces import CLASS_NAMES

SPLITS = ("train", "validation", "public_test", "private_test")

HELD_OUT = 0.1
"""Share of the training images used for validation if the file has no validation split."""


def rows_of(
    split: str, labels: NDArray[np.int64], codes: NDArray[np.int8], seed: int, where: str
) -> NDArray[np.int64]:
    """Row indices of a split's images, in file order."""
    if split == "all":
        return np.arange(len(codes))
    known = splits_of(codes)
    if split not in known:
        raise DatasetError(f"{where} has no split {split!r}; it has {', '.join(known)}, all")
    given = SPLITS.index("validation") in codes
    sampled = split in {"train", "validation"} and not given
    rows = np.flatnonzero(codes == SPLITS.index("train" if sampled else split))
    if sampled:
        held = _held_out(labels[rows], seed)
        rows = rows[held if split == "validation" else ~held]
    return rows


def splits_of(codes: NDArray[np.int8]) -> list[str]:
    """The splits of a file, including a sampled validation split."""
    found = {SPLITS[code] for code in np.unique(codes)}
    if "train" in found:
        found.add("validation")
    return [name for name in SPLITS if name in found]


def _held_out(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """A seeded tenth of every class."""
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in range(len(CLASS_NAMES)):
        of_class = generator.permutation(np.flatnonzero(labels == label))
        held[of_class[: round(HELD_OUT * len(of_class))]] = True
    return held
