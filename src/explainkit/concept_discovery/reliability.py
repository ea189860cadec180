"""Whether concepts are found again in other images, and whether random ones do as well."""

import torch
from torch import Tensor

from explainkit.concept_discovery.factorize import factorize

SPLITS = 4
"""Times that the images are split into halves."""

AGAINST = 20
"""Random directions to compare with, at least: so many allow a p-value below 0.05."""


def stability(values: Tensor, directions: Tensor, *, seed: int) -> Tensor:
    """How well each direction is found again: matched cosines between random halves of the images.

    Each half is factorized on its own, and its directions are matched with the given ones. The
    number is the cosine of the two halves' matches.

    Args:
        values: Activations, ``[image, position, channel]``.
        directions: Those found in all images, ``[n, channel]``.
        seed: Random seed of the splits and the factorizations.

    Returns:
        ``[split, n]``; 0 where a half has fewer directions.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for split in range(SPLITS):
        order = torch.randperm(len(values), generator=generator).to(values.device)
        halves = []
        for number, half in enumerate(order.chunk(2)):
            own = seed + 2 * split + number + 1
            found = factorize(values[half].flatten(0, 1), len(directions), seed=own).directions
            halves.append(_matches(directions, found))
        rows.append((halves[0] * halves[1]).sum(1))
    return torch.stack(rows).double()


def _matches(wanted: Tensor, found: Tensor) -> Tensor:
    """For each direction that of another set; the closest pair of all first, each used once."""
    cosines = (wanted @ found.T).cpu()
    matches = torch.zeros_like(wanted)
    for _ in range(len(found)):
        row, column = divmod(int(cosines.argmax()), cosines.shape[1])
        matches[row] = found[column]
        cosines[row, :] = cosines[:, column] = -torch.inf
    return matches


def random_directions(directions: Tensor, *, seed: int) -> list[Tensor]:
    """Sets of directions with the same values, each in a random order of channels.

    Returns:
        At least `AGAINST` directions, in sets as large as the given one.
    """
    generator = torch.Generator().manual_seed(seed)
    n, channels = directions.shape
    sets = []
    for _ in range(-(-AGAINST // n)):
        orders = [torch.randperm(channels, generator=generator) for _ in range(n)]
        sets.append(directions.gather(1, torch.stack(orders).to(directions.device)))
    return sets


def p_values(sizes: Tensor, random: Tensor) -> Tensor:
    """The share of random directions with at least as large an effect, ``(1 + #) / (1 + all)``.

    Args:
        sizes: Of the concepts' effects, ``[n]``.
        random: Of the random directions' effects.

    Examples:
        >>> p_values(torch.tensor([5.0, 1.5]), torch.tensor([1.0, 2.0, 3.0]))
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    as_large = (random >= sizes[:, None]).sum(1).double()
    return (1 + as_large) / (1 + len(random))
