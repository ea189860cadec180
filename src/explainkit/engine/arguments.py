"""Checks of the arguments that `explain` and `maximize` share: plain numbers and names."""

import operator
from collections.abc import Iterable
from typing import Any

from explainkit.errors import InputError, TargetError, clipped


def whole_number(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """A whole number in a range.

    Raises:
        InputError: It is something else.

    Examples:
        >>> whole_number("batch_size", 8, 1, 100)
        8
    """
    try:
        if isinstance(value, bool):
            raise TypeError  # noqa: TRY301 - Python counts it as a number
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None:
        wanted = "a whole number"
    elif number < least:
        wanted = f"at least {least}"
    elif number > most:
        wanted = f"at most {most}"
    else:
        return number
    raise InputError(f"{name}: expected {wanted}, got {clipped(repr(value))}")


def seed_number(value: Any) -> int:
    """A seed, as the generators of torch take it."""
    return whole_number("seed", value, -(2**63), 2**63 - 1)


def batch_number(value: Any) -> int:
    """A number of images."""
    return whole_number("batch_size", value, 1)


def flag(name: str, value: Any) -> bool:
    """A bool.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected True or False, got {clipped(repr(value))}")
    return value


def several_targets(targets: Any) -> list[Any]:
    """The targets of ``targets=``, of which ``"all"`` is one.

    Raises:
        TargetError: It is neither a list nor ``"all"``.
    """
    if isinstance(targets, str):
        if targets == "all":
            return [targets]
        raise TargetError(f"targets: expected 'all' or a list, got {targets!r}: use target=")
    try:
        return list(targets)
    except TypeError:
        raise TargetError(
            f"targets: expected 'all' or a list, got {clipped(repr(targets))}: use target="
        ) from None


def names_of_classes(names: Any) -> tuple[str, ...]:
    """Class names, as strings.

    Raises:
        TargetError: It is no list of them.
    """
    try:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise TypeError  # noqa: TRY301 - a text would give one name per character
        return tuple(map(str, names))
    except TypeError:
        raise TargetError(
            f"class_names: expected a list of names, got {clipped(repr(names))}"
        ) from None
