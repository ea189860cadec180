"""Walking a recorded forward backwards, with a rule in place of any operator's gradient."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import Node

from explainkit.errors import MethodError
from explainkit.graph.tape import Record, Trace, nodes_from

Gradients = Sequence[Tensor | None]


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator on the way back.

    Attributes:
        name: ``relu``, ``convolution``, …; the class of a Python function.
        node: Its autograd node.
        record: Its call; None for a Python function.
        index: Position among the operators of the forward, from its end.
    """

    name: str
    node: Node
    record: Record | None
    index: int

    @property
    def depends(self) -> tuple[bool, ...]:
        """For each differentiable input whether it comes from the image."""
        return tuple(below is not None for below, _ in self.node.next_functions)

    def gradient(self, *gradients: Tensor | None) -> Gradients:
        """What autograd itself gives for the inputs."""
        call = getattr(self.node, "apply", self.node)  # Python functions are not callable
        found = call(*gradients)
        return found if isinstance(found, tuple) else (found,)


class Rules(Protocol):
    """How each operator is passed on the way back.

    Attributes:
        keep: Names of the operators whose values the rules read.
    """

    keep: frozenset[str]

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        """What each input gets, and by which rule, in a word.

        Args:
            operator: What is passed.
            gradients: What each of its outputs got.
        """
        ...


@dataclass
class Coverage:
    """Which operators were met on the way, and by which rule each was passed.

    Attributes:
        counts: ``(operator, rule)`` to how often.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def as_dict(self, fallbacks: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The record of an explanation: operators, rules, and what fell back."""
        operators: dict[str, dict[str, int]] = {}
        for (name, rule), count in sorted(self.counts.items()):
            operators.setdefault(name, {})[rule] = count
        fell_back = {n: r for n, r in operators.items() if fallbacks & r.keys()}
        total = sum(self.counts.values())
        missed = sum(count for (_, rule), count in self.counts.items() if rule in fallbacks)
        return {
            "operators": operators,
            "total": total,
            "covered": total - missed,
            "fallbacks": sorted(fell_back),
        }


def propagate(trace: Trace, seeds: Tensor, rules: Rules) -> tuple[Tensor, Coverage]:
    """Carries ``seeds`` from the scores back to the image.

    With the gradient as the only rule this is the gradient.

    Args:
        trace: A recorded forward.
        seeds: Like the scores, ``[batch, classes]``: what each score starts with.
        rules: What happens at each operator.

    Returns:
        What reached the image, ``[batch, channel, height, width]``, and the coverage.

    Raises:
        MethodError: The scores don't depend on the image, or a rule refuses an operator.
    """
    root = trace.scores.grad_fn
    if root is None:
        raise MethodError(
            "expected a score that depends on the images, but no gradient reaches them: look for "
            "detach(), no_grad(), argmax or rounding in the model or the target"
        )
    coverage = Coverage()
    pending: dict[Node, dict[int, Tensor]] = {root: {trace.scores.output_nr: seeds}}
    reached = None
    with torch.no_grad():
        for index, node in enumerate(nodes_from(root)):
            given = pending.pop(node, None)
            if given is None:
                continue
            if (leaf := getattr(node, "variable", None)) is not None:
                if leaf is trace.inputs:
                    reached = given[0]
                continue
            operator = _operator(trace, node, index)
            found, rule = rules(operator, _outputs(node, given))
            coverage.counts[operator.name, rule] += 1
            for (below, slot), gradient in zip(node.next_functions, found, strict=True):
                if below is None or gradient is None:
                    continue
                slots = pending.setdefault(below, {})
                slots[slot] = slots[slot] + gradient if slot in slots else gradient
    if reached is None:
        reached = torch.zeros_like(trace.inputs)
    return reached, coverage


def _operator(trace: Trace, node: Node, index: int) -> Operator:
    record = trace.record_of(node)
    if record is None:
        return Operator(type(node).__name__.removesuffix("Backward"), node, None, index)
    return Operator(record.name, node, record, index)


def _outputs(node: Node, given: dict[int, Tensor]) -> Gradients:
    """Gradients of all outputs in order; None for those that nothing uses."""
    count = max(max(given) + 1, len(getattr(node, "_input_metadata", ())))
    return [given.get(i) for i in range(count)]
