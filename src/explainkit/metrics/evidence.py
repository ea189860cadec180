"""Tests whether a map predicts what hiding parts of its image does."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.metrics.hiding import HidingEffects

BAND = (0.05, 0.95)
"""Quantiles of the shifted and flipped copies between which a plot draws its band."""

FLAT = 1e-6
"""A vector has no direction left if its norm is smaller than this share of what it was."""


@dataclass(frozen=True, eq=False)
class Controls:
    """Maps of an image that know nothing of the model: its edges, and a spot in its center.

    Attributes:
        edges: Strength of the Sobel gradient, ``[height, width]``.
        center: A Gaussian around the center, with a standard deviation of a quarter of the height.
    """

    edges: Tensor
    center: Tensor

    @classmethod
    def of(cls, image: Tensor) -> "Controls":
        """The controls of an image ``[channel, height, width]``.

        References:
            Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim (2018), "Sanity Checks for Saliency
            Maps", arXiv:1810.03292: some methods draw little more than edges.
        """
        plane = F.pad(image.detach().double().cpu()[:, None], (1, 1, 1, 1), mode="replicate")
        smooth, slope = plane.new_tensor([1.0, 2.0, 1.0]), plane.new_tensor([-1.0, 0.0, 1.0])
        kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
        edges = F.conv2d(plane, kernels).square().sum(1).sqrt().mean(0)
        height, width = edges.shape
        row, column = (
            torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (height, width)
        )
        distance = row[:, None].square() + column.square()
        return cls(edges, (-distance / (2 * (height / 4) ** 2)).exp())


@dataclass(frozen=True)
class Evidence:
    """The three tests of one map of one image.

    Attributes:
        statistic: Of the tests *predicts*, *beyond the image* and *this class*; NaN without one.
        p: Their p-values.
        control: The control that predicts the effects best, ``"edges"`` or ``"center"``.
        band: Quantiles of the correlation of the copies with the effects of single cells.
    """

    statistic: tuple[float, float, float]
    p: tuple[float, float, float]
    control: str
    band: tuple[float, float]


def weigh(
    values: Tensor,
    effects: HidingEffects,
    target: int,
    controls: Controls,
    contrast: tuple[Tensor, int] | None = None,
) -> Evidence:
    """Tests one map against the effects of hiding, and against its own shifted, flipped copies.

    With the sums of the map in each cell, A, and in each subset, T, and the effects of hiding
    them, E and Δ:

    - *predicts*: ``½ (r(A, E) + r(T, Δ))``, r being Pearson's correlation;
    - *beyond the image*: the same, after the sums of both controls have been regressed out of
      every vector;
    - *this class*: ``r(A_c − A_r, E_c − E_r)`` for the explained class c and another one, r.

    A p-value is ``(1 + n) / (1 + N)``, where n of the N copies reach the statistic of the map.

    Args:
        values: The map, ``[height, width]``.
        effects: Of its image.
        target: The explained class.
        controls: Of its image.
        contrast: The map of another class, and that class.
    """
    cells, subsets = effects.cells, effects.subsets
    sums = cells.shifted_sums(values)
    single, several = effects.of_cells(target), effects.of_subsets(target)
    known = torch.stack([cells.sums(controls.edges), cells.sums(controls.center)], 1)
    correlated = _correlation(sums, single)
    plain = (correlated + _correlation(sums @ subsets.T, several)) / 2
    beyond = (
        _partial(sums, single, known) + _partial(sums @ subsets.T, several, subsets @ known)
    ) / 2
    tests = [_tested(plain), _tested(beyond), (float("nan"), float("nan"))]
    if contrast is not None:
        other, against = contrast
        difference = cells.shifted_sums(values.double().cpu() - other.double().cpu())
        tests[2] = _tested(_correlation(difference, single - effects.of_cells(against)))
    control = ("edges", "center")[int(_correlation(known.T, single).abs().argmax())]
    low, high = torch.quantile(correlated[1:], correlated.new_tensor(BAND)).tolist()
    statistic, p = zip(*tests, strict=True)
    return Evidence(statistic, p, control, (low, high))


def _tested(found: Tensor) -> tuple[float, float]:
    """The statistic of a map, the first, and the share of it and its copies that reach it.

    A map without a direction has a statistic of 0, and passes no test.
    """
    own, copies = float(found[0]), found[1:]
    if own == 0:
        return 0.0, 1.0
    reached = int((copies >= own - 1e-9).sum())
    return own, (1 + reached) / (1 + len(copies))


def _correlation(rows: Tensor, values: Tensor) -> Tensor:
    """Pearson's correlation of each row with the values; 0 where either is constant."""
    return _cosine(rows - rows.mean(1, keepdim=True), values - values.mean(), rows, values)


def _partial(rows: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """The same, of what a least-squares fit of the known columns and a constant leaves of both."""
    columns = torch.cat([torch.ones_like(known[:, :1]), known], 1)
    # a constant control would otherwise leave a column of rounding errors
    u, s, _ = torch.linalg.svd(columns / columns.norm(dim=0).clamp(min=1e-30), full_matrices=False)
    basis = u[:, s > FLAT]
    left, rest = rows - rows @ basis @ basis.T, values - basis @ (basis.T @ values)
    centered = rows - rows.mean(1, keepdim=True)
    return _cosine(left, rest, centered, values - values.mean())


def _cosine(rows: Tensor, values: Tensor, before: Tensor, once: Tensor) -> Tensor:
    """Cosine of each row with the values; 0 if little is left of what they were before."""
    length, size = rows.norm(dim=1), values.norm()
    gone = (length <= FLAT * before.norm(dim=1)) | (size <= FLAT * once.norm())
    cosine = rows @ values / (length * size).clamp(min=1e-300)
    return torch.where(gone, 0.0, cosine)
