"""What a report shows: the numbers and texts of explanations of the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainkit.errors import RenderError
from explainkit.render.heatmap import Reduce, Scaling, over_images, scale
from explainkit.render.parameters import parameters
from explainkit.render.shown_image import (
    LONGEST,
    OPACITY,
    ShownImage,
    boxes_of,
    notes,
    plain_images,
    to_bytes,
)
from explainkit.render.slices import planes, stacked
from explainkit.render.templates import clean

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation
    from explainkit.results.scorecard import Scorecard

SCALINGS = ("percentile:99", "percentile:97", "max", "cumulative:2")
SIGNS = ("signed", "positive", "absolute")

_MOST_BARS = 7
_MOST_HASHES = 4


@dataclass(frozen=True, eq=False)
class ModelPrediction:
    """The predictions of one model.

    Attributes:
        model: Its name.
        top: For each image, the most probable classes with their probabilities, in class order.
            Target and true classes are always included. Empty if the model has no probabilities.
        predicted: The predicted classes of each image: one, or any number of labels.
        confidence: Probability of the most probable one; None if the model has no probabilities.
    """

    model: str
    top: list[list[tuple[int, float]]]
    predicted: list[list[int]]
    confidence: list[float | None]


@dataclass(frozen=True, eq=False)
class Content:
    """Explanations of the same images, ready to be shown side by side.

    Of volumes, every slice is shown as an image.

    Attributes:
        explanations: One per map.
        shown: The images as they are shown, with all boxes that the maps are about; of volumes
            all slices of the first, then those of the second.
        under: For each explanation, the images under its maps, with its own boxes.
        notes: What there is to say about the images.
        maps: Each explanation's map, ``[batch, height, width]``, in the method's own unit; of
            volumes with the slices below each other, ``[batch, depth · height, width]``.
        readings: The predictions, one entry per model.
        labels: True class of each image; None if unknown.
        names: Names of the images.
        reduce: How channels were reduced to one.
        cards: The scorecard of each explanation, or none.
        depth: Slices of each volume; None for images.
    """

    explanations: "Sequence[Explanation]"
    shown: list[ShownImage]
    under: list[list[ShownImage]]
    notes: list[str]
    maps: list[NDArray[np.float64]]
    readings: list[ModelPrediction]
    labels: list[int | None]
    names: list[str]
    reduce: Reduce
    cards: "Sequence[Scorecard]" = ()
    depth: int | None = None

    def class_name(self, label: int) -> str:
        """Name of a class, or its kind and number."""
        return clean(self.explanations[0].class_name(label))

    def place(self, one: "Explanation") -> str:
        """The layer that a map explains, where the maps explain several; else empty."""
        if len({other.at for other in self.explanations}) == 1:
            return ""
        return f" at {one.at}" if one.at else " of the image"

    def overlays(self, m: int) -> list[NDArray[np.uint8]]:
        """Map ``m`` over each of `shown`; all slices of a volume have one scale."""
        rule = Scaling.parse(SCALINGS[0])
        strength = scale(torch.from_numpy(self.maps[m]), rule).values
        return [
            to_bytes(image.overlaid(one, rule.colors, rule.sign == "signed", OPACITY))
            for image, one in zip(
                self.under[m], strength.reshape(len(self.shown), -1, strength.shape[2]), strict=True
            )
        ]

    def predicted(self, row: int) -> str:
        """The predicted classes of an image, by name."""
        found = self.readings[0].predicted[row]
        return ", ".join(map(self.class_name, found)) or "no label"

    def correct(self, row: int) -> bool | None:
        """Whether the true class of an image is predicted; None if unknown."""
        prediction, label = self.readings[0], self.labels[row]
        if label is None or prediction.confidence[row] is None:
            return None
        return label in prediction.predicted[row]


def gather(
    explanations: "Sequence[Explanation]",
    labels: Sequence[int | None] | None,
    names: Sequence[str] | None,
    reduce: Reduce,
    longest: int = LONGEST,
    cards: "Sequence[Scorecard]" = (),
) -> Content:
    """Collects what explanations of the same images show.

    Originals are reduced to ``longest`` pixels on their longer side. The scorecards are those of
    the explanations, in their order, or none.
    """
    if not explanations or not len(explanations[0]):
        raise RenderError("expected at least one explained image to show, got none")
    first = explanations[0]
    for other in explanations[1:]:
        if other.inputs.shape != first.inputs.shape or not torch.equal(
            other.inputs.cpu(), first.inputs.cpu()
        ):
            raise RenderError(
                f"expected explanations of the same images, got other images from {other.method}: "
                "write a report for each"
            )
        if other.class_names != first.class_names:
            raise RenderError(
                f"expected models of the same classes, got {other.model} beside {first.model}: "
                "write a report for each"
            )
    count, classes = len(first), first.classes
    if cards and [len(card) for card in cards] != [count] * len(explanations):
        raise RenderError(
            f"expected a scorecard of {count} images for each of {len(explanations)} explanations, "
            f"got {[len(card) for card in cards]}"
        )
    for what, given in (("labels", labels), ("names", names)):
        if given is not None and len(given) != count:
            raise RenderError(f"expected {count} {what}, got {len(given)}")
    known = [None if label is None or label < 0 else int(label) for label in labels or []]
    known = known or [None] * count
    if beyond := [label for label in known if label is not None and label >= classes]:
        raise RenderError(f"labels: expected classes below {classes}, got {beyond[0]}")
    depth = first.inputs.shape[2] if first.inputs.ndim > 4 else None
    if depth is None:
        plain = plain_images(first, longest)
        boxes = [boxes_of(one) for one in explanations]
        under = [[one.about(own) for one, own in zip(plain, rows, strict=True)] for rows in boxes]
        shown = [
            one.about(np.concatenate(rows))
            for one, rows in zip(plain, zip(*boxes, strict=True), strict=True)
        ]
        maps = [over_images(one, reduce) for one in explanations]
    else:
        shown = planes(first)
        under = [shown] * len(explanations)
        maps = [stacked(one, reduce) for one in explanations]
    names = names or first.names
    return Content(
        explanations=explanations,
        shown=shown,
        under=under,
        notes=notes(shown),
        maps=[one.cpu().double().numpy() for one in maps],
        readings=_readings(explanations, known),
        labels=known,
        names=[clean(str(name)) for name in names]
        if names
        else [f"{'image' if depth is None else 'volume'} {i}" for i in range(count)],
        reduce=reduce,
        cards=cards,
        depth=depth,
    )


def explained_class(one: "Explanation", row: int) -> int | None:
    """The target class of an image; None if the target is an expression."""
    return None if one.expression is not None else int(one.target[row])


def _readings(
    explanations: "Sequence[Explanation]", labels: Sequence[int | None]
) -> list[ModelPrediction]:
    """The predictions of each distinct model."""
    distinct: list[Explanation] = []
    for one in explanations:
        if not any(
            other.model == one.model
            and other.logits.shape == one.logits.shape
            and other.task == one.task
            and torch.allclose(other.logits.cpu(), one.logits.cpu(), atol=1e-4)
            for other in distinct
        ):
            distinct.append(one)
    wanted = [
        {label, *(explained_class(one, i) for one in explanations)} - {None}
        for i, label in enumerate(labels)
    ]
    return [_reading(one, wanted) for one in distinct]


def _reading(one: "Explanation", wanted: Sequence[set[int | None]]) -> ModelPrediction:
    predicted = [one.predicted_classes(i) for i in range(len(one))]
    if (probabilities := one.probabilities) is None:
        return ModelPrediction(one.model, [[] for _ in predicted], predicted, [None] * len(one))
    probabilities = probabilities.detach().cpu().double()
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :_MOST_BARS].tolist()
    top = []
    for row, most_probable in enumerate(order):
        first = sorted(c for c in wanted[row] if c is not None and c < one.classes)
        shown = list(dict.fromkeys([*first, *most_probable]))[: max(_MOST_BARS, len(first))]
        top.append([(c, float(probabilities[row, c])) for c in sorted(shown)])
    return ModelPrediction(one.model, top, predicted, probabilities.amax(1).tolist())


def limits(maps: NDArray[np.float64]) -> dict[str, dict[str, list[float]]]:
    """Each map's value at full color, by scaling and sign."""
    tensor = torch.from_numpy(maps)
    return {
        rule: {
            sign: [float(f"{v:.7g}") for v in scale(tensor, f"{rule}:{sign}").limits.tolist()]
            for sign in SIGNS
        }
        for rule in SCALINGS
    }


def facts(one: "Explanation") -> dict[str, str]:
    """What all images of an explanation share: method, parameters, model, versions."""
    found = {
        "method": one.method,
        "parameters": parameters(one.params) or "none",
        "model": one.model,
        "layer": one.layer or "",
        "at": one.at or "",
        "target": one.target_name(0) if one.expression is not None else "",
        "seed": str(one.seed),
        "coverage": parameters(one.coverage) if one.coverage else "",
        **{
            name.replace("_", " "): str(value)
            for name, value in one.diagnostics.items()
            if not isinstance(value, Tensor) and name != "warnings"
        },
        "versions": ", ".join(f"{name} {version}" for name, version in one.versions.items()),
        **_receipt(one),
    }
    return {name: text for name, text in found.items() if text}


def _receipt(one: "Explanation") -> dict[str, str]:
    """The hashes that can be compared at sight; the page's data has all of them."""
    if one.receipt is None:
        return {}
    images = [image.get("sha256") or next(iter(image.values())) for image in one.receipt["images"]]
    return {
        "device": f"{one.receipt['device']}, {one.receipt['dtype']}",
        "sha256 of weights": (one.receipt["weights"] or "unknown")[:16],
        "sha256 of images": ", ".join(digest[:16] for digest in images[:_MOST_HASHES])
        + (", …" if len(images) > _MOST_HASHES else ""),
    }


def number(value: float) -> str:
    """Four significant digits, with a typographic minus sign."""
    return f"{value:.4g}".replace("-", "−")


def per_image(one: "Explanation") -> dict[str, list[str]]:
    """Numbers per image: the score, and diagnostics of shape ``[batch]``."""
    found = {"score": one.score} | {
        name.replace("_", " "): value
        for name, value in one.diagnostics.items()
        if isinstance(value, Tensor) and value.shape == (len(one),)
    }
    return {
        name: [number(v) for v in value.detach().cpu().double().tolist()]
        for name, value in found.items()
    }
