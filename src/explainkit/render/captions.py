"""What is said under an image: its measures in words, and what to doubt."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explainkit.results.visualization import Visualization


ROBUST = 0.5
"""An image that keeps less than this share of its gain under small changes is a speck."""


@dataclass(frozen=True)
class Measure:
    """How one of the values of ``Visualization.quality`` is read.

    Attributes:
        label: Its name.
        text: Format of the value.
        words: Format of the value in a caption.
        note: What it is measured against.
        fine: Whether a value is as it should be; None: it has no target.
    """

    label: str
    text: str
    words: str
    note: str
    fine: Callable[[float], bool] | None = None


MEASURES = {
    "gain": Measure(
        "gain", "{:.2f}", "gain {:.2g} (best real image: 1)",
        "the best real image is 1, the mean of all is 0", lambda v: v > 1,
    ),
    "robust_gain": Measure(
        "robust gain", "{:.2f}", "robust {:.2f}",
        "share that is left under shifts, turns and noise", lambda v: v >= 0.7,
    ),
    "selectivity": Measure(
        "selectivity", "rank {:.0f}", "rank {:.0f} in its layer",
        "among its layer's units, each standardized", lambda v: v == 1,
    ),
    "transfer": Measure(
        "transfer", "{:.0%}", "other net {:.0%}",
        "probability of the class in another network",
    ),
    "spectrum_error": Measure(
        "spectrum", "off {:.2f}", "spectrum off {:.2f}",
        "slope of the power spectrum against real images'",
    ),
    "path_similarity": Measure(
        "path", "{:+.2f}", "path {:+.2f}",
        "above 0: processed as its real images are", lambda v: v >= 0,
    ),
    "choice_synthetic": Measure(
        "two-choice", "{:.0%}", "2-choice {:.0%}",
        "right one of two real images told by this one",
    ),
    "choice_exemplars": Measure(
        "two-choice, real", "{:.0%}", "(real {:.0%})",
        "told by the real images instead; chance is 50 %",
    ),
}  # fmt: skip
"""In the order in which they are told."""


def measured(visualization: "Visualization", index: int) -> dict[str, float]:
    """The measures that a unit has, in the order of `MEASURES`."""
    values = {name: float(all_[index]) for name, all_ in visualization.quality.items()}
    return {name: values[name] for name in MEASURES if not math.isnan(values.get(name, math.nan))}


def doubts(visualization: "Visualization", index: int) -> list[str]:
    """Reasons not to trust a unit's image, each in a few words."""
    found = []
    quality = measured(visualization, index)
    if not bool(visualization.converged[index]):
        found.append("still rising")
    if quality.get("robust_gain", 1.0) < ROBUST:
        found.append("NOT ROBUST: a speck rather than a pattern")
    if quality.get("path_similarity", 1.0) < 0:
        found.append("UNNATURAL: processed unlike real images")
    return found


def caption(visualization: "Visualization", index: int) -> str:
    """What is known of one image, in one line.

    Args:
        visualization: With whatever quality was measured.
        index: The unit.
    """
    if bool(visualization.dead[index]):
        return "dead: answers to no image"
    # what to doubt comes early: a narrow place cuts the end off
    parts = [f"score {float(visualization.score[index]):.3g}", *doubts(visualization, index)]
    for name, value in measured(visualization, index).items():
        parts.append(MEASURES[name].words.format(value))
    return " · ".join(parts)
