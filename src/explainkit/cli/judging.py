"""Scorecards of explained photos."""

from collections.abc import Iterator

import torch
import typer
from torch import Tensor, nn

from explainkit.cli.photos import Photo
from explainkit.errors import InputError
from explainkit.interfaces import spec_of
from explainkit.results.explanation import Explanations
from explainkit.results.scorecard import POWER_IMAGES, Scorecard, control_of

Explained = tuple[Photo, Explanations | InputError]
Judged = tuple[Photo, Explanations | InputError, list[Scorecard]]


def wants_scorecards(asked: bool | None, model: nn.Module, at: str | None) -> bool:
    """Whether maps get verdicts: as asked for, else where the network's power is known.

    Raises:
        typer.BadParameter: They are asked for, but the maps are those of a layer.
    """
    if asked and at is not None:
        raise typer.BadParameter("--scorecard hides parts of the image: leave out --at")
    spec = spec_of(model)
    known = spec is not None and spec.positive_control is not None
    return at is None and (known if asked is None else asked)


def judged(
    found: Iterator[Explained], model: nn.Module, photos: int, seed: int
) -> Iterator[Judged]:
    """Adds a scorecard for each map of each photo.

    Whether the network has enough power to tell maps apart is measured on the first ten photos,
    unless its specification knows that, or there are fewer: the ten are held back until then.

    Args:
        found: The explanations of each photo, or why it can't be read.
        model: The model.
        photos: Their number.
        seed: Random seed of what is hidden.
    """
    spec = spec_of(model)
    measures = photos >= POWER_IMAGES and (spec is None or spec.positive_control is None)
    held: list[Judged] = []
    controls: list[Tensor] = []
    control: tuple[int, int] | None = None
    for photo, one in found:
        if isinstance(one, InputError):
            held.append((photo, one, []))
        else:
            cards = one.scorecards(seed, power=measures)
            held.append((photo, one, cards))
            if measures and cards[0].power is not None:
                controls.append(cards[0].power)
        if measures and len(controls) < POWER_IMAGES:
            continue
        if measures:
            control, measures = control_of(torch.cat(controls)), False
        yield from _released(held, control)
    yield from _released(held, control)


def _released(held: list[Judged], control: tuple[int, int] | None) -> Iterator[Judged]:
    """What was held back, with verdicts only if the positive control passes."""
    while held:
        photo, one, cards = held.pop(0)
        yield photo, one, [card.controlled(control) for card in cards] if control else cards
