"""Targets: parsed, checked, grouped by the forward that they share, and resolved."""

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions import Expression, parse
from explainkit.interfaces import Target
from explainkit.methods.contract import is_method
from explainkit.scores import Outputs, class_index

Score = Callable[[Any], Tensor] | Expression | None
"""Maps a model's output to one score per image; None: its own scores, one per class."""


def check_order(
    target: object, class_names: Sequence[str], names_method: Callable[[str], bool]
) -> None:
    """Detects a target and a method given in the wrong order.

    Args:
        target: What the caller passed as target.
        class_names: In the order of the logits.
        names_method: Whether a string is the name of a method.

    Raises:
        TargetError: The target is a method.
    """
    swapped = is_method(target) or (isinstance(target, type) and is_dataclass(target))
    if isinstance(target, str) and not _is_name(target, class_names):
        swapped = "(" not in target and names_method(target)
    if swapped:
        named = isinstance(target, str | type)
        given = getattr(target, "__name__", repr(target)) if named else f"{type(target).__name__}()"
        raise TargetError(
            f"expected explain(model, inputs, target, method), got the method {given} as target: "
            f"use method={given}"
        )


def parse_target(
    target: Target, class_names: Sequence[str], count: int, *, several: bool = False
) -> Target:
    """Parses a target that is the text of an expression, unless a class has that name.

    Args:
        target: Of any kind, ``"all"`` among them.
        class_names: In the order of the logits.
        count: The number of images.
        several: Whether it comes from ``targets=``, where ``"all"`` is allowed.

    Raises:
        TargetError: A text that is not an expression, a number of classes other than one per
            image, or ``"all"`` as a single target.

    Examples:
        >>> str(parse_target("logit(1) - logit(0)", (), 1))
        'logit(1) - logit(0)'
        >>> parse_target("sad", ("happy", "sad"), 1)
        'sad'
        >>> parse_target(["sad", 0], ("happy", "sad"), 2)
        tensor([1, 0])
    """
    if isinstance(target, list):
        return _one_per_image(target, class_names, count)
    if isinstance(target, Tensor) and target.dim() and target.shape != (count,):
        raise TargetError(f"expected one target per image, [{count}], got {list(target.shape)}")
    if isinstance(target, str) and not _is_name(target, class_names):
        if target == "all" and not several:
            raise TargetError("expected one target, got 'all': targets='all' explains every class")
        if "(" in target:
            return parse(target)
    return target


def _is_name(text: str, class_names: Sequence[str]) -> bool:
    """Whether a class has this name, ignoring case."""
    return text.casefold() in map(str.casefold, class_names)


def _one_per_image(classes: Sequence[Any], class_names: Sequence[str], count: int) -> Tensor:
    """Converts a list of classes, one for each image, to a tensor ``[batch]``.

    Raises:
        TargetError: It has another length, or an element is not a class.
    """
    if len(classes) != count:
        raise TargetError(
            f"expected one target per image, {count}, got a list of {len(classes)}: "
            "targets=[…] explains several targets of every image"
        )
    found = []
    for one in classes:
        if isinstance(one, str):
            one = class_index(one, len(class_names), class_names)
        elif isinstance(one, bool) or not hasattr(one, "__index__"):
            raise TargetError(
                f"expected one class per image in a list of targets, got {type(one).__name__}: "
                "targets=[…] explains several targets of every image"
            )
        found.append(index(one))
    return torch.tensor(found)


def group_targets(targets: Sequence[Target]) -> list[tuple[Score, list[Target]]]:
    """Groups adjacent targets that share a forward.

    Classes share one; an expression or a function has its own.
    """
    groups: list[tuple[Score, list[Target]]] = []
    for target in targets:
        if callable(target) or isinstance(target, Expression):
            groups.append((target, [None]))
        elif groups and groups[-1][0] is None:
            groups[-1][1].append(target)
        else:
            groups.append((None, [target]))
    return groups


def text_of(score: Callable[[Any], Tensor] | Expression) -> str:
    """The text of an expression, or the name of a function.

    Examples:
        >>> text_of(parse("logit(1) - logit(0)")), text_of(torch.norm)
        ('logit(1) - logit(0)', 'function norm')
    """
    if isinstance(score, Expression):
        return str(score)
    return f"function {getattr(score, '__name__', type(score).__name__)}"


def resolve_target(target: Any, scores: Tensor, outputs: Outputs) -> Tensor:
    """Resolves a target to one class per image.

    Args:
        target: None (the class or label with the largest score), a class index, a tensor
            ``[batch]``, or a class name.
        scores: ``[batch, classes]``.
        outputs: What the model's outputs mean.

    Returns:
        int64 ``[batch]`` on the device of the scores.

    Raises:
        TargetError: No such class, or none is predicted because the outputs are values.

    Examples:
        >>> names = Outputs(task="classification", class_names=("happy", "sad", "calm"))
        >>> resolve_target("sad", torch.zeros(2, 3), names)
        tensor([1, 1])
    """
    batch, classes = scores.shape
    if target is None:
        if outputs.task == "regression" and classes > 1:
            raise TargetError(
                f"expected target= to choose one of {classes} outputs, got None: a regression "
                "predicts values, not one of them"
            )
        return scores.argmax(1)
    if not isinstance(target, Tensor):
        if not isinstance(target, str):
            try:
                target = index(target)
            except TypeError:
                raise TargetError(
                    "expected a class index, a tensor [batch], a class name, a function of the "
                    f"output, or None as target, got {type(target).__name__}"
                ) from None
        chosen = class_index(target, classes, outputs.class_names)
        return torch.full((batch,), chosen, device=scores.device)
    if target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool:
        raise TargetError(f"expected integer targets, got {target.dtype}")
    flat = target.reshape(-1)
    wrong = flat[(flat < 0) | (flat >= classes)]
    if len(wrong):
        class_index(int(wrong[0]), classes)
    resolved: Tensor = target.to(scores.device, torch.int64).expand(batch).clone()
    return resolved
