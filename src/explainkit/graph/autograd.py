"""What has to be known about autograd before gradients of a model are taken.

On a CPU, the backward pass of a batch normalization in PyTorch 2.13 is wrong for a single image if
the gradient that arrives has the memory of channels-last images and another batch stride, such as
that of ``y.flatten(2).transpose(1, 2) @ weights``. Such a gradient is copied first.
"""

from typing import NoReturn

from torch import Tensor
from torch.autograd.graph import Node

from explainkit.errors import ModelError

_BATCH_NORM = "NativeBatchNormBackward0"
_REENTRANT = "CheckpointFunctionBackward"


def prepare(scores: Tensor) -> None:
    """Makes gradients of scores correct, or an error, by hooks on their graph."""
    seen = {scores.grad_fn}
    stack = [scores.grad_fn]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        name = node.name()
        if name == _BATCH_NORM:
            node.register_prehook(_contiguous)
        elif name == _REENTRANT:
            node.register_prehook(_refuse)
        for below, _ in node.next_functions:
            if below not in seen:
                seen.add(below)
                stack.append(below)


def refuse_reentrant(node: Node) -> None:
    """Raises `ModelError` if a node is a reentrant checkpoint, which has no gradient of its own."""
    if node.name() == _REENTRANT:
        _refuse()


def _refuse(*_: object) -> NoReturn:
    raise ModelError(
        "expected a model that can be differentiated, but torch.utils.checkpoint with "
        "use_reentrant=True cuts its graph: pass use_reentrant=False, or turn checkpointing off"
    )


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(map(contiguous, gradients))


def contiguous(gradient: Tensor | None) -> Tensor | None:
    """A gradient whose batch stride fits its other strides, for a batch normalization."""
    if gradient is None or len(gradient) > 1 or gradient.stride(0) == gradient.numel():
        return gradient
    return gradient.contiguous()
