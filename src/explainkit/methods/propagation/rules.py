"""The base of propagation methods: the backward pass, and operators without a rule."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.passes import Needs, recorded_forward
from explainkit.errors import MethodError
from explainkit.graph.backward import Coverage, Operator, Rules, propagate
from explainkit.graph.tape import RecordedForward
from explainkit.interfaces import Attribution

Unsupported = Literal["error", "gradient"]

FALLBACK = "gradient (no rule)"
"""How coverage reports an operator that has no rule, where its gradient was used."""


def fall_back(operator: Operator, unsupported: Unsupported, what: str) -> str:
    """The name under which coverage reports a plain gradient, or an error.

    Args:
        operator: The operator without a rule.
        unsupported: What the caller chose.
        what: Name of the method, for the error.

    Raises:
        MethodError: ``unsupported`` is ``"error"``.
    """
    if unsupported == "gradient":
        return FALLBACK
    raise MethodError(
        f"{what} has no rule for the operator {operator.name!r} of this model: rewrite that step "
        "with supported operators, or pass unsupported='gradient' to use its plain gradient "
        "(the coverage of the result then reports it)"
    )


@dataclass(frozen=True)
class RuleMethod(Typed):
    """Base of the methods that have a rule for every operator.

    Attributes:
        keep: Names of the operators whose values the rules read.
        unsupported: What happens at an operator that has no rule: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.
    """

    volumes: ClassVar[bool] = True

    keep: ClassVar[frozenset[str]] = frozenset()
    unsupported: Unsupported = field(default="error", kw_only=True)

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """A recorded forward, with the values that the rules read."""
        return Needs(values=self.keep)


def seeds_of(trace: RecordedForward, target: Tensor) -> Tensor:
    """One at each image's target, zero elsewhere; shaped like the scores."""
    seeds = torch.zeros_like(trace.scores)
    return seeds.scatter_(1, target[:, None], 1.0)


def propagated(model: nn.Module, inputs: Tensor, target: Tensor, rules: Rules) -> Attribution:
    """The map of the target's score, with its `report`, by rules that read no values."""
    trace = recorded_forward(model, inputs, frozenset())
    values, coverage = propagate(trace, seeds_of(trace, target), rules)
    return Attribution(values, **report(coverage))


def report(coverage: Coverage) -> dict[str, Any]:
    """The fields of an `Attribution` that report coverage and fallbacks."""
    found = coverage.as_dict(frozenset({FALLBACK}))
    names = ", ".join(found["fallbacks"])
    warning = f"no rule for {names}: the plain gradient was used, as requested"
    return {"coverage": found, "warnings": (warning,) if names else ()}
