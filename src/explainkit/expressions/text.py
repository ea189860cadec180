"""Parses expressions from their text form, without evaluating code."""

import ast
import difflib
import re
from collections.abc import Mapping
from typing import Any

from explainkit.errors import TargetError
from explainkit.expressions import boxes, embeddings, masks, outputs, terms
from explainkit.expressions.algebra import Add, Divide, Expression, Multiply, Number, Subtract

TERMS: Mapping[str, type[Expression]] = {
    kind.call: kind
    for kind in (
        terms.Logit, terms.Channel, terms.LogOdds, terms.Neuron, terms.Direction, terms.Layer,
        terms.Caricature, terms.Diversity, terms.Tv, terms.Norm, terms.Alpha, terms.Channels,
        terms.AllLogOdds, terms.Classes, outputs.Output, boxes.BoxScore, boxes.BoxCoordinate,
        masks.Mask, embeddings.Similarity, embeddings.Feature,
    )
} | {"class_logit": terms.Logit}  # fmt: skip

_SIGNS: Mapping[type[ast.operator], type[Add | Subtract | Multiply | Divide]] = {
    ast.Add: Add,
    ast.Sub: Subtract,
    ast.Mult: Multiply,
    ast.Div: Divide,
}

_NUMBERS = re.compile(r"\[[-+.,e\d ]{40,}\]")
"""A list of numbers that nobody reads."""

DEEPEST = 200
"""Maximum nesting, since each level takes a few Python frames."""


def parse(text: str) -> Expression:
    """Parses an expression from its text form, without evaluating code.

    Args:
        text: Terms such as ``logit("fear")`` and numbers, with ``+ - * /`` and parentheses.

    Raises:
        TargetError: The text is not an expression; the message gives the position.

    Examples:
        >>> parse('logit("fear") - 2 * logit(3)')
        Subtract(left=Logit(name='fear'), right=Multiply(left=Number(value=2.0),
            right=Logit(name=3)))
        >>> parse("logit(fear)")
        Traceback (most recent call last):
        explainkit.errors.TargetError: expected a number, a list or a quoted name, got 'fear' in
        'logit(fear)'
    """
    shown = f"{text[:80]!r}" + ("…" if len(text) > 80 else "")
    try:
        return _build(ast.parse(text.strip(), mode="eval").body, 0)
    except SyntaxError as error:
        reason = f"{error.msg} (column {error.offset})"
    except TargetError as error:
        raise TargetError(f"{error} in {shown}") from None
    except (RecursionError, MemoryError):
        reason = "it nests too deeply"
    except ValueError as error:
        reason = str(error)
    raise TargetError(f"can't read the expression {shown}: {reason}")


def _build(node: ast.expr, depth: int) -> Expression:
    if depth > DEEPEST:
        raise RecursionError
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
            return _SIGNS[type(op)](_build(left, depth + 1), _build(right, depth + 1))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_build(inner, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _build(inner, depth + 1)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Number(float(value))
        case ast.Call(func=ast.Name(id=name), args=positional, keywords=named):
            return _call(name, positional, named, depth)
    raise TargetError(
        f"expected terms such as {', '.join(TERMS)}, numbers, + - * / and parentheses, "
        f"got {ast.unparse(node)[:80]!r}"
    )


def _call(
    name: str, positional: list[ast.expr], named: list[ast.keyword], depth: int
) -> Expression:
    if name not in TERMS:
        near = difflib.get_close_matches(name, TERMS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TERMS)}"
        raise TargetError(f"no term is named {name!r}: {hint}")
    values = [_value(node, depth + 1) for node in positional]
    keywords = {str(keyword.arg): _value(keyword.value, depth + 1) for keyword in named}
    try:
        return TERMS[name](*values, **keywords)
    except TypeError as error:
        reason = str(error).partition("__init__() ")[2] or str(error)
        raise TargetError(f"{name}: {reason}") from None


def _value(node: ast.expr, depth: int) -> Any:
    if depth > DEEPEST:
        raise RecursionError
    match node:
        case ast.Constant(value=str() | int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return tuple(_value(element, depth + 1) for element in elements)
        case ast.Call():
            return _build(node, depth)
    raise TargetError(f"expected a number, a list or a quoted name, got {ast.unparse(node)[:80]!r}")


def shortened(text: str) -> str:
    """The text of an expression for people to read: without long lists of numbers.

    Examples:
        >>> shortened(f'2 * direction("conv", {[0.25] * 512})')
        '2 * direction("conv", [512 numbers])'
    """
    return _NUMBERS.sub(lambda found: f"[{found[0].count(',') + 1} numbers]", text)
