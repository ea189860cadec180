"""One image of an evaluation: its maps by all methods, judged and measured."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from explainkit.api import explain
from explainkit.errors import ExplainkitError, ExplainkitWarning, InputError, clipped, line
from explainkit.evaluation.measures import Measure
from explainkit.interfaces import Method, Target
from explainkit.methods.contract import hides_parts
from explainkit.metrics.scorecard import Maps, scorecard_of
from explainkit.render.heatmap import Reduce
from explainkit.results.evaluated import FAILED, EvaluatedImage
from explainkit.results.explanation import Explanation
from explainkit.results.scorecard import Scorecard, verdict_of
from explainkit.scores import Task, class_index

_NAN = (float("nan"),) * 3


@dataclass(frozen=True)
class Judged:
    """What was found about one map, or why there is none.

    Attributes:
        verdict: One of `VERDICTS`.
        reason: Why there is none, or why a test is missing.
        statistic: Of the three tests.
        p: Their p-values.
        swapped: P-values of the tests for the map of another image, put on this one.
        half_cell: Whether the grid was moved by half a cell.
        metrics: Numbers by metric, each with the reason if it is NaN.
        warnings: What the method says about the map.
        versions: Of the packages involved.
    """

    verdict: str
    reason: str = ""
    statistic: tuple[float, ...] = _NAN
    p: tuple[float, ...] = _NAN
    swapped: tuple[float, ...] = _NAN
    half_cell: bool = False
    metrics: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


class Latest:
    """Keeps the maps of the latest image, and of the latest image of another class."""

    def __init__(self) -> None:
        self._kept: dict[int, Maps] = {}

    def __call__(self, label: int, maps: Maps) -> Maps | None:
        """Keeps the maps of an image, and gives those of the latest image of another class."""
        shape = maps[0].shape
        others = {of: kept for of, kept in self._kept.items() if of != label}
        self._kept = dict([*others.items()][-1:]) | {label: maps}
        fitting = [kept for kept in others.values() if kept[0].shape == shape]
        return fitting[-1] if fitting else None


@dataclass(frozen=True, eq=False)
class Judge:
    """What is asked about every image.

    Attributes:
        module: The model.
        methods: Ready to be called.
        measures: Further metrics.
        seed: Random seed of what is hidden and of the metrics.
        method_seed: That of the methods; None: their own.
        reduce: How channels are reduced to one, as the maps are drawn.
        output: Which of several outputs holds the scores.
        task: What they decide.
        class_names: In the order of the classes.
        latest: For each method, the latest maps, which are put on the next images.
    """

    module: nn.Module
    methods: Sequence[Method]
    measures: Sequence[Measure]
    seed: int
    method_seed: int | None
    reduce: Reduce
    output: int | str | None
    task: Task | None
    class_names: Sequence[str] | None
    latest: Mapping[int, Latest] = field(default_factory=lambda: defaultdict(Latest))

    def __call__(
        self, name: str, image: Tensor, target: Target, label: Any, mask: Tensor | None
    ) -> tuple[EvaluatedImage, list[Judged], list[Exception]]:
        """Explains an image ``[1, channel, height, width]`` and judges each map.

        Args:
            name: Of the image.
            image: As the model takes it.
            target: What to explain.
            label: The true class; None if unknown.
            mask: bool ``[1, height, width]`` for metrics that need one.

        Returns:
            What is known about the image, the findings, one per method, and what went wrong.

        Raises:
            TargetError: The model has no such true class.
        """
        maps = self.explained(image, target)
        facts = unexplained(name, label)
        failures = [one for one in maps if isinstance(one, Exception)]
        found: list[Judged] = []
        control: float | None = None
        able = [i for i, one in enumerate(maps) if not isinstance(one, Exception)]
        # by a method that is judged on the plain grid, if there is one: whatever their order
        controlled = min(able, key=lambda i: hides_parts(self.methods[i]), default=None)
        for i, (method, one) in enumerate(zip(self.methods, maps, strict=True)):
            if isinstance(one, Exception):
                found.append(Judged(FAILED, why(one)))
                continue
            if not facts.target:
                facts = _facts(one, name, label)
            card = attempted(
                scorecard_of, one, one._origin, None,
                reduce=self.reduce, power=i == controlled, seed=self.seed, swap=self.latest[i],
            )  # fmt: skip
            if isinstance(card, Exception):
                failures.append(card)
            elif card.power is not None and not card.power.isnan():
                control = float(card.power)
            found.append(_judged(card, one, self.measured(one, method, target, mask)))
        return replace(facts, control=control), found, failures

    def explained(self, image: Tensor, target: Target) -> list[Explanation | Exception]:
        """The map of each method, or what it raised; together where they can share passes."""

        def run(methods: Sequence[Method]) -> list[Explanation]:
            return explain(
                self.module, image, target, tuple(methods), seed=self.method_seed,
                output=self.output, task=self.task, class_names=self.class_names,
            )  # fmt: skip

        with warnings.catch_warnings(action="ignore", category=ExplainkitWarning):
            together = attempted(run, self.methods)
            if not isinstance(together, Exception):
                return list(together)
            if len(self.methods) == 1:
                return [together]
            alone = [attempted(run, [method]) for method in self.methods]
        return [one if isinstance(one, Exception) else one[0] for one in alone]

    def measured(
        self, one: Explanation, method: Method, target: Target, mask: Tensor | None
    ) -> dict[str, tuple[float, str]]:
        """The number of each metric, with the reason if it is NaN."""
        plain = self.reduce == "sum"  # metrics sum the channels themselves
        values = {
            "model": self.module,
            "inputs": one.inputs,
            "attribution": one.attribution if plain else one.heatmap(self.reduce)[:, None],
            "target": target if one.expression is not None else one.target,
            "mask": mask,
            "method": method,
        }
        found = {}
        for measure in self.measures:
            number = attempted(measure, values, self.seed)
            failed = isinstance(number, Exception)
            found[measure.name] = (float("nan"), why(number)) if failed else number
        return found


def attempted(call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What a call returns, or the exception that it raises: one image does not stop the others."""
    try:
        return call(*given, **options)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a caller's model or images may raise anything
        return error


def why(error: Exception) -> str:
    """An exception as a reason, in one line without a full stop."""
    if not isinstance(error, ExplainkitError):
        return line(error)
    return clipped(str(error).partition("\n")[0]).rstrip(".")


def unexplained(name: str, label: Any) -> EvaluatedImage:
    """An image of which nothing is known but its name and its true class."""
    return EvaluatedImage(name=name, label="" if label is None else str(label))


def _facts(one: Explanation, name: str, label: Any) -> EvaluatedImage:
    """What is known about an image.

    Raises:
        TargetError: The model has no such true class.
        InputError: The label is no class.
    """
    predicted = one.predicted_classes(0)
    said = ", ".join(map(one.class_name, predicted))
    known = EvaluatedImage(name=name, target=one.target_name(0), predicted=said)
    if label is None or str(label) == "-1":
        return known
    if not isinstance(label, str) or (label.isdecimal() and label not in one.class_names):
        try:
            label = int(label)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"labels: expected one class per image, by index or name, got {label!r:.60}"
            ) from error
    true = class_index(label, one.classes, one.class_names)
    correct = None if one.predicted is None else true in predicted
    return replace(known, label=one.class_name(true), correct=correct)


def _judged(
    card: Scorecard | Exception, one: Explanation, numbers: Mapping[str, tuple[float, str]]
) -> Judged:
    said = tuple(one.diagnostics.get("warnings", ()))
    if isinstance(card, Exception):
        return Judged(
            "cannot be judged", why(card), metrics=numbers, warnings=said, versions=one.versions
        )
    # what is known of the network from elsewhere does not count where many images tell
    verdict = verdict_of(card.p[0].tolist(), card.control[0])
    swapped = _NAN if card.swapped is None else tuple(card.swapped[0].tolist())
    return Judged(
        verdict, card.reason[0], tuple(card.statistic[0].tolist()), tuple(card.p[0].tolist()),
        swapped, card.half_cell, numbers, said, one.versions,
    )  # fmt: skip
