"""Functions that a model writes with several operators: activations, normalizations, softmax.

The same function can be written in several ways: a normalization as ``x / sqrt(v)`` or
``x * rsqrt(v)``, an activation as one operator or as ``x * gate(x)``, a sigmoid as
``1 / (1 + exp(-x))``, a softmax as ``e / e.sum()``.
Rules that give all of these the same result have to look at what computes a factor.
"""

from dataclasses import dataclass

from torch.autograd.graph import Node

from explainkit.graph.backward import Operator
from explainkit.graph.names import SHAPES, UNARY
from explainkit.graph.tape import Record, RecordedForward

_ELEMENTWISE = UNARY | {"add", "sub", "rsub", "mul", "div", "neg", "_to_copy", "clone"}
_SCALES = SHAPES | {"mul", "div", "neg"}
_LONGEST = 32
"""Operators in the formula of an activation, at most."""

_Edge = tuple[Node | None, int]
"""A value: the node that computes it, and which of its outputs it is."""


def scaling_factor(trace: RecordedForward, operator: Operator) -> int | None:
    """The factor of a product that only scales the other one; None if both are features.

    It is the reciprocal of something, so that the product is a quotient; or an elementwise function
    of the other factor, so that the product is an activation, such as ``x * (1 + erf(x))``.

    Returns:
        0 for the left factor, 1 for the right one.
    """
    found = reciprocal_factor(trace, operator)
    if found is not None or operator.name != "mul":
        return found
    left, right = (_unscaled(trace, edge) for edge in operator.node.next_functions[-2:])
    if left == right:
        return None
    if _is_function_of(trace, right, left):
        return 1
    return 0 if _is_function_of(trace, left, right) else None


def reciprocal_factor(trace: RecordedForward, operator: Operator) -> int | None:
    """The factor of an elementwise product that is a reciprocal, if only one of them is."""
    if operator.name not in {"mul", "addcmul"}:
        return None
    inverse = [is_reciprocal(trace, node) for node, _ in operator.node.next_functions[-2:]]
    return inverse.index(True) if sum(inverse) == 1 else None


def is_reciprocal(trace: RecordedForward, node: Node | None) -> bool:
    """Whether a value is one over a function of the image, up to constant factors and layout.

    A sigmoid that is written as ``1 / (1 + exp(-x))`` is not: it is an activation.
    """
    while node is not None:
        record = trace.record_of(node)
        if record is None:
            return False
        below = [inner for inner, _ in node.next_functions]
        name, dependent = record.name, [inner for inner in below if inner is not None]
        inverse = name in {"rsqrt", "reciprocal"} or is_inverse_power(record)
        if inverse or (name == "div" and below[0] is None):
            return _exponential_plus_one(trace, dependent[0]) is None
        if name not in _SCALES or len(dependent) != 1:
            return False
        node = dependent[0]
    return False


def is_inverse_power(record: Record) -> bool:
    """Whether an operator is a power with a negative number as exponent."""
    exponent = record.argument(1)
    return record.name == "pow" and isinstance(exponent, int | float) and exponent < 0


def _unscaled(trace: RecordedForward, edge: _Edge) -> _Edge:
    """The value below multiplications by constants."""
    while edge[0] is not None and (record := trace.record_of(edge[0])) is not None:
        dependent = [inner for inner in edge[0].next_functions if inner[0] is not None]
        if record.name not in {"mul", "div", "neg"} or len(dependent) != 1:
            break
        (edge,) = dependent
    return edge


def _is_function_of(trace: RecordedForward, edge: _Edge, source: _Edge) -> bool:
    """Whether a value is computed elementwise from another value, and from nothing else."""
    stack, seen = [edge], {source}
    while stack:
        here = stack.pop()
        if here in seen:
            continue
        node = here[0]
        record = None if node is None else trace.record_of(node)
        if node is None or record is None or record.name not in _ELEMENTWISE:
            return False
        seen.add(here)
        if len(seen) > _LONGEST:
            return False
        stack += [inner for inner in node.next_functions if inner[0] is not None]
    return True


@dataclass(frozen=True)
class SpelledActivation:
    """A sigmoid or softplus that is written as a function of ``1 + exp(z)``.

    Attributes:
        addition: The node of the sum, whose constant is a part of the function, not a bias.
        exponential: The node of the exponential.
    """

    addition: Node
    exponential: Node


def activation_of(trace: RecordedForward, operator: Operator) -> SpelledActivation | None:
    """The activation that a reciprocal or logarithm of ``1 + exp(z)`` computes; None if none."""
    if operator.name not in {"reciprocal", "pow", "log", "div"} or operator.depends[0] == (
        operator.name == "div"  # a constant numerator
    ):
        return None
    addition = operator.node.next_functions[-1 if operator.name == "div" else 0][0]
    exponential = _exponential_plus_one(trace, addition)
    if addition is None or exponential is None:
        return None
    if operator.users[addition] > 1 or operator.users[exponential] > 1:
        return None  # something else reads its parts
    return SpelledActivation(addition, exponential)


def _exponential_plus_one(trace: RecordedForward, node: Node | None) -> Node | None:
    """The exponential, if a value is one plus an exponential."""
    record = None if node is None else trace.record_of(node)
    if node is None or record is None or record.name != "add":
        return None
    below = [inner for inner, _ in node.next_functions if inner is not None]
    one = [value for i in (0, 1) if isinstance(value := record.argument(i), int | float)]
    return below[0] if one == [1] and [n.name() for n in below] == ["ExpBackward0"] else None


@dataclass(frozen=True)
class SpelledSoftmax:
    """A softmax that is written as the quotient of an exponential and its sum.

    Attributes:
        exponential: The node of the exponential that is the numerator.
        index: The position of the numerator among the inputs of the quotient.
        axes: The axes of the sum.
    """

    exponential: Node
    index: int
    axes: list[int]


def softmax_of(trace: RecordedForward, operator: Operator) -> SpelledSoftmax | None:
    """The softmax that a quotient, or a product with a reciprocal, computes; None if none."""
    if operator.name not in {"mul", "div"} or len(operator.depends) != 2:
        return None
    (top, _), (bottom, _) = operator.node.next_functions
    index = 0
    if operator.name == "mul":
        if top is not None and top.name() != "ExpBackward0":
            top, bottom, index = bottom, top, 1
        bottom = _below(_whole(trace, bottom), "ReciprocalBackward0")
    total, bottom = bottom, _below(bottom, "SumBackward1")
    record = None if total is None else trace.record_of(total)
    if top is None or bottom is None or total is None or record is None:
        return None
    same = top is bottom or top.next_functions == bottom.next_functions
    if not same or top.name() != "ExpBackward0" or bottom.name() != "ExpBackward0":
        return None
    if operator.users[top] > 1 + (top is bottom) or operator.users[total] > 1:
        return None  # something else reads its parts
    return SpelledSoftmax(top, index, record.argument(1))


def parts_of(operator: Operator) -> set[Node]:
    """The other operators of a softmax that a quotient computes, down to the exponential."""
    found: set[Node] = set()
    stack = [node for node, _ in operator.node.next_functions]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            if node.name() != "ExpBackward0":
                stack += [below for below, _ in node.next_functions]
    return found


def _whole(trace: RecordedForward, node: Node | None) -> Node | None:
    """The node below a multiplication by one, with which Python's ``1 / x`` ends."""
    record = None if node is None else trace.record_of(node)
    if node is None or record is None or record.name != "mul":
        return node
    factor = record.argument(1)
    return node.next_functions[0][0] if isinstance(factor, int | float) and factor == 1 else node


def _below(node: Node | None, name: str) -> Node | None:
    """The first input of a node with this name; None for another node."""
    return node.next_functions[0][0] if node is not None and node.name() == name else None
