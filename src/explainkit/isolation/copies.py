"""Tensors that are copied: buffers, and tensors among attributes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from explainkit.isolation.restoring import each
from explainkit.isolation.tensors import SMALL, dense_parts, in_place, joined, moved, same_bits


class Copies:
    """Tensors with copies of their values."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        small: dict[Any, list[Tensor]] = {}
        self._parts: list[_Single | _Several] = []
        for tensor in tensors:
            plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)
            if plain and tensor.numel() < SMALL:
                key = tensor.dtype, tensor.device, not tensor.dim()
                small.setdefault(key, []).append(tensor)
            else:
                data = tensor.detach()
                self._parts.append(_Single(tensor, data, data.clone()))
        self._parts += map(_Several, small.values())

    def restore(self) -> list[Exception]:
        """Writes to those that changed; returns what failed."""
        if self._unchanged():
            return []
        return each(_Single.restore, [one for part in self._parts for one in part.single()])

    def _unchanged(self) -> bool:
        try:
            return all(part.unchanged() for part in self._parts)
        except RuntimeError:
            return False  # a form of tensor that cannot be compared like this


class _Single:
    """One tensor, and a copy of its values."""

    def __init__(self, tensor: Tensor, data: Tensor, values: Tensor) -> None:
        self.tensor = tensor
        self.data = data
        self.values = values

    def single(self) -> "list[_Single]":
        return [self]

    def unchanged(self) -> bool:
        return not moved(self.tensor, self.data) and self._same_values()

    def restore(self) -> None:
        if moved(self.tensor, self.data):
            self.data.resize_(self.values.shape)
            self.tensor.data = self.data
        if not self._same_values():
            with torch.no_grad(), torch.inference_mode(self.tensor.is_inference()):
                self.tensor.copy_(self.values)

    def _same_values(self) -> bool:
        return all(map(same_bits, dense_parts(self.tensor), dense_parts(self.values)))


class _Several:
    """Small tensors of one dtype and device, copied and compared in one go."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._data = [*map(Tensor.detach, tensors)]
        self._values = joined(self._data)

    def single(self) -> list[_Single]:
        values = torch.split(self._values, [data.numel() for data in self._data])
        return [
            _Single(tensor, data, own.view(data.shape))
            for tensor, data, own in zip(self._tensors, self._data, values, strict=True)
        ]

    def unchanged(self) -> bool:
        if not in_place(self._tensors, self._data):
            return False
        return same_bits(joined(self._data), self._values)
