"""A lower precision for the forwards of methods that only run a model, and what it changes.

The weights stay as they are: forwards run under autocast, in which torch keeps operators that need
more in float32. The score, the logits and the predicted class of a result are the model's own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from explainkit.adapters.black_box import is_black_box
from explainkit.correlation import spearman
from explainkit.engine.checks import Outcome
from explainkit.errors import InputError, MethodError, ModelError, clipped
from explainkit.interfaces import Method
from explainkit.methods.contract import only_runs

Precision: TypeAlias = Literal["bfloat16"]

AGREEMENT = 0.95
"""A rank correlation of maps below this is warned of."""


def dtype_of(
    precision: Any, methods: Sequence[Method], module: nn.Module, images: Tensor, at: Any = None
) -> torch.dtype | None:
    """The dtype of the methods' forwards; None: the model's own.

    Args:
        precision: What the caller gave.
        methods: Ready to be called.
        module: The caller's model.
        images: ``[batch, channel, height, width]``.
        at: The layer whose output is explained; None: the image.

    Raises:
        InputError: There is no such precision, or the images are not float32.
        MethodError: A method uses gradients or layers, or a layer's output is explained.
        ModelError: The model runs outside of torch.
    """
    if precision is None:
        return None
    if not isinstance(precision, str) or precision != "bfloat16":
        raise InputError(f"precision: expected 'bfloat16' or None, got {clipped(repr(precision))}")
    for method in methods:
        if not only_runs(method):
            raise MethodError(
                "precision='bfloat16' is for methods that only run the model, such as occlusion or "
                f"rise, but {type(method).__name__} uses its gradients or layers: omit precision="
            )
    if at is not None:
        raise MethodError(
            "precision='bfloat16' is for maps of images, not of layers: omit at= or precision="
        )
    if images.dtype != torch.float32:
        raise InputError(
            "precision='bfloat16' is for models and images in float32, got "
            f"{str(images.dtype).removeprefix('torch.')}: omit precision="
        )
    if is_black_box(module):
        raise ModelError(
            f"{type(module).__name__} runs outside of torch in a precision of its own: omit "
            "precision="
        )
    return torch.bfloat16


def compared(found: Sequence[Outcome], first: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes with how far the ranks of the first image's values agree with those in float32.

    Args:
        found: In the lower precision, of all images.
        first: In the model's own precision, of the first image.
    """
    return [_with_agreement(one, exact) for one, exact in zip(found, first, strict=True)]


def _with_agreement(one: Outcome, exact: Outcome) -> Outcome:
    rows = one.values[:1].flatten(1), exact.values.flatten(1)
    # constant maps have no ranks
    agreement = 1.0 if torch.equal(*rows) else float(spearman(*rows).nan_to_num())
    warning = (
        "in bfloat16, the ranks of the first image's values agree with those in float32 by "
        f"{agreement:.2f} only (Spearman): omit precision= for the model's own"
    )
    return replace(
        one,
        warnings=(*one.warnings, *([warning] if agreement < AGREEMENT else [])),
        diagnostics=one.diagnostics | {"rank_agreement": agreement},
    )
