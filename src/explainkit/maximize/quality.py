"""How far a picture can be trusted: measures per unit, and the line that is printed under it."""

import math

from explainkit.visualization import Visualization

ROBUST = 0.5
"""A picture that keeps less than this share of its score under small changes is a speck."""


def caption(visualization: Visualization, index: int) -> str:
    """What is known of one picture, in one line.

    Args:
        visualization: With whatever quality was measured.
        index: The unit.
    """
    if bool(visualization.dead[index]):
        return "dead: answers to no picture"
    quality = {name: float(values[index]) for name, values in visualization.quality.items()}
    parts = [f"score {float(visualization.score[index]):.3g}"]
    for name, words in _WORDS.items():
        value = quality.get(name, math.nan)
        if not math.isnan(value):
            parts.append(words.format(value))
    if not bool(visualization.converged[index]):
        parts.append("still rising")
    if quality.get("robust_gain", 1.0) < ROBUST:
        parts.append("NOT ROBUST: a speck rather than a pattern")
    if quality.get("path_similarity", 1.0) < 0:
        parts.append("UNNATURAL: processed unlike real pictures")
    return " · ".join(parts)


_WORDS = {
    "gain": "{:.2g}× best real",
    "robust_gain": "robust {:.2f}",
    "selectivity": "rank {:.0f} in its layer",
    "transfer": "other net {:.0%}",
    "plausibility": "KID {:.2g}",
    "path_similarity": "path {:+.2f}",
    "choice_synthetic": "2-choice {:.0%}",
    "choice_exemplars": "(real {:.0%})",
}
