"""The files that are written for an explained photo, and what is printed about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from explainkit.cli.photos import Photo
from explainkit.render.figure import save_figure
from explainkit.render.overlays import save_overlay
from explainkit.results.explanation import Explanation, Explanations
from explainkit.results.scorecard import Scorecard

MOST = 5
"""Classes whose probabilities JSON shows."""


def write(
    photo: Photo,
    found: Explanations,
    endings: Sequence[str],
    out: Path,
    *,
    figure: bool,
    command: str | None,
    cards: Sequence[Scorecard] = (),
) -> list[dict[str, Any]]:
    """Writes an overlay for each map, a figure of all, and the report if there is a command.

    Args:
        photo: The image file.
        found: Its explanations.
        endings: What follows the photo's name in the name of the figure and of each overlay.
        out: The folder.
        figure: Whether to draw the figure.
        command: The command line, which the report shows; None: no report.
        cards: The scorecard of each explanation, or none.

    Returns:
        Facts about each map, for JSON.
    """
    first, *overlays = [out / f"{photo.name}{ending}.png" for ending in endings]
    files = {}
    if figure:
        several = len(found) > 1
        panels = found.plot(cards=cards) if several else found[0].plot(card=next(iter(cards), None))
        files["figure"] = save_figure(panels, first)
    if command is not None:
        files["report"] = found.report(first.with_suffix(".html"), command=command, cards=cards)
    verdicts = [{"scorecard": card.facts(0)} for card in cards] or [{}] * len(found)
    return [
        {
            "image": str(photo.path),
            **_prediction(one),
            **_target(one),
            "score": float(one.score[0]),
            "method": one.method,
            "params": dict(one.params),
            "layer": one.layer,
            "at": one.at,
            "precision": one.precision,
            "rank_agreement": one.diagnostics.get("rank_agreement"),
            "warnings": list(one.diagnostics.get("warnings", ())),
            "overlay": str(save_overlay(one, path)),
            **{kind: str(file) for kind, file in files.items()},
            **verdict,
        }
        for one, path, verdict in zip(found, overlays, verdicts, strict=True)
    ]


def _target(one: Explanation) -> dict[str, Any]:
    """The explained class, or the expression."""
    if one.expression is not None:
        return {"target": one.expression, "target_index": None}
    label = int(one.target[0])
    return {"target": one.class_name(label), "target_index": label}


def line(row: dict[str, Any]) -> str:
    """What is printed about a map.

    Examples:
        >>> cat = {"class": "cat", "index": 3, "probability": 0.871}
        >>> row = {"image": "a.jpg", "predicted": [cat], "target": "dog", "target_index": 5,
        ...        "score": 2.5, "method": "explainkit/gradcam", "overlay": "a_gradcam.png"}
        >>> line(row)
        'a.jpg: cat (87%); gradcam of dog: a_gradcam.png'
    """
    predicted = row["predicted"]
    if predicted is None:
        said = f"{row['target']} = {row['score']:.3g}"
    else:
        named = (f"{one['class']} ({one['probability']:.0%})" for one in predicted)
        said = ", ".join(named) or "no label"
    explained = [row["target_index"]] == [one["index"] for one in predicted or ()]
    of = "" if explained or predicted is None else f" of {row['target']}"
    made = f"{row['image']}: {said}; {row['method'].rpartition('/')[2]}{of}: {row['overlay']}"
    card = row.get("scorecard")
    return made if card is None else f"{made}\n  {card['verdict']}. {card['sentence']}"


def _prediction(one: Explanation) -> dict[str, Any]:
    """The predicted class, or all predicted labels, and the most probable ones."""
    if one.probabilities is None:
        return {"predicted": None, "most_probable": None}
    chances = one.probabilities[0]
    most = chances.argsort(descending=True, stable=True)[:MOST].tolist()

    def facts(label: int) -> dict[str, Any]:
        name, chance = one.class_name(label), float(chances[label])
        return {"class": name, "index": label, "probability": chance}

    return {
        "predicted": [facts(label) for label in one.predicted_classes(0)],
        "most_probable": [facts(label) for label in most],
    }
