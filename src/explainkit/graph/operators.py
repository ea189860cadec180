"""Classifies operators by which of their inputs depend on the image."""

from typing import Literal

from explainkit.graph.backward import Operator
from explainkit.graph.names import (
    BATCH_NORMS,
    GATES,
    LAYERS,
    LINEAR,
    MAXIMA,
    NORMS,
    SOFTMAXES,
    UNARY,
    WARPS,
)

OperatorKind = Literal[
    "linear", "layer", "unary", "gate", "product", "quotient", "maximum", "softmax", "norm", ""
]  # fmt: skip


def kind_of(operator: Operator) -> OperatorKind:
    """The kind of an operator, given which inputs depend on the image; "" if it is unknown."""
    name, depends = operator.name, operator.depends
    if operator.record is None:
        return "linear" if name == "as_strided" else ""
    both = sum(depends) > 1
    if name in LAYERS:
        factors = depends[:2] if name == "convolution" else depends[-2:]
        if not all(factors):
            return "layer"
        return "" if name == "convolution" else "product"
    if name == "mul":
        return "product" if both else "linear"
    if name == "addcmul":
        return "product" if all(depends[1:]) else "linear"
    if name in {"addcdiv", "lerp"} and any(depends[2:]):
        return ""  # not linear in the divisor or the mixing weight
    if name == "div":
        return "quotient" if len(depends) > 1 and depends[1] else "linear"
    if name in NORMS | WARPS and any(depends[1:]):
        return ""  # weights or coordinates that depend on the image
    if name in BATCH_NORMS and not trains(operator):
        return "linear"
    sets: tuple[tuple[frozenset[str], OperatorKind], ...] = (
        (UNARY, "unary"),
        (GATES, "gate"),
        (MAXIMA, "maximum"),
        (SOFTMAXES, "softmax"),
        (NORMS, "norm"),
        (LINEAR, "linear"),
    )
    return next((kind for names, kind in sets if name in names), "")


def trains(operator: Operator) -> bool:
    """Whether a batch normalization uses batch statistics."""
    record = operator.record
    if record is None or record.name == "_native_batch_norm_legit_no_training":
        return False
    flags = [value for index in range(6) if isinstance(value := record.argument(index), bool)]
    return flags[0] if flags else True
