"""How the output of a layer maps onto the image: maps, channels-last maps, tokens."""

import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.errors import ModelError

AxisOrder = Literal["channels first", "channels last", "tokens"]
PatchGrid = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """How a layer's output covers the image.

    Attributes:
        kind: ``[batch, channel, height, width]``, ``[batch, height, width, channel]``, or
            ``[batch, token, channel]`` with the patches row by row.
        patch_grid: Height and width of the map.
        prefix_tokens: Number of class and register tokens before the patches.
    """

    kind: AxisOrder
    patch_grid: PatchGrid
    prefix_tokens: int = 0

    def to_nchw(self, value: Tensor) -> Tensor:
        """A layer's output, or its gradient, as ``[batch, channel, height, width]``."""
        if self.kind == "channels first":
            return value
        if self.kind == "channels last":
            return value.permute(0, 3, 1, 2)
        patches = value[:, self.prefix_tokens : self.prefix_tokens + math.prod(self.patch_grid)]
        return patches.transpose(1, 2).reshape(len(value), -1, *self.patch_grid)

    def over(self, masks: Tensor, value: Tensor) -> Tensor:
        """Masks ``[n, height, width]``, shaped to multiply the layer's output.

        Class and register tokens are not masked.
        """
        if self.kind == "channels first":
            return masks[:, None]
        if self.kind == "channels last":
            return masks[..., None]
        whole = masks.new_ones(len(masks), value.shape[1], 1)
        whole[:, self.prefix_tokens : self.prefix_tokens + math.prod(self.patch_grid), 0] = (
            masks.flatten(1)
        )
        return whole


def layout_of(
    value: Tensor,
    path: str,
    model: nn.Module,
    images: Tensor,
    patch_grid: PatchGrid | None = None,
    prefix_tokens: int | None = None,
) -> Layout:
    """Infers how a layer's output covers the image.

    A map is channels first, unless only the height and width of the channels-last reading match the
    patch grid of the model's first convolution, or that grid halved, as in Swin. Tokens lie on such
    a grid too. Patch tokens are told from class and register tokens where the tokens are first
    concatenated: only patch tokens depend on the image there.

    Args:
        value: Output of the layer.
        path: Path of the layer, for errors.
        model: The caller's model.
        images: ``[batch, channel, height, width]``.
        patch_grid: Height and width of the map, if the caller knows it.
        prefix_tokens: Number of tokens before the patches, if the caller knows it.

    Raises:
        ModelError: The output has no spatial positions, or their layout cannot be inferred.
    """
    shape = list(value.shape)
    if len(value) != len(images) or value.dim() not in (3, 4):
        raise ModelError(
            f"expected layer {path!r} to put out a map [{len(images)}, channel, height, width] or "
            f"tokens [{len(images)}, token, channel], got {shape}: name another layer"
        )
    if value.dim() == 3:
        return _of_tokens(value.shape[1], path, model, images, patch_grid, prefix_tokens)
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    known = [patch_grid] if patch_grid else patch_grids(model, images)
    if patch_grid and patch_grid not in (first, last):
        raise ModelError(f"patch_grid: expected the height and width of {shape}, got {patch_grid}")
    if last in known and first not in known:
        return Layout("channels last", last)
    height, width = images.shape[2:]
    proportions = [abs(a * width - b * height) for a, b in (first, last)]
    # rounding changes the aspect ratio of a map by up to half a position
    if not known and proportions[1] == 0 and 2 * proportions[0] > max(height, width):
        raise ModelError(
            f"cannot tell whether layer {path!r} with output {shape} is channels first or channels "
            f"last: the model has no convolution to compare with: pass patch_grid={last} or "
            f"patch_grid={first}"
        )
    return Layout("channels first", first)


def _of_tokens(
    count: int,
    path: str,
    model: nn.Module,
    images: Tensor,
    patch_grid: PatchGrid | None,
    prefix_tokens: int | None,
) -> Layout:
    fitting = [g for g in patch_grids(model, images) if math.prod(g) <= count]
    chosen = patch_grid or (fitting[0] if fitting else None)
    if chosen is None or math.prod(chosen) > count:
        got = f"got {chosen[0]} × {chosen[1]}" if chosen else "the model declares no patch grid"
        raise ModelError(
            f"cannot tell where the {count} tokens of layer {path!r} lie on the image, {got}: pass "
            "patch_grid=(height, width), and prefix_tokens= for class and register tokens"
        )
    extra = count - math.prod(chosen)
    if prefix_tokens is None:
        prefix_tokens = _leading(count, math.prod(chosen), model, images) if extra else 0
    if prefix_tokens is None or not 0 <= prefix_tokens <= extra:
        got = "" if prefix_tokens is None else f", got prefix_tokens={prefix_tokens}"
        raise ModelError(
            f"cannot tell which of the {count} tokens of layer {path!r} are the "
            f"{chosen[0]} × {chosen[1]} patches{got}: pass prefix_tokens= from 0 to {extra}, the "
            "number of class and register tokens before them, or another patch_grid=(height, width)"
        )
    return Layout("tokens", chosen, prefix_tokens)


def patch_grids(model: nn.Module, images: Tensor) -> list[PatchGrid]:
    """The patch grid of the model, and the grids that result from merging patches two by two."""
    channels, height, width = images.shape[1:]
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            patches = F.conv2d(
                images.new_empty((1, channels, height, width), device="meta"),
                module.weight.new_empty(module.weight.shape, device="meta"),
                None, module.stride, module.padding, module.dilation, module.groups,
            )  # fmt: skip
            grids: list[PatchGrid] = [(patches.shape[2], patches.shape[3])]
            break
        if (size := _declared(module)) is not None:
            grids = [(height // size[0], width // size[1])]
            break
    else:
        return []
    while max(grids[-1]) > 1:
        grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    return grids


def _declared(module: nn.Module) -> PatchGrid | None:
    """The patch size that a module or its configuration declares."""
    for holder in (module, getattr(module, "config", None)):
        size = getattr(holder, "patch_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, tuple | list) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


class _FoundError(Exception):
    """Ends a forward once the tokens are found."""


def _leading(count: int, patches: int, model: nn.Module, images: Tensor) -> int | None:
    """Number of tokens before the patches; None if it cannot be inferred.

    Where tokens are first concatenated, patch tokens depend on the image, and class and register
    tokens do not.
    """
    model = getattr(model, "_orig_mod", model)  # a compiled model cannot be stopped midway
    found: list[Tensor] = []
    noise = torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0))
    pair = torch.cat([images[:1].detach(), images[:1].detach() + 1 + noise.to(images)])

    def look(_module: nn.Module, inputs: Any, output: Any) -> None:
        for value in (*inputs, output):
            if isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == (2, count):
                found.append(value)
                raise _FoundError

    with ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            hooks.callback(module.register_forward_hook(look).remove)
        with suppress(_FoundError):
            model(pair)
    if not found:
        return None
    changed = (found[0][0] != found[0][1]).any(1).nonzero().flatten().tolist()
    consecutive = changed and changed == list(range(changed[0], changed[0] + patches))
    return changed[0] if consecutive else None
