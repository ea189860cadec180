"""What a step sees: a function of seed, epoch and step alone, so that any step can be made again."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.data.dataset import normalise
from explainkit_fer_hw3.faces import CLASS_NAMES, draw
from explainkit_fer_hw3.training.augment import augmented
from explainkit_fer_hw3.training.recipe import Recipe

POPULATION = 1_000_000
"""The drawn faces that train; those of every split of `load_drawn` are others."""

DRAWN_STRENGTH = 0.6
"""Of augmentation, relative to photographs: drawn faces come turned and lit already."""


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a training run.

    Attributes:
        data: The pictures to learn.
        recipe: How they are mixed and changed.
        seed: Of all random choices.
    """

    data: FaceDataset
    recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        times = torch.ones(len(CLASS_NAMES), dtype=torch.int64)
        for name, count in self.recipe.repeat:
            times[CLASS_NAMES.index(name)] = count
        rows = torch.arange(len(self.data)).repeat_interleave(times[self.data.labels])
        object.__setattr__(self, "_rows", rows)

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; the last one is filled up from the start of the next order."""
        rows: Tensor = self._rows  # type: ignore[attr-defined]
        return -(-len(rows) // self.recipe.batch)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Normalised images ``[n, 1, 48, 48]`` and labels of one step, on the CPU."""
        epoch, place = divmod(step, self.per_epoch)
        first = place * self.recipe.batch
        order = self._order(epoch)[first : first + self.recipe.batch]
        if len(order) < self.recipe.batch:
            order = torch.cat([order, self._order(epoch + 1)[: self.recipe.batch - len(order)]])
        images, labels = normalise(self.data.pixels[order]), self.data.labels[order]
        strength = torch.full((len(order),), self.recipe.augment)
        if self.recipe.drawn:
            number = step * self.recipe.drawn
            kinds = (np.arange(self.recipe.drawn) + number) % len(CLASS_NAMES)
            faces = draw(kinds, seed=POPULATION + 10_000_000 * self.seed, first=number)
            images = torch.cat([images, normalise(torch.from_numpy(faces.pixels))])
            labels = torch.cat([labels, torch.from_numpy(faces.labels)])
            weaker = torch.full((self.recipe.drawn,), self.recipe.augment * DRAWN_STRENGTH)
            strength = torch.cat([strength, weaker])
        if self.recipe.augment or self.recipe.cells:
            generator = torch.Generator().manual_seed(_mixed(self.seed, step))
            images = augmented(images, strength, self.recipe.cells, generator)
        return images, labels

    def _order(self, epoch: int) -> Tensor:
        rows: Tensor = self._rows  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(_mixed(self.seed, -1 - epoch))
        return rows[torch.randperm(len(rows), generator=generator)]


def _mixed(seed: int, number: int) -> int:
    """One seed out of two numbers; neighbours share nothing."""
    words = np.random.SeedSequence([seed, number % 2**64]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
