"""Metrics as an evaluation calls them: on one map, with what each of them needs."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from explainkit.catalog.discovery import GIVEN, is_metric, registry
from explainkit.catalog.synonyms import bare_name
from explainkit.errors import ExplainkitWarning, MethodError

AnyMetric = str | Callable[..., Tensor]
"""A registered name, or a function; ``functools.partial`` gives one its options."""


@dataclass(frozen=True)
class Measure:
    """A metric.

    Attributes:
        name: How it is called in the results.
        function: The metric.
        needs: Its positional parameters.
        seeded: Whether it takes a seed.
    """

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    seeded: bool

    def __call__(self, values: Mapping[str, Any], seed: int) -> tuple[float, str]:
        """The number of one map, and why it is NaN.

        Args:
            values: What a metric can need, for a batch of one image.
            seed: Random seed.

        Raises:
            MethodError: The metric returns something else.
        """
        options = {"seed": seed} if self.seeded else {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ExplainkitWarning)
            found = self.function(*(values[name] for name in self.needs), **options)
        if not isinstance(found, Tensor) or found.shape != (1,):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MethodError(f"{self.name}: expected one number per image, [1], got {got}")
        number = float(found[0])
        if number == number:
            return number, ""
        said = [str(one.message) for one in caught if one.category is ExplainkitWarning]
        # "road: NaN for image 0: the map is constant"
        return number, said[0].split(": ", 2)[-1] if said else "no reason was given"


def measures(metrics: Sequence[AnyMetric], *, masked: bool) -> list[Measure]:
    """The metrics of names and functions.

    Args:
        metrics: The metrics.
        masked: Whether there are masks.

    Raises:
        UnknownNameError: No such metric.
        MethodError: Not a metric, two of one name, or one that needs masks where there are none.
    """
    found = [_measure(one) for one in metrics]
    names = [one.name for one in found]
    for one in found:
        if names.count(one.name) > 1:
            raise MethodError(f"expected each metric once, got {one.name} twice")
        if "mask" in one.needs and not masked:
            raise MethodError(f"{one.name}: expected masks=, which it compares maps with")
    return found


def _measure(metric: AnyMetric) -> Measure:
    function: Any = registry("metrics").get(metric) if isinstance(metric, str) else metric
    if not is_metric(function):
        raise MethodError(
            f"expected a metric's name, or a function of {', '.join(GIVEN)} with options by "
            f"keyword, got {metric!r:.80}"
        )
    chosen = function.keywords if isinstance(function, partial) else {}
    plain = function.func if isinstance(function, partial) else function
    name = getattr(plain, "__name__", type(plain).__name__)
    if isinstance(metric, str):
        name = bare_name(registry("metrics").qualify(metric))
    parameters = inspect.signature(function).parameters
    needs = tuple(one.name for one in parameters.values() if one.kind is not one.KEYWORD_ONLY)
    return Measure(name, function, needs, "seed" in parameters and "seed" not in chosen)
