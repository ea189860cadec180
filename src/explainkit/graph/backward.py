"""Traverses a recorded forward pass backwards, with rules in place of operators' gradients."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import Node

from explainkit.errors import MethodError
from explainkit.graph.autograd import contiguous, refuse_reentrant
from explainkit.graph.names import BATCH_NORMS, SHAPES
from explainkit.graph.tape import COPY_SLICES, Record, RecordedForward, name_of, nodes_from

Gradients = Sequence[Tensor | None]


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator of the backward traversal.

    Attributes:
        name: ``relu``, ``convolution``, …; for a Python function its class.
        node: Its autograd node.
        record: Its call; None for a Python function or a view that never ran.
        users: For every node of the forward pass, the number of nodes that use its output.
    """

    name: str
    node: Node
    record: Record | None
    users: Mapping[Node, int]

    @property
    def depends(self) -> tuple[bool, ...]:
        """For each differentiable input, whether it depends on the image."""
        return tuple(below is not None for below, _ in self.node.next_functions)

    def gradient(self, *gradients: Tensor | None) -> Gradients:
        """Autograd's own gradients for the inputs."""
        # the node of a Python function is not callable but has `apply`
        call = self.node if callable(self.node) else getattr(self.node, "apply")  # noqa: B009
        if self.name in BATCH_NORMS:
            gradients = tuple(map(contiguous, gradients))
        found = call(*gradients)
        several = found if isinstance(found, tuple) else (found,)
        return [
            None if g is None or below is None else _fit(g, below, slot)
            for g, (below, slot) in zip(several, self.node.next_functions, strict=True)
        ]


def _fit(gradient: Tensor, node: Node, slot: int) -> Tensor:
    """Sums over broadcast dimensions, as autograd's engine does between nodes."""
    leaf = getattr(node, "variable", None)
    shape = leaf.shape if leaf is not None else torch.Size(node._input_metadata[slot].shape)
    return gradient if gradient.shape == shape else gradient.sum_to_size(shape)


@dataclass(frozen=True, eq=False)
class _SliceOperator(Operator):
    """An operator that changed a part of a larger tensor in place, treated as if on its own."""

    whole: Tensor

    def slice_of(self, tensor: Tensor) -> Tensor:
        """The part of the larger tensor, as a view."""
        assert self.record is not None
        assert self.record.slot is not None
        size, stride, offset = self.record.slot
        return tensor.as_strided(size, stride, offset)

    def gradient(self, *gradients: Tensor | None) -> Gradients:
        """Autograd's gradients for the part, and for the operator's other inputs."""
        whole = self.whole.clone()
        if gradients[0] is not None:
            self.slice_of(whole).copy_(gradients[0])
        first, *others = super().gradient(whole)
        return (None if first is None else self.slice_of(first), *others)


class Rules(Protocol):
    """Propagation rules for operators."""

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        """Propagates through one operator.

        Args:
            operator: The operator.
            gradients: The values propagated to each of its outputs.

        Returns:
            The values for each input, and the name of the rule.
        """
        ...


@dataclass
class Coverage:
    """The operators of a backward traversal, and the rules that were applied to them.

    Attributes:
        counts: Number of times by ``(operator, rule)``.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def as_dict(self, fallbacks: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The coverage as recorded in an explanation: operators, rules and fallbacks."""
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


def propagate(trace: RecordedForward, seeds: Tensor, rules: Rules) -> tuple[Tensor, Coverage]:
    """Propagates ``seeds`` from the scores back to the image.

    If every rule returns the gradient, so does this function.

    Args:
        trace: A recorded forward pass.
        seeds: Initial values of the scores, ``[batch, classes]``.
        rules: The rule for each operator.

    Returns:
        The values propagated to the image, ``[batch, channel, height, width]``, and the coverage.

    Raises:
        MethodError: The scores don't depend on the image, or a rule rejects an operator.
        ModelError: The model runs a part of itself in a reentrant checkpoint.
    """
    root = trace.scores.grad_fn
    if root is None:
        raise MethodError(
            "expected a score that depends on the images, but no gradient reaches them: check the "
            "model and the target for detach(), no_grad(), argmax, rounding or int8 layers"
        )
    coverage = Coverage()
    pending: dict[Node, dict[int, Tensor]] = {root: {trace.scores.output_nr: seeds}}
    reached = None
    with torch.no_grad():
        users = nodes_from(root)
        for node in users:
            given = pending.pop(node, None)
            if given is None:
                continue
            if (leaf := getattr(node, "variable", None)) is not None:
                if leaf is trace.inputs:
                    reached = given[0]
                continue
            operator, found, rule = _pass(trace, node, users, _outputs(node, given), rules)
            coverage.counts[operator.name, rule] += 1
            for (below, slot), gradient in zip(node.next_functions, found, strict=True):
                if below is None or gradient is None:
                    continue
                slots = pending.setdefault(below, {})
                slots[slot] = slots[slot] + gradient if slot in slots else gradient
    if reached is None:
        reached = torch.zeros_like(trace.inputs)
    return reached, coverage


def _pass(
    trace: RecordedForward,
    node: Node,
    users: Mapping[Node, int],
    gradients: Gradients,
    rules: Rules,
) -> tuple[Operator, Gradients, str]:
    """Applies the rules to one operator; an in-place change affects only the changed part."""
    refuse_reentrant(node)
    record = trace.record_of(node)
    if record is None:
        operator = Operator(name_of(node, None), node, None, users)
        return operator, *rules(operator, gradients)
    if record.slot is None or node.name() != COPY_SLICES or record.name in SHAPES:
        operator = Operator(record.name, node, record, users)
        return operator, *rules(operator, gradients)
    given = gradients[0]
    assert given is not None
    whole = given.clone(memory_format=torch.contiguous_format)
    part = _SliceOperator(record.name, node, record, users, whole)
    found, rule = rules(part, (part.slice_of(whole).clone(),))
    if found[0] is not None:
        part.slice_of(whole).copy_(found[0])
    return part, (whole, *found[1:]), rule


def _outputs(node: Node, given: dict[int, Tensor]) -> Gradients:
    """Gradients of all outputs in order; None for unused ones."""
    count = max(*given, len(node._input_metadata) - 1) + 1
    return [given.get(i) for i in range(count)]
