"""Judges one map of one image, or says why it can't be judged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from explainkit.metrics.cells import Cells
from explainkit.metrics.evidence import FLAT, Controls, Evidence, weigh
from explainkit.metrics.hiding import HidingEffects

LEAST_CELLS = 12
"""With fewer cells a quarter of them has too few to tell maps apart."""

_NAN = float("nan")
_NOTHING = Evidence((_NAN,) * 3, (_NAN,) * 3, "edges", (_NAN,) * 2)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found about one map of one image.

    Attributes:
        evidence: The three tests; all NaN if the map can't be judged.
        reason: Why it can't be; empty if it can.
        effects: How much hiding each cell lowers the score, float64 ``[cells]``.
        sums: The map's sum in each cell, float64 ``[cells]``.
    """

    evidence: Evidence
    reason: str
    effects: Tensor
    sums: Tensor


def judge(
    image: Tensor,
    values: Tensor,
    effects: HidingEffects,
    target: int,
    contrast: tuple[Tensor, int] | None = None,
) -> Judgement:
    """Judges a map ``[height, width]`` of an image ``[channel, height, width]``.

    Args:
        image: The image.
        values: The map.
        effects: What hiding parts of the image does.
        target: The explained class.
        contrast: The map of another class, and that class.
    """
    reason = _why_not(values, effects, target)
    evidence = _NOTHING
    if not reason:
        evidence = weigh(values, effects, target, Controls.of(image), contrast)
    return Judgement(evidence, reason, effects.of_cells(target), effects.cells.sums(values))


def positive_control(
    image: Tensor, effects: HidingEffects, elsewhere: HidingEffects, target: int
) -> float:
    """P-value of the first test for a map that is known to predict what hiding does.

    The map is the effects of hiding the cells of another grid, each spread over its cell. NaN if
    the effects can't be told from noise.

    Args:
        image: ``[channel, height, width]``.
        effects: What a map is judged by.
        elsewhere: The effects on a grid that is moved by half a cell.
        target: The explained class.
    """
    labels = elsewhere.cells.labels()
    density = elsewhere.of_cells(target) / torch.bincount(labels.flatten())
    return judge(image, density[labels], effects, target).evidence.p[0]


def _why_not(values: Tensor, effects: HidingEffects, target: int) -> str:
    """Why a map can't be judged; empty if it can."""
    if len(effects.cells) < LEAST_CELLS:
        return f"The image is too small: it has fewer than {LEAST_CELLS} cells."
    if not torch.isfinite(values).all():
        return "The map has values that are NaN or infinite."
    if not all(torch.isfinite(s).all() for s in (effects.clean, effects.single, effects.several)):
        return "With parts of the image hidden, the model's output is NaN or infinite."
    if bool((values == values.flatten()[0]).all()):
        return "The map has the same value everywhere."
    sums = effects.cells.sums(values)
    if float(sums.std()) <= FLAT * float(sums.abs().max()):
        return "The map has the same sum in every cell."
    if not effects.changes(target):
        return "Hiding parts of the image hardly changes the model's answer."
    return ""


def cells_for(height: int, width: int, *, half_cell: bool) -> tuple[Cells, Cells]:
    """The cells to judge on, and those of the positive control, which are half a cell apart."""
    plain = Cells.of(height, width)
    moved = plain.moved()
    return (moved, plain) if half_cell else (plain, moved)
