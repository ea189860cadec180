"""The study's gradient ascent: the pictures that the filters of a layer answer to most."""

from collections.abc import Sequence
from typing import Any

from torch import nn

import explainkit as ek
from explainkit.visualization import Visualization

STEPS = 180


def ascend(
    model: nn.Module,
    layer: str,
    channels: Sequence[int] | None = None,
    *,
    steps: int = STEPS,
    maximizer: str = "explainkit/study",
    seed: int = 0,
) -> Visualization:
    """Maximises the mean activation of each filter, from a random picture of its own.

    Args:
        model: The network.
        layer: Dotted path.
        channels: Which filters; None: all.
        steps: Of gradient ascent.
        maximizer: Another way to maximise.
        seed: Of the random pictures.
    """
    units: Any = f'channels("{layer}")'
    if channels is not None:
        units = [f'channel("{layer}", {channel})' for channel in channels]
    return ek.maximize(model, units, maximizer=maximizer, steps=steps, seed=seed)


def ranked(found: Visualization, channels: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """A row per filter, the one that reaches most first, dead ones last.

    Args:
        found: Of `ascend`.
        channels: Numbers of the filters; None: they are all of a layer, in order.
    """
    numbers = channels or range(len(found))
    rows = [
        {
            "channel": number,
            "rank": int(found.rank[i]),
            "dead": bool(found.dead[i]),
            "converged": bool(found.converged[i]),
            "score": None if found.dead[i] else float(found.score[i]),
            "trace": found.trace[:, i].tolist(),
        }
        for i, number in enumerate(numbers)
    ]
    return sorted(rows, key=lambda row: row["rank"])
