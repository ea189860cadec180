"""The parts of an evaluation: its images, what was found about a method, and pairs of methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from explainkit.results.plain import plain
from explainkit.results.scorecard import SENTENCES

FAILED = "not explained"
"""The verdict where there is no map: the image can't be read, or the method fails on it."""

VERDICTS = (*SENTENCES, FAILED)
"""All verdicts, from the best on."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedImage:
    """An image of an evaluation.

    Attributes:
        name: Its file name, or its place among the images.
        target: What was explained; empty if it could not be.
        predicted: The predicted classes, separated by commas; empty for values.
        label: The true class; empty if unknown.
        correct: Whether the true class is predicted; None if unknown.
        control: P-value of the positive control; None where there is none.
    """

    name: str
    target: str = ""
    predicted: str = ""
    label: str = ""
    correct: bool | None = None
    control: float | None = None

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "EvaluatedImage":
        """From JSON.

        Raises:
            TypeError: A field is missing or unknown, or of the wrong type.
        """
        found = EvaluatedImage(**values)
        texts = (found.name, found.target, found.predicted, found.label)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"expected texts, got {texts!r:.60}")
        if not isinstance(found.correct, bool | None):
            raise TypeError(f"correct: expected true, false or null, got {found.correct!r:.40}")
        if not isinstance(found.control, float | int | None):
            raise TypeError(f"control: expected a number or null, got {found.control!r:.40}")
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodResults:
    """What was found about one method.

    Attributes:
        method: Its name in this evaluation.
        name: Its qualified name.
        params: Its parameters, as text.
        verdict: On each image, one of `VERDICTS`.
        reason: Why an image was not explained or not judged, or why a test is missing; or empty.
        statistic: Of the three tests of a `Scorecard`, float64 ``[images, 3]``; NaN for none.
        p: Their p-values, ``[images, 3]``, not adjusted for the number of methods.
        swapped: P-values of the three tests for the map of the latest image before it of another
            class, put on each image, ``[images, 3]``; NaN for none.
        half_cell: Whether it was judged on a grid that is moved by half a cell, since it hides
            parts of the image itself.
        metrics: Further numbers by metric, float64 ``[images]``; NaN where undefined.
        undefined: For each metric, why it is undefined, for each image; or empty.
        warnings: What the method says about its maps.
    """

    method: str
    name: str
    params: str
    verdict: tuple[str, ...]
    reason: tuple[str, ...]
    statistic: Tensor
    p: Tensor
    swapped: Tensor
    half_cell: bool = False
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    undefined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON; NaN and infinity are None."""
        found: dict[str, Any] = plain(vars(self))
        return found

    @staticmethod
    def from_dict(values: Mapping[str, Any], count: int) -> "MethodResults":
        """From JSON.

        Args:
            values: What `to_dict` gave.
            count: Number of images.

        Raises:
            KeyError: A field is missing.
            TypeError: A field has the wrong type.
            ValueError: A field has another number of images, or a verdict is unknown.
        """
        found = MethodResults(
            method=str(values["method"]),
            name=str(values["name"]),
            params=str(values["params"]),
            verdict=tuple(values["verdict"]),
            reason=tuple(map(str, values["reason"])),
            statistic=_numbers(values["statistic"], (count, 3)),
            p=_numbers(values["p"], (count, 3)),
            swapped=_numbers(values["swapped"], (count, 3)),
            half_cell=bool(values["half_cell"]),
            metrics={name: _numbers(of, (count,)) for name, of in values["metrics"].items()},
            undefined={name: tuple(map(str, of)) for name, of in values["undefined"].items()},
            warnings=tuple(map(str, values["warnings"])),
        )
        texts = (found.verdict, found.reason, *found.undefined.values())
        if any(len(one) != count for one in texts):
            raise ValueError(f"{found.method}: expected verdicts and reasons of {count} images")
        if unknown := set(found.verdict) - set(VERDICTS):
            raise ValueError(f"{found.method}: unknown verdict {unknown.pop()!r:.40}")
        return found


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images, by the statistic of the first test.

    Attributes:
        first: A method.
        second: Another.
        images: Number of images on which both are judged.
        difference: Mean of the first's statistic minus the second's.
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        p: Of Wilcoxon's signed-rank test, two-sided.
        adjusted: p, adjusted over all pairs of methods by Holm's procedure.
    """

    first: str
    second: str
    images: int
    difference: float
    low: float
    high: float
    p: float
    adjusted: float


def _numbers(values: Any, shape: tuple[int, ...]) -> Tensor:
    """The tensor that `plain` made lists of.

    Raises:
        TypeError: Not nested lists of numbers.
        ValueError: Of another shape.
    """

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        return float("nan") if value is None else value

    found = torch.tensor(filled(values), dtype=torch.float64)
    if found.shape != shape:
        raise ValueError(f"expected numbers {list(shape)}, got {list(found.shape)}")
    return found
