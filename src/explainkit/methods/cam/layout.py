"""How the output of a layer maps onto the image: maps, channels-last maps, tokens."""

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from explainkit.errors import ModelError
from explainkit.graph.cached import Cached
from explainkit.isolation import uncompiled
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import submodules

AxisOrder = Literal["channels first", "channels last", "tokens"]
PatchGrid = tuple[int, ...]
"""Height and width of a map; of a volume depth, height and width."""


@dataclass(frozen=True)
class Layout:
    """How a layer's output covers the image.

    Attributes:
        kind: ``[batch, channel, height, width]``, ``[batch, height, width, channel]``, or
            ``[batch, token, channel]`` with the patches row by row; in a volume slice by slice,
            with a depth before each height.
        patch_grid: Height and width of the map; of a volume depth, height and width.
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
            return value.movedim(-1, 1)
        patches = value[:, self.prefix_tokens : self.prefix_tokens + math.prod(self.patch_grid)]
        return patches.transpose(1, 2).reshape(len(value), -1, *self.patch_grid)

    def from_nchw(self, maps: Tensor, value: Tensor) -> Tensor:
        """A layer's output with other maps; class and register tokens are those of ``value``."""
        maps = maps.to(value.dtype)
        if self.kind == "channels first":
            return maps
        if self.kind == "channels last":
            return maps.movedim(1, -1)
        patches = maps.flatten(2).transpose(1, 2)
        first, last = self.prefix_tokens, self.prefix_tokens + math.prod(self.patch_grid)
        return torch.cat([value[:, :first], patches, value[:, last:]], 1)

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
    patch grid of the model's first convolution, or that grid halved, as in Swin. Where tokens lie
    is observed once per model, where the model first has that many: those that depend on the image
    are the patches, and they must be as many as the positions of a convolution that ran before, or
    of its map halved. Class and register tokens do not depend on the image there.

    Args:
        value: Output of the layer.
        path: Path of the layer, for errors.
        model: The caller's model.
        images: ``[batch, channel, height, width]``, or volumes.
        patch_grid: Height and width of the map, if the caller knows it; of a volume depth, height
            and width.
        prefix_tokens: Number of tokens before the patches, if the caller knows it.

    Raises:
        ModelError: The output has no spatial positions, or their layout cannot be inferred.
    """
    shape, depth = list(value.shape), _depth(images)
    if len(value) != len(images) or value.dim() not in (3, images.dim()):
        raise ModelError(
            f"expected layer {path!r} to output a map [{len(images)}, channel, {depth}height, "
            f"width] or tokens [{len(images)}, token, channel], got {shape}: name another layer"
        )
    if patch_grid and len(patch_grid) != images.dim() - 2:
        raise ModelError(
            f"patch_grid: expected the {depth}height and width of a map, got {patch_grid}"
        )
    if value.dim() == 3:
        return _of_tokens(value.shape[1], path, model, images, patch_grid, prefix_tokens)
    first, last = tuple(shape[2:]), tuple(shape[1:-1])
    known = [patch_grid] if patch_grid else patch_grids(model, images)
    if patch_grid and patch_grid not in (first, last):
        raise ModelError(
            f"patch_grid: expected the {depth}height and width of {shape}, got {patch_grid}"
        )
    if last in known and first not in known:
        return Layout("channels last", last)
    height, width = images.shape[-2:]
    proportions = [abs(a * width - b * height) for *_, a, b in (first, last)]
    # rounding changes the aspect ratio of a map by up to half a position
    if not known and proportions[1] == 0 and 2 * proportions[0] > max(height, width):
        raise ModelError(
            f"cannot tell whether layer {path!r} with output {shape} is channels first or channels "
            f"last: the model has no convolution to compare with: pass patch_grid={last} or "
            f"patch_grid={first}"
        )
    return Layout("channels first", first)


def _depth(images: Tensor) -> str:
    """The axis of volumes before height and width, in words; "" for images."""
    return "" if images.dim() == 4 else "depth, "


def spatial_axes(values: Tensor) -> tuple[int, ...]:
    """The axes of ``[batch, channel, …]`` behind the channels."""
    return tuple(range(2, values.dim()))


def _of_tokens(
    count: int,
    path: str,
    model: nn.Module,
    images: Tensor,
    patch_grid: PatchGrid | None,
    prefix_tokens: int | None,
) -> Layout:
    known = patch_grid is not None and (prefix_tokens is not None or math.prod(patch_grid) >= count)
    looks = not known and images.dim() == 4
    seen = _tokens_of(count, path, model, images) if looks else None
    grid = patch_grid or (seen.patch_grid if seen else None)
    if grid is None or math.prod(grid) > count:
        got = f", got {' × '.join(map(str, grid))}" if grid else ""
        raise ModelError(
            f"cannot tell where the {count} tokens of layer {path!r} lie on the image{got}: pass "
            f"patch_grid=({_depth(images)}height, width), and prefix_tokens= for class and "
            "register tokens"
        )
    extra = count - math.prod(grid)
    if prefix_tokens is None:
        fits = seen is not None and seen.patches == math.prod(grid)
        prefix_tokens = 0 if not extra else seen.prefix if seen is not None and fits else None
    if prefix_tokens is None or not 0 <= prefix_tokens <= extra:
        got = "" if prefix_tokens is None else f", got prefix_tokens={prefix_tokens}"
        raise ModelError(
            f"cannot tell which of the {count} tokens of layer {path!r} are the "
            f"{' × '.join(map(str, grid))} patches{got}: pass prefix_tokens= from 0 to {extra}, "
            "the number of class and register tokens before them, or another "
            f"patch_grid=({_depth(images)}height, width)"
        )
    return Layout("tokens", grid, prefix_tokens)


def patch_grids(model: nn.Module, images: Tensor) -> list[PatchGrid]:
    """The patch grid of the model, and the grids that result from merging patches two by two."""
    channels, *sizes = images.shape[1:]
    kind = nn.Conv2d if images.dim() == 4 else nn.Conv3d
    for module in model.modules():
        if isinstance(module, kind) and module.in_channels == channels:
            lengths = (_length(module, axis, length) for axis, length in enumerate(sizes))
            grids: list[PatchGrid] = [tuple(lengths)]
            break
    else:
        grids = _declared_grids(model, images)[:1]
    return _halved(grids[0]) if grids else []


def _length(conv: nn.Conv2d | nn.Conv3d, axis: int, length: int) -> int:
    """The number of positions of a convolution along an axis of the image, at least one."""
    extent = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    if isinstance(conv.padding, str):
        padding = extent if conv.padding == "same" else 0
    else:
        padding = 2 * int(conv.padding[axis])
    return max((length + padding - extent - 1) // conv.stride[axis] + 1, 1)


def _halved(grid: PatchGrid) -> list[PatchGrid]:
    """A grid, and those that result from merging its patches two by two, and its slices.

    Of an odd number of rows or columns, the last one is merged alone, or left out.
    """
    *depth, height, width = grid
    found = {
        (*along, *across): None
        for alone in (1, 0)
        for along in _merged(tuple(depth), alone)
        for across in _merged((height, width), alone)
    }
    return [*found]


def _merged(lengths: PatchGrid, alone: int) -> list[PatchGrid]:
    """Lengths, halved again and again; odd ones are rounded up if the last is merged alone."""
    found = [lengths]
    while max(found[-1], default=1) > 1:
        found.append(tuple(max((length + alone) // 2, 1) for length in found[-1]))
    return found


def _declared_grids(model: nn.Module, images: Tensor) -> list[PatchGrid]:
    """The grids of the patch sizes that modules or their configurations declare."""
    lengths = images.shape[2:]
    sizes = (_declared(module, len(lengths)) for module in model.modules())
    return [
        tuple(length // side for length, side in zip(lengths, size, strict=True))
        for size in sizes
        if size is not None
    ]


def _declared(module: nn.Module, axes: int) -> tuple[int, ...] | None:
    """The patch size that a module or its configuration declares, for each spatial axis."""
    for holder in (module, getattr(module, "config", None)):
        size = getattr(holder, "patch_size", None)
        if isinstance(size, int):
            return (size,) * axes
        if isinstance(size, tuple | list) and len(size) == axes:
            return tuple(map(int, size))
    return None


@dataclass(frozen=True)
class _Tokens:
    """How the tokens of a model depend on the image where they first appear.

    Attributes:
        prefix: Number of tokens before the patches; they do not depend on the image.
        patches: Number of tokens that depend on it.
        patch_grid: Height and width of the grid of the patches; None if it cannot be inferred.
    """

    prefix: int
    patches: int
    patch_grid: PatchGrid | None


_tokens = Cached[_Tokens | None]()


def structure_of(modules: list[nn.Module]) -> list[Any]:
    """What a cached fact about a model's layers depends on: its modules, and their names."""
    # a scripted module has no names to iterate over, only keys()
    names = [tuple(one._modules.keys()) if len(one._modules) else () for one in modules]
    return [*map(type, modules), *names]


def _tokens_of(count: int, path: str, model: nn.Module, images: Tensor) -> _Tokens | None:
    """The tokens of a layer; None if those that depend on the image are not consecutive."""
    layer = LayerTensor.of(path).layer
    first = re.sub(r"\d+$", "0", layer) if layer[-1:].isdigit() else ""
    key = (count, first, images.shape[1:])
    state = structure_of(submodules(model))
    return _tokens.once(model, key, lambda: _look(count, first, model, images), state)


class _FoundError(Exception):
    """Ends a forward once the tokens are found."""


def _look(
    count: int, first: str, model: nn.Module, images: Tensor, varied: nn.Module | None = None
) -> _Tokens | None:
    """Runs a model until it has ``count`` tokens, on an image and on changed ones.

    Patch tokens depend on the image there, and class and register tokens do not. Their grid is that
    of a convolution which ran before, possibly halved, or the one of the patch size that the model
    declares, or has the proportions of the image. It is confirmed by the tokens that do not depend
    on the upper and the left half of the image, if there are any.

    In a later stage, class tokens have read the patches of the one before. If all tokens depend on
    the image and no grid fits, the map that the last convolution returns is changed instead, such
    as that of the pooling between the stages of PiT.

    Args:
        count: Number of tokens.
        first: Path of the first of the layer's numbered sequence, if there is one. If the tokens
            that enter it do not depend on the image, they are queries, not patches.
        model: The caller's model.
        images: ``[batch, channel, height, width]``.
        varied: The convolution whose map is changed; None: the image is.
    """
    grids: list[PatchGrid] = []
    convs: list[nn.Module] = []
    found: list[Tensor] = []
    height, width = images.shape[2:]
    image = images[:1].detach()
    entering = dict(model.named_modules()).get(first)
    waiting = entering is not None

    def counted(values: Any) -> list[Tensor]:
        tensors = [value for value in values if isinstance(value, Tensor) and value.dim() == 3]
        return [value for value in tensors if value.shape[:2] == (4, count)]

    def depends(value: Tensor) -> bool:
        return bool((value[1] != value[0]).any())

    def enter(_module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        nonlocal waiting
        waiting = False
        for value in counted((*inputs, *named.values()))[:1]:
            if not depends(value):
                found.clear()
            elif not found:
                found.append(value)
            raise _FoundError

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor) and output.dim() == 4:
            grids.insert(0, (output.shape[2], output.shape[3]))
            convs.append(module)
        if not found:  # others, such as position embeddings, do not depend on the image
            found.extend([*filter(depends, counted((*inputs, output)))][:1])
        if found and not waiting:
            raise _FoundError

    with ExitStack() as hooks, torch.no_grad(), uncompiled():
        if entering is not None:
            before = entering.register_forward_pre_hook(enter, with_kwargs=True)
            hooks.callback(before.remove)
        for module in model.modules():
            hooks.callback(module.register_forward_hook(leave).remove)
        if varied is not None:
            vary = varied.register_forward_hook(lambda _, __, output: _variants(output[:1]))
            hooks.callback(vary.remove)
        with suppress(_FoundError):
            model(_variants(image) if varied is None else image.repeat(4, 1, 1, 1))
    if not found:
        return None
    told = _described(found[0], [*grids, *_declared_grids(model, images)], height / width)
    if varied is None and convs and told and told.patches == count and told.patch_grid is None:
        again = _look(count, first, model, images, convs[-1])
        return again if again and again.patch_grid else told
    return told


def _variants(value: Tensor) -> Tensor:
    """An image or a map, and the same changed everywhere, in its upper, and in its left half."""
    noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(0)).to(value) + 1
    changes = [torch.zeros_like(noise), noise, noise.clone(), noise.clone()]
    changes[2][:, :, value.shape[2] // 2 :] = 0
    changes[3][..., value.shape[3] // 2 :] = 0
    return torch.cat([value + change for change in changes])


def _described(tokens: Tensor, grids: Sequence[PatchGrid], proportions: float) -> _Tokens | None:
    """What the tokens of the image and its three variants tell; see `_look`."""
    same = 8 * torch.finfo(tokens.dtype).eps * tokens.abs().max()
    whole, upper, left = ((tokens[1:] - tokens[:1]).abs() > same).any(2)
    changed = whole.nonzero().flatten().tolist()
    if not changed or changed != list(range(changed[0], changed[0] + len(changed))):
        return None
    count = len(changed)
    upper, left = upper[changed], left[changed]
    known = [half for grid in grids for half in _halved(grid) if math.prod(half) == count]
    if not known and not upper.all() and not left.all():
        height = round(math.sqrt(count * proportions))
        known = [(height, count // height)] if height and count % height == 0 else []
    fitting = (g for g in known if _above(upper.view(g)) and _above(left.view(g).T))
    return _Tokens(changed[0], count, next(fitting, None))


def _above(changed: Tensor) -> bool:
    """Whether the tokens that depend on the upper half of an image are the first rows of a grid.

    It is so, too, if all of them do.
    """
    rows = changed[:, 0]
    return bool((changed == rows[:, None]).all() and (rows[:-1] >= rows[1:]).all())
