"""How far to trust concepts, in sentences."""

from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explainkit.results.concepts import Concepts


def caption(found: "Concepts", k: int) -> str:
    """A concept in one line: its strongest class, stability, chance, and what fails."""
    best, failures = found.strongest(k), found.failures(k)
    value, error = amount(found, k, best)
    stable = stability(found, k)
    parts = [
        f"{found.class_name(best)} {value} ± {error}",
        *([f"stability {stable}"] if stable else []),
        f"p {float(found.p[k]):.2g}",
        *([f"fails: {' and '.join(failures)}"] if failures else []),
    ]
    return f"concept {k}: {'; '.join(parts)}"


def meaning(found: "Concepts", score: str) -> str:
    """What the importance of a concept for a score is."""
    if found.measure == "sobol":
        return f"the share of the variance of {score} that is due to the concept (Sobol index)"
    return f"what {score} loses without the concept"


def amount(found: "Concepts", k: int, c: int) -> tuple[str, str]:
    """A concept's importance for a class, and its standard error, as text."""
    value, error = float(found.importance[k, c]), float(found.standard_error[k, c])
    sign = "+" if found.measure == "removal" else ""
    return f"{value:{sign}.3g}".replace("-", "−"), f"{error:.1g}" if isfinite(error) else "–"


def stability(found: "Concepts", k: int) -> str:
    """A concept's mean stability as text; "" if it is not known."""
    values = found.stability[:, k]
    return cosine(float(values.mean())) if len(values) else ""


def cosine(value: float) -> str:
    """A stability as text."""
    return f"{value:.2f}".replace("-", "−")


def notes(found: "Concepts") -> Iterator[str]:
    """What a layer's concepts leave out, how stable they are, how many fail, and warnings."""
    lost, random = found.unexplained, found.random_unexplained
    if isfinite(lost):
        yield (
            f"Replacing the layer's output with the concepts loses {lost:.0%} of its effect on the "
            f"scores; with random directions, {random:.0%}."
        )
    else:
        yield "The layer has no effect on the scores."
    if lost >= random:
        yield "The concepts fail: random directions keep as much of the layer's effect."
    if len(found.stability):
        mean = float(found.stability.mean())
        stable = f"The mean cosine of concepts between two halves of the images is {mean:.2f}"
        if isfinite(found.random_stability):
            stable += f"; in a network with random weights, {found.random_stability:.2f}"
        yield f"{stable}."
    elif found.kind == "given":
        yield "The directions were given, so their stability is unknown."
    failing = sum(bool(found.failures(k)) for k in range(len(found)))
    yield f"{failing or 'None'} of {len(found)} concepts {'fails' if failing < 2 else 'fail'}."
    yield from (f"{text[0].upper()}{text[1:]}." for text in found.warnings)
