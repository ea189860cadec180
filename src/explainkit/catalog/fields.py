"""The types of a method's or maximizer's fields: which values they accept, and in words."""

import math
import numbers
import operator
import types
import typing
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from explainkit.errors import MethodError, clipped
from explainkit.interfaces import Method
from explainkit.methods.contract import is_method

_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    Method: "a method", types.NoneType: "none", Tensor: "a tensor", nn.Module: "a module",
}  # fmt: skip

_BOUNDS = {
    "least": ("at least", operator.ge), "above": ("a number above", operator.gt),
    "most": ("at most", operator.le), "below": ("below", operator.lt),
}  # fmt: skip
"""Keys of a field's metadata that bound its value, in words and as comparisons."""


class Typed:
    """A base of dataclasses that checks the types of their fields when an instance is made.

    It also checks the range that a field's metadata declares, as in
    ``field(default=0.25, metadata={"above": 0, "most": 1})``, unless the value is None. A subclass
    that gives the field another default keeps the range. A dataclass with checks of its own calls
    this one first, so that they meet no other types.

    Raises:
        MethodError: A field has a value of another type, or out of its range.

    Examples:
        >>> from explainkit.methods.gradient import SmoothGrad
        >>> SmoothGrad(samples=None)
        Traceback (most recent call last):
        explainkit.errors.MethodError: SmoothGrad: samples: expected a whole number, got a NoneType
    """

    def __post_init__(self) -> None:
        # NaN has the right type: the ranges of own checks leave it out, and say more
        values = {
            name: value
            for name, value in vars(self).items()
            if not (isinstance(value, float) and math.isnan(value))
        }
        kind: type = type(self)
        check_values(kind, kind.__name__, values)
        for name, bounds in _ranges(kind).items():
            value = getattr(self, name)
            if value is not None and not all(_BOUNDS[key][1](value, b) for key, b in bounds):
                wanted = " and ".join(f"{_BOUNDS[key][0]} {b}" for key, b in bounds)
                raise MethodError(f"{name}: expected {wanted}, got {value}")


def check_values(kind: type, name: str, values: Mapping[str, Any]) -> None:
    """Checks values against the types of a dataclass's fields.

    A type that is not of the kinds that methods use, such as a plugin's own, accepts any value, and
    so does a field that holds one value per image. Sizes, and choices beside other types, are left
    to the method, whose own message says more.

    Args:
        kind: The dataclass.
        name: Its name, for the message.
        values: By field.

    Raises:
        MethodError: A value has another type.

    Examples:
        >>> from explainkit.methods.gradient import SmoothGrad
        >>> check_values(SmoothGrad, "smoothgrad", {"samples": 20, "noise": 0.1})
        >>> check_values(SmoothGrad, "smoothgrad", {"samples": 1.5})
        Traceback (most recent call last):
        explainkit.errors.MethodError: smoothgrad: samples: expected a whole number, got 1.5
    """
    hints = _hints(kind)
    if hints is None:
        return
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for field, value in values.items():
        listed = isinstance(value, list | tuple) and len(value) > 0
        if (
            (listed and fields[field].metadata.get("per_image"))
            or _left(hints[field], value)
            or fits(hints[field], value)
        ):
            continue
        got = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        wanted = " or ".join(accepted(hints[field]))
        raise MethodError(f"{name}: {field}: expected {wanted}, got {clipped(got)}")


@cache
def _ranges(kind: type) -> Mapping[str, Collection[tuple[str, float]]]:
    """The bounds of each field, by their keys; those of a base first."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for base in reversed(kind.__mro__):
        for name, field in getattr(base, "__dataclass_fields__", {}).items():
            found[name] |= {key: field.metadata[key] for key in _BOUNDS if key in field.metadata}
    return {name: bounds.items() for name, bounds in found.items() if bounds}


@cache
def _hints(kind: type) -> Mapping[str, Any] | None:
    """The types of the fields; None if a plugin names some that only type checkers know."""
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return None


def _left(hint: Any, value: Any) -> bool:
    """Whether a value may be meant as a size, or as a choice beside other types."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        chosen = isinstance(value, str) and any(
            typing.get_origin(one) is typing.Literal for one in inner
        )
        return chosen or any(_left(one, value) for one in inner)
    return origin is tuple and Ellipsis not in inner and isinstance(value, float | tuple)


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; NaN is no number.

    Examples:
        >>> fits(int | None, 3), fits(int | None, 1.5), fits(tuple[int, int], (1, 2))
        (True, False, True)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        return any(fits(one, value) for one in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if Ellipsis in inner:
            return all(fits(inner[0], one) for one in value)
        return len(value) == len(inner) and all(map(fits, inner, value))
    if hint is int:
        return _is_whole(value)
    if hint is float:
        return _is_number(value)
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is Method:
        return is_method(value)
    if hint in _WORDS:
        return isinstance(value, hint)
    return True


def accepted(hint: Any) -> list[str]:
    """What a type accepts, in words.

    Examples:
        >>> accepted(int | None)
        ['a whole number', 'none']
        >>> accepted(float | tuple[float, ...])
        ['a number', 'a tuple of numbers']
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return list(map(str, inner))
    if origin in {types.UnionType, typing.Union}:
        return list(dict.fromkeys(word for one in inner for word in accepted(one)))
    if origin is tuple:
        if Ellipsis in inner:
            several = [f"{word.removeprefix('a ')}s" for word in accepted(inner[0])]
            return [f"a tuple of {' or '.join(several)}"]
        return [", ".join(word for one in inner for word in accepted(one))]
    return [_WORDS[hint]] if hint in _WORDS else []


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_floating_point() and not value.is_complex()
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex() and not bool(value.isnan())
    real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    return real and not math.isnan(value)
