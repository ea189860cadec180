"""Parses hyper-parameters from the command line, such as ``steps=20``, into typed values."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from explainkit.catalog import discovery
from explainkit.catalog.fields import accepted
from explainkit.errors import MethodError
from explainkit.interfaces import Method
from explainkit.methods.contract import is_seed

_UNTYPED = {"a tensor", "a module"}
"""What nobody can type."""


def parse_params(name: str, texts: Sequence[str], kind: str = "methods") -> dict[str, Any]:
    """Parses ``name=value`` strings by the types of a method's or maximizer's fields.

    A field that holds a method takes a method's name.

    Examples:
        >>> parse_params("integrated_gradients", ["steps=20", "tolerance=0.01"])
        {'steps': 20, 'tolerance': 0.01}
        >>> parse_params("finercam", ["against=owl,3"])
        {'against': ('owl', 3)}
        >>> parse_params("fourier", ["decay=1.5", "jitter=none"], "maximizers")
        {'decay': 1.5, 'jitter': None}
    """
    made: Any = discovery.registry(kind).get(name)
    hints = typing.get_type_hints(made)
    fields = [field.name for field in dataclasses.fields(made) if not is_seed(field)]
    found = {}
    for text in texts:
        field, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise MethodError(f"expected a parameter as name=value, got {text!r}")
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(fields) or "no parameters"
            raise MethodError(f"{name} takes {known}, got {field!r}{hint}")
        try:
            found[field] = _parse(hints[field], value)
        except ValueError:
            words = accepted(hints[field])
            wanted = " or ".join(word for word in words if word not in _UNTYPED)
            wanted = wanted or "an object, which only Python can pass"
            raise MethodError(f"{field}: expected {wanted}, got {value!r}") from None
    return found


def parse_for(names: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Parses ``name=value`` strings for several methods, each by the first one that takes it.

    Examples:
        >>> parse_for(["saliency", "lime", "rise"], ["samples=64"])
        {'samples': 64}
    """
    registry = discovery.registry("methods")
    kinds: list[Any] = [registry.get(name) for name in names]
    fields = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    params: dict[str, Any] = {}
    for text in texts:
        field = text.partition("=")[0].strip()
        takers = [name for name, own in zip(names, fields, strict=True) if field in own]
        params |= parse_params((takers or names)[0], [text])
    return params


def _parse(hint: Any, text: str) -> Any:
    """Converts a string to the first of the hint's types that accepts it."""
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
        kinds = kinds[:1] * len(parts) if Ellipsis in kinds else kinds
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
