"""Methods as explanation functions of Quantus, and such functions as methods.

Quantus evaluates explanations: Hedström et al. (2023), "Quantus: An Explainable AI Toolkit for
Responsible Evaluation of Neural Network Explanations and Beyond", arXiv:2202.06861. Nothing here
imports it.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from explainkit.api import explain
from explainkit.catalog.factories import AnyMethod
from explainkit.errors import MethodError
from explainkit.interfaces import Method
from explainkit.interop.foreign import ForeignMethod, as_method
from explainkit.layers import floating_tensor


def explain_func(
    model: nn.Module,
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    method: AnyMethod = "saliency",
    device: object = None,  # noqa: ARG001 - Quantus passes it
    **params: Any,
) -> NDArray[Any]:
    """A method's maps, for ``explain_func=`` of Quantus' metrics.

    ``explain_func_kwargs={"method": "integrated_gradients", "steps": 50}`` chooses the method.

    Args:
        model: The model.
        inputs: Images ``[batch, channel, height, width]``, moved to the model's device and dtype.
        targets: The class of each image, ``[batch]``.
        method: A registered name, or a method.
        device: Ignored: the model's own device is used.
        **params: The method's fields, and arguments of `explainkit.explain` such as ``seed``.

    Returns:
        ``[batch, channel or 1, height, width]``.

    Examples:
        >>> import numpy as np, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> maps = explain_func(net, np.ones((2, 1, 4, 4)), np.array([0, 2]))
        >>> maps.shape, bool((maps[1].ravel() == net[1].weight[2].detach().numpy()).all())
        ((2, 1, 4, 4), True)
    """
    like = floating_tensor(model)
    images = torch.as_tensor(np.asarray(inputs)).to(like.device, like.dtype)
    classes = torch.as_tensor(np.asarray(targets)).to(like.device, torch.int64)
    return _as_array(explain(model, images, classes, method, **params).attribution)


def from_quantus(func: Callable[..., Any], **params: Any) -> Method:
    """Wraps an explanation function of Quantus as a method.

    Its map of an image equals ``func(model, inputs, targets, **params)``. Images are explained one
    at a time, each with the same seed of the global random generators.

    Args:
        func: ``func(model, inputs, targets, **kwargs)`` of arrays, such as ``quantus.explain``,
            which returns ``[batch, channel or 1, height, width]`` or ``[batch, height, width]``.
        **params: Its further arguments. A ``seed`` is that of the global generators.

    Raises:
        MethodError: Not a function.

    Examples:
        >>> import torch, explainkit as ek
        >>> def brightness(model, inputs, targets, gain):
        ...     return gain * inputs.sum(1)
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> x = torch.rand(2, 1, 4, 4)
        >>> e = ek.explain(net, x, 1, ek.interop.quantus.from_quantus(brightness, gain=2.0))
        >>> torch.equal(e.attribution, 2 * x), dict(e.params)
        (True, {'seed': 0, 'gain': 2.0})
    """
    if not callable(func):
        raise MethodError(f"expected func(model, inputs, targets, **kwargs), got {func!r:.60}")
    name = getattr(func, "__name__", type(func).__name__)
    module = getattr(func, "__module__", type(func).__module__)
    return as_method(_FromQuantus, name, module, params, func=staticmethod(func))  # type: ignore[return-value]


class _FromQuantus(ForeignMethod):
    """Calls an explanation function of Quantus."""

    func: ClassVar[Callable[..., Any]]

    def map_of(self, model: nn.Module, image: Tensor, target: int) -> Tensor:
        """The function's map."""
        params = {name: value for name, value in vars(self).items() if name != "seed"}
        inputs, targets = _as_array(image), np.array([target])
        found = torch.as_tensor(
            np.asarray(self.func(model=model, inputs=inputs, targets=targets, **params))
        )
        return (found[:, None] if found.dim() == 3 else found).to(image.device, image.dtype)


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array; numpy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
