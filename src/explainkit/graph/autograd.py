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

_OWN_MEMORY = (
    _BATCH_NORM, "ConvolutionBackward0", "MeanBackward1", "AvgPool2DBackward0",
    "AdaptiveAvgPool2DBackward0", "MaxPool2DWithIndicesBackward0",
)  # fmt: skip
"""Operators whose gradients are new tensors, and have the usual batch stride."""

_SAME_STRIDES = (
    "Add", "Sub", "Mul", "Div", "Relu", "Silu", "Gelu", "Sigmoid", "Tanh", "Elu", "LeakyRelu",
    "Hardtanh", "Hardswish", "Hardsigmoid", "Clone", "View",
)  # fmt: skip
"""Operators whose gradients have the strides of the gradient that arrives."""

_UNUSUAL = dict.fromkeys(_OWN_MEMORY, False) | {f"{name}Backward0": None for name in _SAME_STRIDES}
"""Whether gradients of an operator may have unusual strides; None: if the one that arrives has.

Those of an operator that is not listed may.
"""


def prepare(scores: Tensor) -> None:
    """Makes gradients of scores correct, or an error, by hooks on their graph.

    A hook in Python costs more than many an operator, so only those batch normalizations get one
    which a gradient with unusual strides may reach.
    """
    seen: dict[Node, bool] = {}
    stack = [(scores.grad_fn, True)]
    while stack:
        node, unusual = stack.pop()
        if node is None or seen.get(node) in (True, unusual):
            continue
        seen[node] = unusual
        name = node.name()
        if name == _REENTRANT:
            node.register_prehook(_refuse)
        elif name == _BATCH_NORM and unusual:
            node.register_prehook(lambda gradients: tuple(map(contiguous, gradients)))
        after = _UNUSUAL.get(name, True)
        unusual = unusual if after is None else after
        stack += [(below, unusual) for below, _ in node.next_functions]


def refuse_reentrant(node: Node) -> None:
    """Raises `ModelError` if a node is a reentrant checkpoint, which has no gradient of its own."""
    if node.name() == _REENTRANT:
        _refuse()


def _refuse(*_: object) -> NoReturn:
    raise ModelError(
        "expected a model that can be differentiated, but torch.utils.checkpoint with "
        "use_reentrant=True cuts its graph: pass use_reentrant=False, or turn checkpointing off"
    )


def contiguous(gradient: Tensor | None) -> Tensor | None:
    """A gradient whose batch stride fits its other strides, for a batch normalization."""
    if gradient is None or len(gradient) > 1 or gradient.stride(0) == gradient.numel():
        return gradient
    return gradient.contiguous()
