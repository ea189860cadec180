"""How far a model is run for an objective: to the last layer that it reads, and no further."""

import math
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size
from explainkit.errors import ModelError
from explainkit.expressions import Deferred, Scope
from explainkit.expressions.terms import channel_means
from explainkit.layers import get_layer
from explainkit.scores import as_scores

ChannelStatistics = Mapping[str, tuple[Tensor, Tensor]]
"""Layer path to what `channel_statistics_of` finds."""


class _Reached(BaseException):
    """Every layer asked for has run; no handler inside a model must catch it."""


class Convolution:
    """A convolution and its input: what `Deferred` asks for.

    Args:
        layer: The convolution.
        images: Its input, ``[batch, channel, height, width]``.
    """

    def __init__(self, layer: nn.Conv2d, images: Tensor) -> None:
        self.layer = layer
        self.images = images
        self._output: Tensor | None = None

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer is a convolution and nothing else: no hook, no padding but zeros."""
        return (
            type(layer) is nn.Conv2d
            and layer.padding_mode == "zeros"
            and "forward" not in vars(layer)
            and not any(_hooks(layer))
        )

    @property
    def count(self) -> int:
        """How many channels it has."""
        return self.layer.out_channels

    def whole(self) -> Tensor:
        """Its output ``[batch, channel, height, width]``."""
        if self._output is None:
            self._output = self.layer(self.images)
        return self._output

    def channels(self, indices: Tensor) -> Tensor:
        """Channel ``indices[i]`` of image i, ``[batch, height, width]``.

        The input channels of all images are convolved in one call, each with its own kernel, and
        summed: of ``K`` output channels one ``K``-th of the work.
        """
        layer, batch = self.layer, len(self.images)
        rows = torch.arange(batch, device=indices.device)
        of_group = layer.out_channels // layer.groups
        grouped = self.images.reshape(batch, layer.groups, -1, *self.images.shape[2:])
        read = grouped[rows, indices // of_group]
        kernels = layer.weight[indices].flatten(0, 1)[:, None]
        maps = F.conv2d(
            read.flatten(0, 1)[None], kernels, None, layer.stride, layer.padding, layer.dilation,
            groups=len(kernels),
        )  # fmt: skip
        found = maps.reshape(batch, -1, *maps.shape[2:]).sum(1)
        return found if layer.bias is None else found + layer.bias[indices][:, None, None]


def _hooks(layer: nn.Module) -> Iterator[Mapping[int, Any]]:
    yield layer._forward_hooks
    yield layer._forward_pre_hooks
    yield layer._backward_hooks
    yield layer._backward_pre_hooks


class ActivationReader(nn.Module):
    """A model, run only as far as an objective needs.

    Args:
        module: The caller's model, frozen.
        layers: The inner layers to read.
        logits: Whether the final scores are needed too: then the whole model runs.
        window: Rows and columns of an image, from the upper left, that the model is shown; None:
            all.
        layout: How the images that the model is shown lie in memory.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str],
        *,
        logits: bool,
        window: tuple[int, int] | None = None,
        layout: torch.memory_format = torch.preserve_format,
    ) -> None:
        super().__init__()
        self.module = module
        self.layers = tuple(layers)
        self.logits = logits
        self.window = window
        self.layout = layout

    def forward(self, images: Tensor) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """Logits ``[batch, classes]`` or None, and each layer's output, first call only.

        Raises:
            ModelError: A layer doesn't run, or puts out something that is not a tensor.
        """
        return self._read(images, sparing=False)

    def probe(self, images: Tensor) -> tuple[int | None, dict[str, int]]:
        """How many classes and how many channels per layer there are.

        The whole model runs, where the images' size lets it, so that a layer that runs twice is
        found.

        Raises:
            ModelError: The model fails before the layers, or a layer runs more than once.
        """
        calls: list[str] = []
        with ExitStack() as hooks, torch.no_grad():
            for layer in self.layers:
                hook = get_layer(self.module, layer).register_forward_hook(
                    lambda *_, layer=layer: calls.append(layer)
                )
                hooks.callback(hook.remove)
            classes = None
            try:
                classes = self._scores(images).shape[1]
            except Exception:
                if self.logits or set(calls) != set(self.layers):
                    raise
        twice = [layer for layer in self.layers if calls.count(layer) > 1]
        if twice:
            raise ModelError(
                f"layer {twice[0]!r} runs {calls.count(twice[0])} times in one pass: name a layer "
                "that runs once"
            )
        with torch.no_grad():
            _, found = self(images)
        return classes, {
            layer: output.shape[-1] if output.dim() == 3 else output.shape[min(1, output.dim() - 1)]
            for layer, output in found.items()
        }

    def narrowed(self, image: Tensor) -> "ActivationReader":
        """The same without the last rows and columns, where nothing that is read depends on them.

        A pooling drops the last row of an odd map; all that went into it was computed for nothing.
        A cut counts only if what is read stays as it was: a model may look at the size of a
        image, or take but one.

        Args:
            image: A finite image ``[channel, height, width]``; random, so that outputs tell.
        """
        if self._keeps_what_it_sees():
            return self
        with torch.no_grad():
            try:
                window = self._seen(image, 1), self._seen(image, 2)
                if window == tuple(image.shape[1:]):
                    return self
                found = self._with(window=window)
                return found if _alike(self(image[None]), found(image[None])) else self
            except Exception:  # noqa: BLE001 - whatever a model says to an image that is not one
                return self

    def in_channels_last(self, images: Tensor) -> "ActivationReader":
        """The same with the channels of a pixel side by side in memory, where that is faster.

        That is in single precision on a CPU: a convolution hands the layout on to the next. A
        model that takes its maps for vectors as they lie refuses, or puts out something else;
        both are tried out, there and back.

        Args:
            images: A few random images ``[batch, channel, height, width]``, so that outputs tell.
        """
        fast = images.device.type == "cpu" and images.dtype == torch.float32
        if not fast or self._keeps_what_it_sees():
            return self
        found = self._with(layout=torch.channels_last)
        try:
            read, slope = self._there_and_back(images)
            again, other = found._there_and_back(images)
        except Exception:  # noqa: BLE001 - whatever a model says to a layout that it can't take
            return self
        # a rectifier at zero may fall to the other side
        same = _alike(read, again) and (slope - other).norm() <= 0.01 * slope.norm()
        return found if same else self

    def _with(self, **changed: Any) -> "ActivationReader":
        kept = {"logits": self.logits, "window": self.window, "layout": self.layout}
        return ActivationReader(self.module, self.layers, **(kept | changed))

    def _keeps_what_it_sees(self) -> bool:
        """Whether running statistics, as of a model in train mode, would tell of a trial."""
        return any(part.training for part in self.module.modules())

    def _there_and_back(self, images: Tensor) -> tuple[Any, Tensor]:
        """What is read of images, and the gradient of its sum of squares."""
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            read = self(leaf)
            total = torch.stack([output.square().sum() for output in _outputs(read)]).sum()
        (slope,) = torch.autograd.grad(total, leaf)
        return read, slope

    def _seen(self, image: Tensor, axis: int) -> int:
        """How many rows (axis 1) or columns (2) there are up to the last that reaches the outputs.

        Not-a-number spreads to all that is computed from it, through rectifiers too.
        """

        def unseen_from(line: int) -> bool:
            marked = image[None].clone()
            marked.narrow(axis + 1, line, lines - line).fill_(math.nan)
            return not any(bool(output.isnan().any()) for output in _outputs(self(marked)))

        lines = image.shape[axis]
        if not unseen_from(lines - 1):
            return lines
        return bisect(range(lines), False, key=unseen_from) or lines

    def _read(self, images: Tensor, *, sparing: bool) -> tuple[Tensor | None, dict[str, Any]]:
        with self._captured(len(images), sparing=sparing) as found:
            try:
                logits = self._scores(images)
            except _Reached:
                return None, found
        missing = [layer for layer in self.layers if layer not in found]
        if missing:
            raise ModelError(f"expected layer {missing[0]!r} to run, but the model doesn't call it")
        return (logits if self.logits else None), found

    def _scores(self, images: Tensor) -> Tensor:
        if self.window is not None:
            rows, columns = self.window
            images = images[..., :rows, :columns]
        # a model may write into its input
        return as_scores(self.module(images.clone(memory_format=self.layout)), len(images))

    @contextmanager
    def _captured(self, batch: int, *, sparing: bool) -> Iterator[dict[str, Tensor | Deferred]]:
        found: dict[str, Tensor | Deferred] = {}

        def is_last() -> bool:
            return len(found) + 1 == len(self.layers) and not self.logits

        def sparer(layer: str) -> Any:
            def spare(module: nn.Conv2d, inputs: tuple[Tensor]) -> None:
                images, *_ = inputs
                # what happens under autocast ends with the model's own call
                plain = not torch.is_autocast_enabled(images.device.type)
                if plain and is_last() and images.dim() == 4 and len(images) == batch:
                    found[layer] = Convolution(module, images)
                    raise _Reached

            return spare

        def keeper(layer: str) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if not isinstance(output, Tensor):
                    raise ModelError(
                        f"expected a tensor from layer {layer!r}, got {type(output).__name__}; "
                        "name a layer inside it"
                    )
                last = is_last()
                # a later layer may write in place into what this one put out
                found.setdefault(layer, output if last else output.clone())
                if last:
                    raise _Reached

            return keep

        with ExitStack() as hooks:
            for layer in self.layers:
                module = get_layer(self.module, layer)
                if sparing and Convolution.fits(module):
                    hooks.callback(module.register_forward_pre_hook(sparer(layer)).remove)
                hooks.callback(module.register_forward_hook(keeper(layer)).remove)
            yield found

    def scope(
        self,
        shown: Tensor,
        images: Tensor,
        class_names: Sequence[str],
        reference: Mapping[str, Tensor] | None,
        opacity: Tensor | None = None,
        channel_statistics: ChannelStatistics | None = None,
        *,
        sparing: bool = False,
    ) -> Scope:
        """Runs the model on ``shown`` and gives what an expression reads.

        With ``sparing`` a convolution that is the last to run is left to the expression, which may
        need one channel of it.
        """
        logits, activations = self._read(shown, sparing=sparing)
        return Scope(
            logits, activations, images, class_names, reference, opacity, channel_statistics
        )


def _outputs(read: tuple[Tensor | None, Mapping[str, Tensor]]) -> list[Tensor]:
    logits, activations = read
    return [*activations.values(), *([] if logits is None else [logits])]


def _alike(one: Any, other: Any) -> bool:
    """Whether two readings are the same up to the rounding of another size's arithmetic."""
    pairs = zip(_outputs(one), _outputs(other), strict=True)
    return all(a.shape == b.shape and _near(a, b) for a, b in pairs)


def _near(one: Tensor, other: Tensor) -> bool:
    rounding = 100 * torch.finfo(one.dtype).eps * one.abs().max()
    return bool((one - other).abs().max() <= rounding)


def channel_statistics_of(
    module: nn.Module, layers: Sequence[str], images: Tensor
) -> ChannelStatistics:
    """Mean and standard deviation of each channel's mean over space, over a data set.

    Args:
        module: The caller's model, frozen.
        layers: The inner layers to read.
        images: ``[n, channel, height, width]``, where the model is.

    Returns:
        Layer path to ``[channel]`` and ``[channel]``.
    """
    if not layers:
        return {}
    reading = ActivationReader(module, layers, logits=False)
    tables: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for part in torch.split(images, chunk_size(reading, images[0])):
            for layer, output in reading(part)[1].items():
                tables[layer].append(channel_means(output))
    whole = {layer: torch.cat(parts) for layer, parts in tables.items()}
    return {layer: (table.mean(0), table.std(0, correction=0)) for layer, table in whole.items()}
