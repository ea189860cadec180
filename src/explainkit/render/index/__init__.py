"""The index of many explained images: one HTML page of thumbnails, written a card at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from explainkit.catalog.synonyms import bare_name
from explainkit.errors import RenderError
from explainkit.files import reason, replacing
from explainkit.render.heatmap import over_images
from explainkit.render.report.sheets import data_uri
from explainkit.render.shown_image import overlay, shown_images, to_bytes
from explainkit.render.templates import inline, pieces

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

_PACKAGE = "explainkit.render.index"

THUMBNAIL = 144
"""Pixels of the longer side of a thumbnail."""


@dataclass(frozen=True)
class Card:
    """One image of the index.

    Attributes:
        name: Its id.
        status: ``"ok"``, ``"refused"`` or ``"failed"``.
        reason: Why it has no map, or "".
        target: What was explained, or "".
        predicted: The predicted class, or "".
        confidence: The probability of the explained class; None if there is none.
        verdicts: That of each map; empty without scorecards.
        images: Its thumbnails as ``data:`` URIs: the image, then each map over it.
    """

    name: str
    status: str
    reason: str = ""
    target: str = ""
    predicted: str = ""
    confidence: float | None = None
    verdicts: Sequence[str] = ()
    images: Sequence[str] = ()


@dataclass(frozen=True)
class Summary:
    """What stands above the cards.

    Attributes:
        model: The model's name.
        methods: Names of the methods, in the order of the maps.
        counts: How many images have which status.
        notes: What else there is to say, one line each.
        facts: What was computed, by name.
        command: The command line that computed it, or "".
    """

    model: str
    methods: Sequence[str]
    counts: Mapping[str, int]
    notes: Sequence[str]
    facts: Mapping[str, str]
    command: str = ""


def thumbnails(explanations: "Sequence[Explanation]") -> list[str]:
    """The image and each map over it, small, as ``data:`` URIs.

    Args:
        explanations: Of the same single image.

    Raises:
        RenderError: A map can't be drawn over its image.
    """
    [shown] = shown_images(explanations[0], THUMBNAIL)
    images = [shown.pixels]
    images += [overlay(shown, over_images(one)[0].cpu()) for one in explanations]
    found = []
    for one in images:
        image = Image.fromarray(to_bytes(one)).convert("RGB")
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=None)
        found.append(data_uri(image, exact=False))
    return found


def write_index(
    path: Path, summary: Summary, cards: Iterable[Card], classes: Sequence[str]
) -> Path:
    """Writes the page; one card is in memory at a time.

    Args:
        path: The file; it is written atomically.
        summary: What stands above the cards.
        cards: The images.
        classes: Predicted classes to filter by.

    Raises:
        RenderError: The file can't be written, or a map can't be drawn.
    """
    verdicts: dict[str, None] = {}
    text = pieces(
        _PACKAGE, "index.html",
        style=inline(_PACKAGE, "index.css"),
        script=inline(_PACKAGE, "index.js"),
        summary=summary,
        methods=[bare_name(name) for name in summary.methods],
        cards=_noting(cards, verdicts),
        classes=classes,
        verdicts=verdicts,
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for piece in text:
                file.write(piece.encode())
    except OSError as error:
        raise RenderError(f"can't write {path}: {reason(error)}") from error
    return path


def _noting(cards: Iterable[Card], verdicts: dict[str, None]) -> Iterator[Card]:
    """The cards, whose verdicts are collected on the way: filters stand behind the cards."""
    for card in cards:
        verdicts |= dict.fromkeys(card.verdicts)
        yield card
