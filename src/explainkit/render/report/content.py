"""What a report says: the numbers and words of explanations, ready for a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explainkit.errors import RenderError
from explainkit.render.figure import parameters
from explainkit.render.heatmap import Reduce, Scaling, over_images, scale, to_pixels

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

SCALINGS = ("percentile:99", "percentile:97", "max", "cumulative:2")
SIGNS = ("signed", "positive", "absolute")

_MOST_BARS = 7


@dataclass(frozen=True, eq=False)
class ModelPrediction:
    """What one model makes of the images.

    Attributes:
        model: Its name.
        top: For each image its likeliest classes with their probabilities, in the order of the
            classes; explained and true ones are always among them. Empty if the model has one
            output only.
        read: The likeliest class of each image.
        confidence: Its probability; None if the model has one output only.
    """

    model: str
    top: list[list[tuple[int, float]]]
    read: list[int]
    confidence: list[float | None]


@dataclass(frozen=True, eq=False)
class Content:
    """Explanations of the same images, as a page needs them.

    Attributes:
        explanations: One per map.
        images: Each image as it looks, gray or RGB, uint8.
        remark: How the images were drawn if that took a guess, or "".
        maps: Each explanation's ``[batch, height, width]``.
        readings: One per model.
        reading: The number of its reading for each explanation.
        labels: True class of each image, None where it isn't known.
        names: Of the images.
    """

    explanations: "Sequence[Explanation]"
    images: list[NDArray[np.uint8]]
    remark: str
    maps: list[NDArray[np.float64]]
    readings: list[ModelPrediction]
    reading: list[int]
    labels: list[int | None]
    names: list[str]

    def class_name(self, label: int) -> str:
        """Name of a class, or its number in words."""
        known = self.explanations[0].class_names
        return clean(known[label]) if known else f"class {label}"


def clean(text: str) -> str:
    """Text in which what can't be seen or encoded, or turns the reading order, is replaced."""
    # the two joiners are letters' business in Persian, Hindi and emoji
    return "".join(c if c.isprintable() or c in "\n\u200c\u200d" else "�" for c in text)


def gather(
    explanations: "Sequence[Explanation]",
    labels: Sequence[int | None] | None,
    names: Sequence[str] | None,
    reduce: Reduce,
) -> Content:
    """Puts explanations side by side.

    Raises:
        RenderError: None were given, they are of different images or classes, or labels or
            names aren't one per image.
    """
    if not explanations or not len(explanations[0]):
        raise RenderError("expected at least one explained image to report on, got none")
    first = explanations[0]
    for other in explanations[1:]:
        if other.inputs.shape != first.inputs.shape or not torch.equal(
            other.inputs.cpu(), first.inputs.cpu()
        ):
            raise RenderError(
                f"expected explanations of the same images, got others from {other.method}: "
                "write a report for each"
            )
        if other.class_names != first.class_names:
            raise RenderError(
                f"expected models of the same classes, got {other.model} beside {first.model}: "
                "write a report for each"
            )
    count, classes = first.logits.shape
    for what, given in (("labels", labels), ("names", names)):
        if given is not None and len(given) != count:
            raise RenderError(f"expected {count} {what}, got {len(given)}")
    known = [None if label is None or label < 0 else int(label) for label in labels or []]
    known = known or [None] * count
    if beyond := [label for label in known if label is not None and label >= classes]:
        raise RenderError(f"labels: expected classes below {classes}, got {beyond[0]}")
    drawn = [to_pixels(one, first.mean, first.std) for one in first.inputs]
    readings, reading = _readings(explanations, known)
    return Content(
        explanations=explanations,
        images=[np.rint(image * 255).astype(np.uint8) for image, _ in drawn],
        remark="; ".join(dict.fromkeys(remark for _, remark in drawn if remark)),
        maps=[over_images(one, reduce).cpu().double().numpy() for one in explanations],
        readings=readings,
        reading=reading,
        labels=known,
        names=[clean(str(name)) for name in names]
        if names
        else [f"image {i}" for i in range(count)],
    )


def explained_class(one: "Explanation", row: int) -> int | None:
    """The class that was explained; None where it was an expression."""
    return None if one.expression is not None else int(one.target[row])


def _readings(
    explanations: "Sequence[Explanation]", labels: Sequence[int | None]
) -> tuple[list[ModelPrediction], list[int]]:
    """What each model says, once, and which explanation has which."""
    distinct: list[Explanation] = []
    numbers = []
    for one in explanations:
        same = (
            i
            for i, other in enumerate(distinct)
            if other.model == one.model
            and other.logits.shape == one.logits.shape
            and torch.allclose(other.logits.cpu(), one.logits.cpu(), atol=1e-4)
        )
        numbers.append(next(same, len(distinct)))
        if numbers[-1] == len(distinct):
            distinct.append(one)
    wanted = [
        {label, *(explained_class(one, i) for one in explanations)} - {None}
        for i, label in enumerate(labels)
    ]
    return [_reading(one, wanted) for one in distinct], numbers


def _reading(one: "Explanation", wanted: Sequence[set[int | None]]) -> ModelPrediction:
    logits = one.logits.detach().cpu().double()
    read = logits.argmax(1).tolist()
    if logits.shape[1] == 1:
        return ModelPrediction(one.model, [[] for _ in read], read, [None] * len(read))
    probabilities = logits.softmax(1)
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :_MOST_BARS].tolist()
    top = []
    for row, likeliest in enumerate(order):
        first = sorted(c for c in wanted[row] if c is not None and c < logits.shape[1])
        shown = list(dict.fromkeys([*first, *likeliest]))[: max(_MOST_BARS, len(first))]
        top.append([(c, float(probabilities[row, c])) for c in sorted(shown)])
    return ModelPrediction(one.model, top, read, probabilities.amax(1).tolist())


def limits(maps: NDArray[np.float64]) -> dict[str, dict[str, list[float]]]:
    """What full color stands for under each scaling and sign, for each map."""
    tensor = torch.from_numpy(maps)
    return {
        rule: {
            sign: [float(f"{v:.7g}") for v in scale(tensor, f"{rule}:{sign}").limits.tolist()]
            for sign in SIGNS
        }
        for rule in SCALINGS
    }


def scaling_titles() -> dict[str, str]:
    """Each scaling in words."""
    return {rule: Scaling.parse(rule).title for rule in SCALINGS}


def facts(one: "Explanation") -> dict[str, str]:
    """What is the same for all images of an explanation."""
    found = {
        "method": one.method,
        "parameters": parameters(one.params) or "none",
        "model": one.model,
        "layer": one.layer or "",
        "at": one.at or "",
        "explained": one.expression or "",
        "seed": str(one.seed),
        "coverage": parameters(one.coverage) if one.coverage else "",
        **{
            name.replace("_", " "): str(value)
            for name, value in one.diagnostics.items()
            if not isinstance(value, Tensor) and name != "warnings"
        },
        "versions": ", ".join(f"{name} {version}" for name, version in one.versions.items()),
    }
    return {name: text for name, text in found.items() if text}


def number(value: float) -> str:
    """Four digits, with a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


def per_image(one: "Explanation") -> dict[str, list[str]]:
    """Numbers that each image has of its own: the score, and diagnostics ``[batch]``."""
    found = {"score": one.score} | {
        name.replace("_", " "): value
        for name, value in one.diagnostics.items()
        if isinstance(value, Tensor) and value.shape == (len(one),)
    }
    return {
        name: [number(v) for v in value.detach().cpu().double().tolist()]
        for name, value in found.items()
    }
