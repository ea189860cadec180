"""Training batches, each a function of the seed and the step alone, so that runs can resume."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.errors import DatasetError
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.data.dataset import normalize
from explainkit_fer_hw3.faces import CLASS_NAMES, draw
from explainkit_fer_hw3.training.augment import augmented, mixed
from explainkit_fer_hw3.training.recipe import Recipe

POPULATION, APART = 1_000_000, 10_000_000
"""Population of the synthetic training faces, and its distance from one seed to the next. It is the
population of `load_synthetic`'s training split, so no face of another split is trained on."""

SYNTHETIC_STRENGTH = 0.6
"""Augmentation strength relative to photographs: synthetic faces already vary in pose and light."""


class Batches:
    """The batches of a training run, indexed by step.

    Attributes:
        per_epoch: Steps per epoch. The last batch is filled up from the next epoch's order.
        taught: Class probabilities from another network (the teacher), ``[n, 7]``, that are mixed
            into the targets. None: labels only.
    """

    def __init__(
        self, data: FaceDataset, recipe: Recipe, seed: int, taught: Tensor | None = None
    ) -> None:
        if bool((data.labels < 0).any()):
            raise DatasetError(
                f"expected a label for each of {len(data)} images, but "
                f"{int((data.labels < 0).sum())} have none: leave them out"
            )
        self._data = data
        self._recipe = recipe
        self._seed = seed
        self.taught = taught
        times = torch.ones(len(CLASS_NAMES), dtype=torch.int64)
        for name, count in recipe.repeat:
            times[CLASS_NAMES.index(name)] = count
        self._rows = torch.arange(len(data)).repeat_interleave(times[data.labels])
        self.per_epoch = -(-len(self._rows) // recipe.batch)

    def rows(self, step: int) -> Tensor:
        """Indices in the data set of the images of a step, int64 ``[batch]``."""
        batch = self._recipe.batch
        epoch, position = divmod(step, self.per_epoch)
        rows = self._order(epoch)[position * batch : (position + 1) * batch]
        missing = batch - len(rows)
        return torch.cat([rows, self._order(epoch + 1)[:missing]]) if missing else rows

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Normalized images ``[n, 1, 48, 48]`` and targets ``[n, 7]`` of a step, on the CPU.

        Targets are class probabilities: 0 or 1 unless images are mixed or a teacher contributes.
        """
        recipe, rows = self._recipe, self.rows(step)
        images, labels = normalize(self._data.pixels[rows]), self._data.labels[rows]
        strength = torch.full((len(rows),), recipe.augment)
        if recipe.synthetic:
            first = step * recipe.synthetic
            kinds = (np.arange(recipe.synthetic) + first) % len(CLASS_NAMES)
            faces = draw(kinds, seed=POPULATION + APART * self._seed, first=first)
            images = torch.cat([images, normalize(torch.from_numpy(faces.pixels))])
            labels = torch.cat([labels, torch.from_numpy(faces.labels)])
            weaker = torch.full((recipe.synthetic,), recipe.augment * SYNTHETIC_STRENGTH)
            strength = torch.cat([strength, weaker])
        targets = F.one_hot(labels, len(CLASS_NAMES)).float()
        if self.taught is not None:
            targets[: len(rows)].lerp_(self.taught[rows], recipe.self_distillation)
        generator = torch.Generator().manual_seed(_seed_of(self._seed, step))
        if recipe.augment or recipe.cutout:
            images = augmented(images, strength, recipe.cutout, generator)
        if recipe.mix:
            photographs = slice(recipe.batch)
            images[photographs], targets[photographs] = mixed(
                images[photographs], targets[photographs], recipe.mix, generator
            )
        return images, targets

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(_seed_of(self._seed, -1 - epoch))
        return self._rows[torch.randperm(len(self._rows), generator=generator)]


def _seed_of(seed: int, number: int) -> int:
    """One seed derived from two numbers; seeds of neighboring steps are unrelated."""
    words = np.random.SeedSequence([seed, number % 2**64]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
