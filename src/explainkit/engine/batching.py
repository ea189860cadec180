"""How many images to run at once: a memory budget, measured on the model at hand."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from explainkit.engine.model import ScoreModel

BUDGET = 512 * 2**20
"""Bytes that the activations kept for a backward pass may take."""

LIMIT = 64
"""More images at once than this gain nothing."""

CACHED, FEW = 20 * 2**20, 4
"""On a CPU a chunk is faster while what one layer puts out stays near the cache, a quarter on the
FER CNN; a few images at least share the reading of the weights."""

_measured: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], tuple[int, int]]]
_measured = WeakKeyDictionary()


def chunk_size(model: nn.Module, image: Tensor) -> int:
    """How many images like this one to run at once.

    The activations that one image keeps for its backward pass are measured once per model and
    shape. As many images make a chunk as fit `BUDGET`, on a CPU as many as keep the largest one
    within `CACHED`, or a `FEW`. It depends on nothing else: the same call makes the same chunks.

    Args:
        model: What a method is called with; its own ``batch_size`` overrules the measurement.
        image: One image, ``[channel, height, width]``.
    """
    if isinstance(model, ScoreModel):
        if model.batch_size is not None:
            return model.batch_size
        model = model.module
    key = (image.shape, image.dtype, image.device)
    sizes = _measured.setdefault(model, {})
    if key not in sizes:
        sizes[key] = _activation_bytes(model, image)
    whole, largest = sizes[key]
    fitting = min(max(BUDGET // whole, 1), LIMIT)
    if image.device.type == "cpu":
        fitting = min(fitting, max(CACHED // largest, FEW))
    return 1 << (fitting.bit_length() - 1)


def _activation_bytes(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """What one image's backward pass keeps, and the largest part of it; at least 1."""
    owned = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        output = model(image[None].detach().requires_grad_().clone())
    del output
    return max(sum(kept.values()), 1), max([1, *kept.values()])


def in_chunks(run: Callable[[slice], Tensor], count: int, size: int) -> Tensor:
    """Concatenates ``run`` over consecutive slices, halving their size when memory runs out.

    Args:
        run: Computes one slice of the result, along its first axis.
        count: Length of the whole result.
        size: Length of a slice to begin with.
    """
    parts: list[Tensor] = []
    start = 0
    while start < count:
        try:
            parts.append(run(slice(start, min(start + size, count))))
        except RuntimeError as error:
            if size == 1 or not out_of_memory(error):
                raise
            size = size // 2
        else:
            start += size
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("not enough memory" in text or "can't allocate memory" in text)
    )
