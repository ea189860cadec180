"""A function on arrays as a model: methods that only run it work, gradients do not exist."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explainkit.errors import ModelError

_ARRAYS = (np.ndarray, Tensor)


class BlackBox(nn.Module):
    """A model whose scores a function computes, outside of torch.

    Methods that only run a model explain it: occlusion, RISE, LIME, KernelSHAP and others. Methods
    that need gradients or layers refuse it and say why.

    Args:
        function: Called with float32 images ``[batch, channel, height, width]`` as a numpy array,
            preprocessed for the model. It returns scores ``[batch, classes]`` or ``[batch]`` as an
            array, or several outputs as a tuple, list or dict of arrays.

    Examples:
        >>> import explainkit as ek
        >>> def bright(images):
        ...     return np.stack([-images.mean((1, 2, 3)), images.mean((1, 2, 3))], 1)
        >>> ek.explain(BlackBox(bright), torch.rand(1, 3, 8, 8), 1, "occlusion").attribution.shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        super().__init__()
        self.function = function
        self.eval()  # a function has no modes

    def forward(self, images: Tensor) -> Any:
        """What the function returns, as tensors on the device and in the dtype of the images."""
        array = images.detach().to("cpu", torch.float32).numpy()
        return self._as_tensors(self.function(array.copy()), images)

    def _as_tensors(self, value: Any, like: Tensor) -> Any:
        if isinstance(value, Mapping):
            return {key: self._as_tensors(part, like) for key, part in value.items()}
        if isinstance(value, tuple | list) and any(isinstance(v, _ARRAYS) for v in value):
            return tuple(self._as_tensors(part, like) for part in value)
        if isinstance(value, Tensor):
            return value.detach().to(like, copy=True)
        array = np.array(value)  # a copy: the function may write its next scores to the same memory
        if array.dtype.kind not in "fiub":
            raise ModelError(
                f"expected the function to return arrays of numbers, got {type(value).__name__}"
                + ": a function that makes a model takes no argument" * isinstance(value, nn.Module)
            )
        return torch.from_numpy(array).to(like)


def is_black_box(model: nn.Module) -> bool:
    """Whether a part of the model runs outside of torch, so that it has no gradients."""
    return any(isinstance(part, BlackBox) for part in model.modules())
