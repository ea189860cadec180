"""A model with modified gradients, for any method that uses gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from explainkit.engine.model import ScoreModel
from explainkit.graph.autograd import refuse_reentrant
from explainkit.graph.backward import Coverage, Gradients, Operator
from explainkit.graph.names import SHAPES
from explainkit.graph.tape import (
    COPY_SLICES,
    Record,
    RecordedForward,
    name_of,
    nodes_from,
    recording,
    refuse_scripted,
)

GradientRule = Callable[[Gradients, Gradients], Gradients]
"""Maps autograd's gradients of an operator's inputs, and those of its outputs, to the gradients
that the inputs get instead."""


BackwardRules = Callable[[RecordedForward, Operator], tuple[GradientRule | None, str]]
"""The rule of an operator, None for its own gradient, and its name for the coverage.

A rule must not reference the trace or the operator: their graph references the rule."""


class ModifiedGradients(ScoreModel):
    """A model with the same outputs, whose gradients follow rules on operators.

    Its graph is autograd's own, with the gradients of some operators replaced. Any gradient method
    works on it, including those that use gradients of inner layers.

    Attributes:
        coverage: Which operators the last forward contained, and the rule of each.

    Args:
        model: Gives scores ``[batch, classes]``; it is not changed.
        rules: Which operators have a modified gradient.
        keep: Names of the operators whose values the rules read.

    Raises:
        ModelError: The model is scripted, so its operators can't be recorded.
    """

    def __init__(self, model: nn.Module, rules: BackwardRules, keep: frozenset[str]) -> None:
        base = model if isinstance(model, ScoreModel) else ScoreModel(model)
        super().__init__(base.module, base._score, base.batch_size, base.outputs, base.owner)
        self.coverage = Coverage()
        self._rules, self._keep = rules, keep
        refuse_scripted(self.owner)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores ``[batch, classes]`` of images ``[batch, channel, height, width]``."""
        if not torch.is_grad_enabled():
            return super().forward(inputs)
        with recording(self._keep) as tape:
            scores = super().forward(inputs)
        self.coverage = Coverage()
        if scores.grad_fn is not None:
            trace = RecordedForward(inputs, scores, tape.records)
            users = nodes_from(scores.grad_fn)
            for node in users:
                self._patch(trace, node, users)
        return scores

    def _patch(self, trace: RecordedForward, node: Node, users: dict[Node, int]) -> None:
        if hasattr(node, "variable"):
            return
        refuse_reentrant(node)
        record = trace.record_of(node)
        operator = Operator(name_of(node, record), node, record, users)
        rule, what = self._rules(trace, operator)
        self.coverage.counts[operator.name, what] += 1
        if rule is None:
            return
        if record is not None and node.name() == COPY_SLICES and record.name not in SHAPES:
            rule = _of_slice(rule, record)

        def hook(own: Gradients, arriving: Gradients) -> Gradients:
            if all(gradient is None for gradient in arriving):
                return own  # another rule blocks it
            found = rule(own, arriving)
            # autograd rejects a gradient where it had none
            return tuple(None if o is None else f for o, f in zip(own, found, strict=True))

        node.register_hook(hook)


def _of_slice(rule: GradientRule, record: Record) -> GradientRule:
    """A rule for an operator that changed part of a larger tensor in place."""
    slot: Any = record.slot

    def part(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.contiguous().as_strided(*slot)

    def run(own: Gradients, arriving: Gradients) -> Gradients:
        given = arriving[0]
        assert given is not None
        found, *others = rule([part(own[0]), *own[1:]], [part(given)])
        whole = given.clone(memory_format=torch.contiguous_format)
        whole.as_strided(*slot).copy_(torch.zeros_like(whole) if found is None else found)
        return [whole, *others]

    return run
