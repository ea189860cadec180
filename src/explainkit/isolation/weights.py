"""Parameters: frozen, not copied, put back as they were, and refused if their values changed."""

from collections import defaultdict
from itertools import compress
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.isolation.restoring import each
from explainkit.isolation.tensors import SMALL, in_place, joined, moved, same_bits
from explainkit.layers import versions_of

SAMPLED = 32
"""Values of each parameter that are compared, evenly spaced, besides its count of changes."""

_PLAIN = {Tensor, nn.Parameter}
"""Other classes, such as quantized ones, may have no views."""

_requires_grad, _grad = attrgetter("requires_grad"), attrgetter("grad")


class Weights:
    """The state of tensors whose values are not copied.

    It is held in lists, one for each property, since nearly always all are as they were.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._required = [*map(_requires_grad, tensors)]
        self._grads = [*map(_grad, tensors)]
        self._memory = [*map(Tensor.detach, tensors)]
        self._versions = versions_of(tensors)
        self._samples = _Samples(tensors, self._memory)

    def freeze(self) -> None:
        """No gradient is recorded for them, or added to theirs."""
        for tensor in compress(self._tensors, self._required):
            _require_grad((tensor, False))
        for tensor, grad in zip(self._tensors, self._grads, strict=True):
            if grad is not None:
                tensor.grad = None

    def restore(self) -> list[Exception]:
        """Puts back memory, `requires_grad` and `.grad`; returns what failed."""
        failures = []
        if not in_place(self._tensors, self._memory):
            failures += each(_put_back, zip(self._tensors, self._memory, strict=True))
        if [*map(_requires_grad, self._tensors)] != self._required:
            failures += each(_require_grad, zip(self._tensors, self._required, strict=True))
        if not all(map(is_, map(_grad, self._tensors), self._grads)):
            failures += each(_set_grad, zip(self._tensors, self._grads, strict=True))
        return failures

    def written(self) -> list[Tensor]:
        """Those whose values changed, once their memory is back in place."""
        changed = self._samples.changed()
        now = versions_of(self._tensors)
        if now != self._versions:
            counts = zip(self._tensors, now, self._versions, strict=True)
            changed += [tensor for tensor, after, before in counts if after != before]
        return list({id(tensor): tensor for tensor in changed}.values())


def _put_back(pair: tuple[Tensor, Tensor]) -> None:
    tensor, memory = pair
    if moved(tensor, memory):
        tensor.data = memory


def _require_grad(pair: tuple[Tensor, bool]) -> None:
    tensor, required = pair
    if tensor.requires_grad == required or not tensor.is_leaf:
        return
    if not tensor.is_inference():
        tensor.requires_grad_(required)
        return
    with torch.inference_mode():
        tensor.requires_grad_(required)


def _set_grad(pair: tuple[Tensor, Tensor | None]) -> None:
    tensor, grad = pair
    if tensor.grad is not grad:
        tensor.grad = grad


class _Samples:
    """A few values of each tensor, to detect changes that its version doesn't count."""

    def __init__(self, tensors: list[Tensor], memory: list[Tensor]) -> None:
        groups: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for tensor, data in zip(tensors, memory, strict=True):
            plain = type(tensor) in _PLAIN and data.layout == torch.strided
            if not plain or data.is_meta or not (size := data.numel()):
                continue
            # reading a short vector takes less time than a view of it
            short = data.dim() == 1 and size < SMALL and data.is_contiguous()
            view = data if short else _evenly_spaced(data)
            groups[data.dtype, data.device, short].append((tensor, view))
        self._groups = [*groups.values()]
        self._values = self._read()

    def _read(self) -> list[Tensor]:
        return [joined([view for _, view in group]) for group in self._groups]

    def changed(self) -> list[Tensor]:
        """The tensors whose values differ."""
        found = []
        for group, before, after in zip(self._groups, self._values, self._read(), strict=True):
            if not same_bits(before, after):
                sizes = [view.numel() for _, view in group]
                pairs = zip(torch.split(before, sizes), torch.split(after, sizes), strict=True)
                found += [
                    tensor
                    for (tensor, _), pair in zip(group, pairs, strict=True)
                    if not same_bits(*pair)
                ]
        return found


def _evenly_spaced(data: Tensor) -> Tensor:
    """A view of about `SAMPLED` values of a tensor; more if its memory is not contiguous."""
    if data.is_contiguous():
        size = data.numel()
        return data.as_strided((min(size, SAMPLED),), (max(size // SAMPLED, 1),))
    return data[tuple(slice(None, None, max(size // 4, 1)) for size in data.shape)]
