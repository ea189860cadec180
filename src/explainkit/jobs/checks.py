"""Checks of results: their verdicts, what counts as a difference, and what is said about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

TOLERANCE = 1e-3
"""How far a recomputed value may be from the stored one, relative to the map's largest value.

The same versions on the same kind of machine give the same bits; other processors and other numbers
of threads add up in another order."""

HALF = 2**-11
"""What storing a map as float16 may change, relative to its largest value."""

Verdict = Literal["ok", "differs", "damaged", "not checked"]

EXIT = {"ok": 0, "not checked": 0, "differs": 1, "damaged": 4}
"""The exit code of each verdict; that of a table is the largest."""


@dataclass(frozen=True)
class Check:
    """One line of the table of `verify`.

    Attributes:
        name: What was checked: files, images, model, library, numbers.
        verdict: ``"ok"``; ``"differs"``: it changed since; ``"damaged"``: files are incomplete or
            were changed; ``"not checked"``.
        found: What was found.
    """

    name: str
    verdict: Verdict
    found: str


def exit_code(checks: Sequence[Check]) -> int:
    """The exit code that a table of checks means: 0, 1 (something differs) or 4 (damaged)."""
    return max(EXIT[check.verdict] for check in checks)


def library_check(then: Mapping[str, str], now: Mapping[str, str]) -> Check:
    """Compares versions, by name."""
    shown = ", ".join(f"{name} {version}" for name, version in now.items())
    return Check("library", "ok" if now == then else "differs", changes(then, now) or shown)


def numbers_check(worst: float, where: str, again: int, allowed: float) -> Check:
    """Judges the largest relative difference of maps that were computed again."""
    if not again:
        return Check("numbers", "not checked", "no image is as it was")
    verdict: Verdict = "ok" if worst <= allowed else "differs"
    return Check(
        "numbers", verdict,
        f"{again} images again: largest difference {worst:.1e} of the map's largest value, "
        f"allowed {allowed:.1e}" + (f" ({where})" if verdict == "differs" else ""),
    )  # fmt: skip


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value of the first."""
    if one.shape != other.shape:
        return math.inf
    apart, largest = float((one - other).abs().max()), float(one.abs().max())
    return apart / largest if largest else math.inf if apart else 0.0


def first_of(names: Sequence[str]) -> str:
    """Three names at most, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs by name, then and now, in one line."""
    return "; ".join(
        f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    )
