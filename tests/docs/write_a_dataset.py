"""Snippets of docs/how-to/write-a-data-set.md; run by tests/test_docs.py."""

# --8<-- [start:dataset]
from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.errors import DatasetError
from explainkit.interfaces import DatasetSpec

MEAN, STD = 0.5, 0.25
SPLITS = ("train", "test", "all")


@dataclass(frozen=True, eq=False)
class Stripes:
    """Upright and level stripes."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ("upright", "level")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def load(path, split="train", seed=0) -> Stripes:
    if split not in SPLITS:
        raise DatasetError(f"split: expected {', '.join(SPLITS)}, got {split!r}")
    generator = torch.Generator().manual_seed(seed + SPLITS.index(split))
    phase = 6 * torch.rand(40, 1, 1, 1, generator=generator)
    upright = (torch.arange(24) + phase).sin().expand(40, 1, 24, 24)
    labels = torch.arange(40) % 2
    pixels = torch.where(labels[:, None, None, None] == 0, upright, upright.mT) / 2 + 0.5
    return Stripes((pixels - MEAN) / STD, labels)


STRIPES = DatasetSpec(
    load=load,
    class_names=("upright", "level"),
    image_shape=(1, 24, 24),
    mean=(MEAN,),
    std=(STD,),
    splits=SPLITS,
    source="drawn by this module",
    license="CC0",
    summary="Upright and level stripes.",
)
# --8<-- [end:dataset]

# --8<-- [start:check]
from explainkit.interfaces import Dataset

stripes = STRIPES.load(None, "test")
assert isinstance(stripes, Dataset)
assert stripes.images.shape[1:] == STRIPES.image_shape
assert torch.equal(stripes.images, STRIPES.load(None, "test").images)
# --8<-- [end:check]
