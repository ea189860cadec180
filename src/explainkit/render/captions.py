"""Captions of synthetic images: quality measures and warnings as text."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainkit.catalog.synonyms import model_title
from explainkit.errors import TargetError
from explainkit.expressions.terms import Channel, Logit
from explainkit.expressions.text import parse, shortened

if TYPE_CHECKING:
    from explainkit.results.visualization import Visualization


ROBUST = 0.5
"""An image that keeps less than this fraction of its gain under small changes is not robust."""


@dataclass(frozen=True)
class Measure:
    """How one of the values of ``Visualization.quality`` is displayed.

    Attributes:
        label: Name on a unit card.
        text: Format of the value on a unit card.
        words: Format of the value in a caption.
        note: What the value is relative to.
        fine: Whether a value is good; None: there is no threshold.
    """

    label: str
    text: str
    words: str
    note: str
    fine: Callable[[float], bool] | None = None


MEASURES = {
    "gain": Measure(
        "gain", "{:.2f}", "gain {:.2g} (best real image: 1)",
        "1: best real image; 0: mean of all real images", lambda v: v > 1,
    ),
    "robust_gain": Measure(
        "robust gain", "{:.2f}", "robust {:.2f}",
        "fraction of the gain left under shifts, rotations and noise", lambda v: v >= 0.7,
    ),
    "selectivity": Measure(
        "selectivity", "rank {:.0f}", "rank {:.0f} in its layer",
        "among the units of its layer, each z-scored", lambda v: v == 1,
    ),
    "transfer": Measure(
        "transfer", "{:.0%}", "other network {:.0%}",
        "probability of the class in another network",
    ),
    "spectrum_error": Measure(
        "spectrum", "off {:.2f}", "spectrum off {:.2f}",
        "difference of the power spectrum's slope from real images",
    ),
    "path_similarity": Measure(
        "path", "{:+.2f}", "path {:+.2f}",
        "above 0: processed like real images", lambda v: v >= 0,
    ),
    "choice_synthetic": Measure(
        "two-choice", "{:.0%}", "2-choice {:.0%}",
        "picks the right one of two real images, given this one",
    ),
    "choice_exemplars": Measure(
        "two-choice, real", "{:.0%}", "(real {:.0%})",
        "the same, given real images instead; chance is 50%",
    ),
}  # fmt: skip
"""In the order of display."""


def measured(visualization: "Visualization", index: int) -> dict[str, float]:
    """The quality measures of a unit, in the order of `MEASURES`."""
    values = {name: float(all_[index]) for name, all_ in visualization.quality.items()}
    return {name: values[name] for name in MEASURES if not math.isnan(values.get(name, math.nan))}


def doubts(visualization: "Visualization", index: int) -> list[str]:
    """Reasons not to trust a unit's image, each a short phrase."""
    found = []
    quality = measured(visualization, index)
    if not bool(visualization.converged[index]):
        found.append("not converged")
    if quality.get("robust_gain", 1.0) < ROBUST:
        found.append("NOT ROBUST: an isolated speck, not a pattern")
    if quality.get("path_similarity", 1.0) < 0:
        found.append("UNNATURAL: processed unlike real images")
    return found


def headline(visualization: "Visualization") -> str:
    """Layer, model and maximizer."""
    maximizer = visualization.maximizer.rpartition("/")[2]
    what = f"layer {visualization.layer}" if visualization.layer else "scores"
    return f"Maximizing {what} of {model_title(visualization.model)} ({maximizer})"


def unit_name(visualization: "Visualization", index: int) -> str:
    """What distinguishes a unit within its layer: its number, its class, or its objective."""
    objective, names = visualization.objective[index], visualization.class_names
    try:
        term = parse(objective)
    except TargetError:
        return objective
    match term:
        case Channel(index=number):
            return str(number)
        case Logit(name=int(number)) if 0 <= number < len(names):
            return names[number]
        case Logit(name=name):
            return str(name)
    return shortened(objective)


def caption(visualization: "Visualization", index: int) -> str:
    """One line about an image: score, warnings, quality measures."""
    if bool(visualization.dead[index]):
        return "dead: no image activates it"
    # warnings come early because a narrow cell cuts off the end
    parts = [f"score {float(visualization.score[index]):.3g}", *doubts(visualization, index)]
    for name, value in measured(visualization, index).items():
        parts.append(MEASURES[name].words.format(value))
    return " · ".join(parts)
