"""Chunk sizes: as many images at once as fit a memory budget, measured on the model."""

import sys
from collections.abc import Callable
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from explainkit.engine.failures import is_inference, out_of_memory
from explainkit.engine.model import ScoreModel
from explainkit.isolation import preserve_generators

BUDGET = 512 * 2**20
"""Bytes that the activations saved for a backward pass may take on a CPU."""

SHARE = 4
"""On an accelerator they may take one part in this many of its free memory."""

LIMIT, LIMIT_ON_DEVICE = 64, 1024
"""The largest chunks on a CPU, where larger ones are not faster, and on an accelerator."""

HELD = 4
"""Activations that exist at once in a forward pass without gradients, each of the largest size."""

CACHED, FEW = 20 * 2**20, 4
"""On a CPU, chunks are faster while a layer's output fits the cache (by a quarter on the FER CNN),
and a few images should share each read of the weights."""

_measured: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], tuple[int, int]]]
_measured = WeakKeyDictionary()


def chunk_size(model: nn.Module, image: Tensor, *, backward: bool = True) -> int:
    """The number of images of this shape to run at once.

    The activations that one image saves for its backward pass are measured once per model and
    shape. A chunk has as many images as fit the estimate of `budget_of` its device; on a CPU it is
    limited to as many as keep the largest activation within `CACHED`, but not below `FEW`. The size
    depends on nothing else, so the same call always has the same chunks. It never decides how a
    value is computed, only how many are computed at once.

    Args:
        model: What a method is called with; its ``batch_size`` overrides the measurement.
        image: One image, ``[channel, height, width]``.
        backward: Whether activations are saved for a backward pass. Without one, `HELD` of them
            exist at a time, and a chunk has more images.
    """
    if isinstance(model, ScoreModel):
        if model.batch_size is not None:
            return model.batch_size
        model = model.module
    key = (image.shape, image.dtype, image.device)
    sizes = _measured.setdefault(model, {})
    if key not in sizes:
        with preserve_generators(model):
            sizes[key] = _activation_bytes(model, image)
    saved, largest = sizes[key]
    whole = max(saved if backward else 0, HELD * max(largest, image.nbytes))
    if image.device.type == "cpu":
        fitting = min(BUDGET // whole, max(CACHED // largest, FEW), LIMIT)
    else:
        fitting = min(budget_of(image.device) // whole, LIMIT_ON_DEVICE)
    return 1 << (max(fitting, 1).bit_length() - 1)


def budget_of(device: torch.device) -> int:
    """Bytes that activations may take: an estimate, not a ceiling.

    On a CPU it is `BUDGET`, whatever the machine. On an accelerator it is a share of the memory
    that is free at the first call of the process, rounded down to a power of two.
    """
    return BUDGET if device.type == "cpu" else 1 << ((_free(device) // SHARE).bit_length() - 1)


@cache
def _free(device: torch.device) -> int:
    """Bytes of free memory of an accelerator; four budgets if it does not tell."""
    accelerator = torch.get_device_module(device)
    if hasattr(accelerator, "mem_get_info"):
        return int(accelerator.mem_get_info(device)[0])
    if hasattr(accelerator, "recommended_max_memory"):
        return int(accelerator.recommended_max_memory() - accelerator.driver_allocated_memory())
    return SHARE * BUDGET


def _activation_bytes(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Bytes saved for one image's backward pass: in total and of the largest tensor; at least 1."""
    owned = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.layout == torch.strided
    }
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in owned:
                saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold its own graph, a cycle

    saves = not is_inference(model)
    try:
        with (
            torch.set_grad_enabled(saves),
            torch.autograd.graph.saved_tensors_hooks(count, lambda x: x),
        ):
            model(image[None].detach().requires_grad_().clone())
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return sys.maxsize, 1  # without gradients, it may still run
    return max(sum(saved.values()), 1), max([1, *saved.values()])


def in_chunks(run: Callable[[slice], Tensor], count: int, size: int) -> Tensor:
    """Concatenates ``run`` over consecutive slices; halves their size when memory runs out.

    Args:
        run: Computes one slice of the result, along its first axis.
        count: Length of the whole result.
        size: Initial length of a slice.
    """
    parts: list[Tensor] = []
    start = 0
    while start < count:
        try:
            parts.append(run(slice(start, min(start + size, count))))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
            size = size // 2
        else:
            start += size
    return parts[0] if len(parts) == 1 else torch.cat(parts)
