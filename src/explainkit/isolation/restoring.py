"""Restores in independent steps: whatever happens to one part, the others are put back."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def each(restore: Callable[[T], object], parts: Iterable[T]) -> list[Exception]:
    """Restores each part, whatever happens to the others; returns what failed."""
    failures = []
    for part in parts:
        try:
            restore(part)
        except Exception as error:  # noqa: BLE001 - reported after the others
            failures.append(error)
    return failures
