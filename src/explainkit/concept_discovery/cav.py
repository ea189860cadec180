"""Concept activation vectors: the direction in a layer that tells a concept from other images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from explainkit.errors import ModelError

RIDGE = 0.1
"""Penalty of the squared coefficients, in units of the mean squared length of an activation."""


def concept_direction(concept: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression of labels 1 and −1 on activations, in closed form.

    Args:
        concept: Activations of images with the concept, ``[image, channel]``.
        other: Of others, as many.

    Returns:
        The direction, ``[channel]``, of length 1; and its value halfway between the images.

    Raises:
        ModelError: All activations are the same.

    Examples:
        >>> one, other = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])
        >>> direction, middle = concept_direction(one, other)
        >>> direction.tolist(), float(middle)
        ([1.0, 0.0], 2.0)
    """
    values = torch.cat([concept, other]).double()
    label = torch.ones(len(values), dtype=values.dtype, device=values.device)
    label[len(concept) :] = -1
    mean = values.mean(0)
    apart = values - mean
    gram = apart @ apart.T
    size = gram.diagonal().mean()
    if not size:
        raise ModelError("expected activations that differ between images: name another layer")
    gram.diagonal().add_(RIDGE * size)
    direction = normalize(apart.T @ torch.linalg.solve(gram, label), dim=0)
    return direction, direction @ mean


def accuracy(direction: Tensor, middle: Tensor, concept: Tensor, other: Tensor) -> float:
    """The mean share of images of both kinds that a direction puts on the right side.

    Args:
        direction: ``[channel]``.
        middle: Where it changes sides.
        concept: Activations of other images with the concept, ``[image, channel]``.
        other: Of images without.
    """
    above, below = concept.double() @ direction > middle, other.double() @ direction < middle
    return float((above.double().mean() + below.double().mean()) / 2)


@dataclass(frozen=True, eq=False)
class Runs:
    """Directions of a concept and of random ones, each from other halves of the images.

    Attributes:
        scores: Share of positive derivatives along the concept, float64 ``[run]``.
        random_scores: Along random directions.
        accuracy: Of the concept's directions on the images that they were not made from.
        direction: Their mean, ``[channel]``, of length 1.
    """

    scores: Tensor
    random_scores: Tensor
    accuracy: Tensor
    direction: Tensor


def resampled(slopes: Tensor, concept: Tensor, random: Tensor, runs: int, seed: int) -> Runs:
    """Repeats `concept_direction` with half of a concept's images and as many random ones.

    Args:
        slopes: Derivatives of the score by the channels, float64 ``[image, channel]``.
        concept: Activations of the concept's images, ``[image, channel]``.
        random: Of random images, at least as many.
        runs: How often.
        seed: Random seed of the halves.
    """
    generator = torch.Generator().manual_seed(seed)
    half = len(concept) // 2
    rows, directions = [], []
    for _ in range(runs):
        drawn, rest = _split(concept, half, generator)
        without, left = _split(random, half, generator)
        direction, middle = concept_direction(drawn, without)
        chance, _ = concept_direction(left[:half], without)
        known = accuracy(direction, middle, rest, left)
        rows.append([_share(slopes, direction), _share(slopes, chance), known])
        directions.append(direction)
    scores, by_chance, right = torch.tensor(rows, dtype=torch.float64).T
    return Runs(scores, by_chance, right, normalize(torch.stack(directions).mean(0), dim=0))


def _split(values: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random sample of the rows, and the others."""
    order = torch.randperm(len(values), generator=generator).to(values.device)
    return values[order[:count]], values[order[count:]]


def _share(slopes: Tensor, direction: Tensor) -> float:
    """The share of images whose score rises along a direction."""
    return float((slopes @ direction > 0).double().mean())
