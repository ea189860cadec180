"""Running a model for an objective: only up to the last layer that the objective uses."""

import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size
from explainkit.engine.texts import embeddings_of
from explainkit.errors import ModelError
from explainkit.expressions import Deferred, Expression, Scope
from explainkit.expressions.terms import channel_means
from explainkit.graph.cached import HOOKS
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import get_layer
from explainkit.scores import VALUES, Outputs

ChannelStatistics = Mapping[str, tuple[Tensor, Tensor]]
"""Layer path to mean and standard deviation per channel; see `channel_statistics_of`."""


class _AllLayersRan(BaseException):
    """Raised once all requested layers have run; a BaseException, so that no model catches it."""


class Convolution:
    """A convolution that has not run yet, and its input; implements `Deferred`."""

    def __init__(self, layer: nn.Conv2d, images: Tensor) -> None:
        self.layer = layer
        self.images = images
        self._output: Tensor | None = None

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer is a plain convolution: zero padding, no hooks, no patched forward."""
        return (
            type(layer) is nn.Conv2d
            and layer.padding_mode == "zeros"
            and "forward" not in vars(layer)
            and not any(getattr(layer, name) for name in HOOKS)
        )

    @property
    def count(self) -> int:
        """Number of output channels."""
        return self.layer.out_channels

    def whole(self) -> Tensor:
        """The full output ``[batch, channel, height, width]``."""
        if self._output is None:
            self._output = self.layer(self.images)
        return self._output

    def channels(self, indices: Tensor) -> Tensor:
        """Channel ``indices[i]`` of image i, ``[batch, height, width]``.

        One grouped convolution applies each image's kernel to its input channels; their sum is the
        channel. With ``K`` output channels this takes ``1 / K`` of the full layer's operations.
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


class ActivationReader(nn.Module):
    """A model that runs only as far as an objective needs.

    Args:
        module: The caller's model, frozen.
        layers: The inner layers whose outputs are needed.
        logits: Whether the logits are needed too; then the whole model runs.
        window: Height and width to which images are cropped at the bottom and the right, or None.
        outputs: What the model's outputs mean.
        output: Whether all that the model returns is needed; then the whole model runs, too.
        embeddings: Embeddings of texts, for expressions that need them.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str],
        *,
        logits: bool,
        window: tuple[int, int] | None = None,
        outputs: Outputs = VALUES,
        output: bool = False,
        embeddings: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.layers = tuple(layers)
        self.logits = logits
        self.output = output
        self.embeddings = embeddings or {}
        self.window = window
        self.outputs = outputs

    @classmethod
    def of(
        cls, expressions: Sequence[Expression], module: nn.Module, outputs: Outputs
    ) -> "ActivationReader":
        """A reader of everything that expressions use."""
        return cls(
            module,
            sorted({layer for one in expressions for layer in one.layers}),
            logits=any(one.uses_logits for one in expressions),
            outputs=outputs,
            output=any(one.uses_output for one in expressions),
            embeddings=embeddings_of({t for one in expressions for t in one.texts}, module),
        )

    def forward(self, images: Tensor) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """Logits ``[batch, classes]`` or None, and each layer's output in its first call."""
        logits, found, _ = self._read(images, defer=False)
        return logits, found

    def probe(self, images: Tensor) -> tuple[int | None, dict[str, int]]:
        """The number of classes, or None if unknown, and the number of channels of each layer.

        The whole model runs if it accepts the size of the images, to detect a layer that runs
        more than once.
        """
        calls: list[str] = []
        with ExitStack() as hooks, torch.no_grad():
            for layer in self.layers:
                module = get_layer(self.module, LayerTensor.of(layer).layer)
                hook = module.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
                hooks.callback(hook.remove)
            classes = None
            try:
                classes = self._scores(self._run(images), len(images)).shape[1]
            except Exception:
                if self.logits or set(calls) != set(self.layers):
                    raise
        twice = [layer for layer in self.layers if calls.count(layer) > 1]
        if twice:
            raise ModelError(
                f"layer {twice[0]!r} runs {calls.count(twice[0])} times in one forward pass: name "
                "a layer that runs once"
            )
        with torch.no_grad():
            _, found = self(images)
        return classes, {
            layer: output.shape[-1] if output.dim() == 3 else output.shape[min(1, output.dim() - 1)]
            for layer, output in found.items()
        }

    def narrowed(self, image: Tensor) -> "ActivationReader":
        """The same on images without the last rows and columns that don't affect the outputs.

        Pooling drops the last row of a map of odd size; computing it is wasted. The crop is used
        only if the outputs for ``image`` stay the same: a model may depend on the size of its
        input, or accept only one. A model in train mode is not probed: batch normalization would
        count the probes. Neither is one of which all outputs are needed.
        """
        if self.output or any(part.training for part in self.module.modules()):
            return self
        with torch.no_grad():
            try:
                window = self._used_lines(image, 1), self._used_lines(image, 2)
                if window == tuple(image.shape[1:]):
                    return self
                found = ActivationReader(
                    self.module, self.layers, logits=self.logits, window=window,
                    outputs=self.outputs,
                )  # fmt: skip
                return found if _equal_outputs(self(image[None]), found(image[None])) else self
            except Exception:  # noqa: BLE001 - a model may fail in any way on NaN or another size
                return self

    def _used_lines(self, image: Tensor, axis: int) -> int:
        """The number of rows (axis 1) or columns (2) up to the last that affects the outputs.

        NaN propagates to every value computed from it, also through ReLUs.
        """

        def unused_from(line: int) -> bool:
            marked = image[None].clone()
            marked.narrow(axis + 1, line, lines - line).fill_(math.nan)
            return not any(bool(output.isnan().any()) for output in _outputs(self(marked)))

        lines = image.shape[axis]
        if not unused_from(lines - 1):
            return lines
        return bisect(range(lines), False, key=unused_from) or lines

    def _read(self, images: Tensor, *, defer: bool) -> tuple[Tensor | None, dict[str, Any], Any]:
        with self._captured(len(images), defer=defer) as found:
            try:
                output = self._run(images)
            except _AllLayersRan:
                return None, found, None
        missing = [layer for layer in self.layers if layer not in found]
        if missing:
            raise ModelError(f"expected layer {missing[0]!r} to run, but the model doesn't call it")
        logits = self._scores(output, len(images)) if self.logits else None
        return logits, found, output

    def _run(self, images: Tensor) -> Any:
        if self.window is not None:
            rows, columns = self.window
            images = images[..., :rows, :columns]
        return self.module(images.clone())  # a model may modify its input in place

    def _scores(self, output: Any, batch: int) -> Tensor:
        return self.outputs.scores(self.outputs.logits(output, batch))

    @contextmanager
    def _captured(self, batch: int, *, defer: bool) -> Iterator[dict[str, Tensor | Deferred]]:
        found: dict[str, Tensor | Deferred] = {}

        def is_last() -> bool:
            return len(found) + 1 == len(self.layers) and not (self.logits or self.output)

        def deferrer(layer: str) -> Any:
            def defer_convolution(module: nn.Conv2d, inputs: tuple[Tensor]) -> None:
                images, *_ = inputs
                # an autocast inside the model ends with the model's own call
                plain = not torch.is_autocast_enabled(images.device.type)
                if plain and is_last() and images.dim() == 4 and len(images) == batch:
                    found[layer] = Convolution(module, images)
                    raise _AllLayersRan

            return defer_convolution

        def recorder(layer: str) -> Callable[[Tensor], Tensor]:
            def record(output: Tensor) -> Tensor:
                last = is_last()
                # a later layer may modify this output in place
                found.setdefault(layer, output if last else output.clone())
                if last:
                    raise _AllLayersRan
                return output

            return record

        with ExitStack() as hooks:
            for layer in self.layers:
                one = LayerTensor.of(layer)
                module = get_layer(self.module, one.layer)
                if defer and Convolution.fits(module) and not one.is_chosen:
                    hooks.callback(module.register_forward_pre_hook(deferrer(layer)).remove)
                hooks.callback(one.hook(module, recorder(layer), batch).remove)
            yield found

    def scope(
        self,
        shown: Tensor,
        images: Tensor,
        reference: Mapping[str, Tensor] | None,
        opacity: Tensor | None = None,
        channel_statistics: ChannelStatistics | None = None,
        *,
        defer: bool = False,
    ) -> Scope:
        """Runs the model on ``shown`` and returns the values that an expression can use.

        With ``defer``, a convolution that is the last layer to run is left to the expression,
        which may need only one of its channels.
        """
        logits, activations, output = self._read(shown, defer=defer)
        return Scope(
            logits, activations, images, self.outputs.class_names, reference, opacity,
            channel_statistics, output, self.embeddings,
        )  # fmt: skip


def _outputs(read: tuple[Tensor | None, Mapping[str, Tensor]]) -> list[Tensor]:
    logits, activations = read
    return [*activations.values(), *([] if logits is None else [logits])]


def _equal_outputs(one: Any, other: Any) -> bool:
    """Whether two outputs of `ActivationReader` are equal up to rounding."""
    for a, b in zip(_outputs(one), _outputs(other), strict=True):
        rounding = 100 * torch.finfo(a.dtype).eps * a.abs().max()
        if a.shape != b.shape or (a - b).abs().max() > rounding:
            return False
    return True


def channel_statistics_of(
    module: nn.Module, layers: Sequence[str], images: Tensor
) -> ChannelStatistics:
    """Mean and standard deviation over a data set of each channel's spatial mean."""
    if not layers:
        return {}
    reader = ActivationReader(module, layers, logits=False)
    tables: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for part in torch.split(images, chunk_size(reader, images[0])):
            for layer, output in reader(part)[1].items():
                tables[layer].append(channel_means(output))
    whole = {layer: torch.cat(parts) for layer, parts in tables.items()}
    return {layer: (table.mean(0), table.std(0, correction=0)) for layer, table in whole.items()}
