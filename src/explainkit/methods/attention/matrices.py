"""The attention matrices of any model, and their gradients.

However attention is implemented, in the recorded operators it is a softmax whose output is a factor
of a later product, with at most reshapes, dropout and scaling in between.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from explainkit.errors import MethodError
from explainkit.graph.backward import Gradients, Operator, propagate
from explainkit.graph.names import SHAPES
from explainkit.graph.tape import RecordedForward, nodes_from
from explainkit.methods.propagation.rules import seeds_of

KEEP = frozenset({"_softmax", "_safe_softmax"})
"""The operators whose outputs are attention matrices."""

PRODUCTS = frozenset({"bmm", "mm", "baddbmm"})

_LAYERS = PRODUCTS | {"addmm"}

_PASSING = SHAPES | {"native_dropout", "mul", "div"}


@dataclass(frozen=True, eq=False)
class Matrix:
    """One attention matrix of a model.

    Attributes:
        values: ``[batch, head, query, key]``; each row sums to one.
        gradient: ``∂ score / ∂ values``, of the same shape; None if it was not requested.
    """

    values: Tensor
    gradient: Tensor | None = None


def softmax_behind(trace: RecordedForward, node: Node | None) -> Node | None:
    """The softmax that computes a factor of a product; None if it has another source."""
    while node is not None:
        record = trace.record_of(node)
        if record is None or record.name in KEEP:
            return node if record is not None else None
        below = [inner for inner, _ in node.next_functions if inner is not None]
        if record.name not in _PASSING or len(below) != 1:
            return None
        node = below[0]
    return None


@dataclass(frozen=True, eq=False)
class Call:
    """The softmax of one attention.

    Attributes:
        output: Its output.
        axis: The axis that it normalizes: the keys.
        rows: Number of tokens, over all images, that enter the layer after the product; None if no
            layer follows.
    """

    output: Tensor
    axis: int
    rows: int | None

    def keys_last(self, value: Tensor) -> Tensor:
        """The output, or its gradient, with its keys as the last axis."""
        return value.transpose(-1, self.axis)


def attention_nodes(trace: RecordedForward, method: str) -> dict[Node, Call]:
    """Every attention that the scores depend on, in forward order.

    Args:
        trace: A recorded forward with the values of `KEEP`.
        method: Name of the method, for errors.

    Raises:
        MethodError: There is none.
    """
    found: dict[Node, Call] = {}
    rows: dict[Node, int | None] = {}
    root = trace.scores.grad_fn
    for node in nodes_from(root) if root is not None else ():
        record = trace.record_of(node)
        factors = [below for below, _ in node.next_functions if below is not None]
        if record is None:
            continue
        passed = rows.get(node) if record.name in SHAPES else None
        if record.name in _LAYERS and len(factors) == 1:
            passed = math.prod(node._input_metadata[0].shape[:-1])
        rows.update(dict.fromkeys(factors, passed))
        if record.name not in PRODUCTS or len(factors) < 2:
            continue
        for factor in factors:
            source = softmax_behind(trace, factor)
            call = None if source is None else trace.record_of(source)
            if source is not None and call is not None:
                found[source] = Call(call.output, call.argument(1), rows.get(node))
    if not found:
        raise MethodError(
            f"{method}: expected a model with attention (a softmax whose output is multiplied by "
            "values), got none that the score depends on: use a gradient method or a "
            "class activation map"
        )
    return dict(sorted(found.items(), key=lambda item: item[0]._sequence_nr()))


class _Arriving:
    """The plain gradient, recorded at every attention; the pass ends once all are reached."""

    def __init__(self, nodes: Collection[Node]) -> None:
        self.missing = set(nodes)
        self.found: dict[Node, Tensor] = {}

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        if operator.node in self.missing and gradients[0] is not None:
            self.missing.remove(operator.node)
            self.found[operator.node] = gradients[0]
        if not self.missing:
            return [None] * len(operator.depends), "skipped"
        return operator.gradient(*gradients), "gradient"


def arriving(
    trace: RecordedForward, target: Tensor, nodes: Collection[Node]
) -> Mapping[Node, Tensor]:
    """The gradient of each image's target with respect to the outputs of some operators."""
    rules = _Arriving(nodes)
    propagate(trace, seeds_of(trace, target), rules)
    return rules.found


def per_head(call: Call, batch: int, method: str) -> Tensor:
    """An attention as ``[batch, head, query, key]``, at least float32.

    Raises:
        MethodError: It is among channels, or restricted to groups of tokens, or has other axes.
    """
    value = call.keys_last(call.output)
    shape = list(value.shape)
    channels = len(shape) == 4 and shape[0] == batch
    if value.dim() == 3 and len(value) % batch == 0:
        value = value.reshape(batch, -1, *value.shape[1:])
    if value.dim() != 4 or len(value) != batch or call.rows not in (None, batch * shape[-2]):
        reason = (
            "its rows are channels, not tokens (cross-covariance attention, as in XCiT)"
            if channels
            else "tokens attend within groups (windows of an image, as in Swin, or every other "
            "pixel, as in MobileViT), which have no common matrix"
        )
        raise MethodError(
            f"{method}: expected attention among all tokens of an image, "
            f"[{batch}, head, query, key], got {shape}: {reason}; use libragrad, another gradient "
            "method or a class activation map"
        )
    return value.to(torch.promote_types(value.dtype, torch.float32))


def matrices(trace: RecordedForward, target: Tensor, method: str, *, every: bool) -> list[Matrix]:
    """The attention matrices of a forward pass, in order.

    Args:
        trace: A recorded forward with the values of `KEEP`.
        target: int64 ``[batch]``.
        method: Name of the method, for errors.
        every: Whether all matrices need their gradient, or only the last one.

    Raises:
        MethodError: The model has no attention, or attends within windows or between other tokens.
    """
    nodes = attention_nodes(trace, method)
    batch = len(trace.inputs)
    values = [per_head(call, batch, method) for call in nodes.values()]
    _check_chain(values, method)
    found = arriving(trace, target, nodes if every else [list(nodes)[-1]])
    return [
        Matrix(value, call.keys_last(found[node]).reshape(value.shape).to(value))
        if node in found
        else Matrix(value)
        for (node, call), value in zip(nodes.items(), values, strict=True)
    ]


def _check_chain(values: list[Tensor], method: str) -> None:
    """Each matrix must map all tokens to all tokens; the last one may pool them for the head."""
    tokens = values[0].shape[3]
    shapes = [list(value.shape[2:]) for value in values]
    if any(s != [tokens, tokens] for s in shapes[:-1]) or shapes[-1][1] != tokens:
        raise MethodError(
            f"{method}: expected attention among the same tokens in every layer, got matrices "
            f"{' and '.join(map(str, dict.fromkeys(map(tuple, shapes))))}: use libragrad, another "
            "gradient method or a class activation map"
        )


def readout_tokens(last: Matrix) -> Tensor:
    """The tokens that the head reads after the last attention, ``[batch, 1, query]``, sum 1.

    Only rows of these tokens have a gradient. All zero if no row has one.
    """
    assert last.gradient is not None
    rows = (last.gradient != 0).any(3).any(1).to(last.values)
    return (rows / rows.sum(1, keepdim=True).clamp(min=1))[:, None]
