"""Comparisons of tensors: memory, form and bits."""

from collections.abc import Sequence

import torch
from torch import Tensor

SMALL = 4096
"""Tensors with fewer values are read together."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
"""Integers by their number of bytes."""


def moved(now: Tensor, then: Tensor) -> bool:
    """Whether a tensor has other memory or another form than before."""
    if now.shape != then.shape or now.dtype != then.dtype:
        return True
    if now.layout != torch.strided:
        return False
    return now.data_ptr() != then.data_ptr() or now.stride() != then.stride()


def in_place(now: Sequence[Tensor], then: Sequence[Tensor]) -> bool:
    """Whether all tensors surely have the memory and form of before; a loop in C."""
    try:
        return all(map(Tensor.is_set_to, now, then)) and [t.dtype for t in now] == [
            t.dtype for t in then
        ]
    except RuntimeError:  # forms of tensors, and devices, that cannot be compared like this
        return False


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The values of tensors of one dtype and device, in one vector.

    They all have no axis, or all have at least one. It is fastest for contiguous vectors.
    """
    if not tensors[0].dim():
        return torch.stack([*tensors])
    return torch.cat([one if one.dim() == 1 else one.reshape(-1) for one in tensors])


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that a tensor consists of; none if it has no values."""
    if tensor.is_meta:
        return []
    if tensor.is_quantized:
        return [tensor.int_repr()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.detach()]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors have the same shape and bits; NaN equals itself, 0 is not -0."""
    if a.shape != b.shape:
        return False
    # the widest integers that fit are compared fastest
    bits = _BITS.get(a.element_size(), torch.int64)
    return torch.equal(a.reshape(-1).view(bits), b.reshape(-1).view(bits))
