"""A method's parameters as text: ``steps=20`` on the command line becomes a typed value."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from explainkit import plugins
from explainkit.errors import MethodError
from explainkit.types import Method


def parse_params(method: str, texts: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` texts by the types of a method's fields.

    A field that holds a method takes a method's name.

    Args:
        method: A registered name.
        texts: One text per parameter.

    Raises:
        UnknownNameError: No such method.
        MethodError: No such field, or a value that doesn't fit its type.

    Examples:
        >>> parse_params("integrated_gradients", ["steps=20", "tolerance=0.01"])
        {'steps': 20, 'tolerance': 0.01}
    """
    kind: Any = plugins.registry("methods").get(method)
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if field.name != "seed"]
    found = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise MethodError(f"expected a parameter as name=value, got {text!r}")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(fields) or "no parameters"
            raise MethodError(f"{method} takes {known}, got {name!r}{hint}")
        try:
            found[name] = _parse(hints[name], value)
        except ValueError:
            wanted = " or ".join(_words(hints[name]))
            raise MethodError(f"{name}: expected {wanted}, got {value!r}") from None
    return found


def _parse(hint: Any, text: str) -> Any:
    """The text as the first of the hint's types that it fits.

    Raises:
        ValueError: It fits none.
    """
    if typing.get_origin(hint) is typing.Literal:
        if text in typing.get_args(hint):
            return text
        raise ValueError(text)
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        for one in typing.get_args(hint):
            try:
                return _parse(one, text)
            except ValueError:
                continue
        raise ValueError(text)
    if typing.get_origin(hint) is tuple:
        kinds, parts = typing.get_args(hint), text.split(",")
        if len(kinds) != len(parts):
            raise ValueError(text)
        return tuple(map(_parse, kinds, parts))
    if hint is types.NoneType:
        if text.lower() == "none":
            return None
        raise ValueError(text)
    if hint is bool:
        choices = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in choices:
            return choices[text.lower()]
        raise ValueError(text)
    if hint in {int, float}:
        return hint(text)
    if hint in {str, Method}:
        return text
    raise ValueError(text)


def _words(hint: Any) -> list[str]:
    """What a hint accepts as text, in words."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return [word for one in typing.get_args(hint) for word in _words(one)]
    if typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint):
        words = [word for one in typing.get_args(hint) for word in _words(one)]
        return [", ".join(words)]
    named = {
        int: "a whole number", float: "a number", bool: "true or false", str: "text",
        Method: "a method's name", types.NoneType: "none", Tensor: "",
    }  # fmt: skip
    word = named.get(hint, "")
    return [word] if word else []
