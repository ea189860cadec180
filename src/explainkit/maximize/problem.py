"""What a maximiser is asked, what it answers, and how far the model is run for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from explainkit.errors import ModelError
from explainkit.expressions import Scope
from explainkit.layers import get_layer
from explainkit.outputs import as_scores

MOST = 4096
"""Pictures that a data set's statistics are measured on."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What pictures of a data set have in common, in model-input space.

    Attributes:
        magnitude: Mean amplitude of each frequency, ``[channel, height, width // 2 + 1]``, of the
            orthonormal real Fourier transform; of three colours, after ``colour`` is undone.
        colour: ``[channel, channel]``: for three channels the square root of their covariance,
            scaled so that its longest column has length 1; otherwise the identity.
    """

    magnitude: Tensor
    colour: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Statistics":
        """Measures pictures ``[n, channel, height, width]``, at most `MOST` evenly spaced ones."""
        images = images[:: -(-len(images) // MOST)].float()
        colour = torch.eye(images.shape[1])
        if images.shape[1] == 3:
            flat = images.movedim(1, 0).flatten(1).double()
            values, vectors = torch.linalg.eigh(torch.cov(flat))
            root = vectors @ torch.diag(values.clamp_min(1e-12).sqrt()) @ vectors.T
            colour = (root / root.norm(dim=0).max()).float()
        return cls(_amplitude(images, colour), colour)


def _amplitude(images: Tensor, colour: Tensor) -> Tensor:
    plain = torch.einsum("ij,njyx->niyx", torch.linalg.inv(colour), images)
    amplitude: Tensor = torch.fft.rfft2(plain, norm="ortho").abs().mean(0)
    return amplitude


@dataclass(frozen=True, eq=False)
class Problem:
    """Pictures to find, one per unit, all of one size.

    Attributes:
        score: ``score(shown, pictures, opacity)`` gives ``[unit]``: what each unit says of
            ``shown`` ``[unit, channel, height, width]``, with penalties on ``pictures``, from which
            they were made, and on their ``opacity`` ``[unit, 1, height, width]``, which may be left
            out. Differentiable in all.
        shape: Channel, height, width.
        generators: One per unit, on the CPU: the only source of random numbers.
        start: A picture ``[channel, height, width]`` to start from, or None.
        flat: A flat picture per unit to start from, ``[unit, channel, 1, 1]``, where the first try
            ended below it or nowhere; gradients then also pass rectifiers that are off. Or None.
        transparent: Whether to find an opacity, too: an objective reads `alpha`.
        low: Smallest valid value per channel ``[channel, 1, 1]``; None where it isn't known.
        high: Largest valid value per channel.
        statistics: Of a data set, if one was given.
        keep: Steps after which the pictures are kept as frames.
        progress: Is called after each step.
        dtype: Of the pictures.
        device: Of the pictures.
    """

    score: Callable[..., Tensor]
    shape: tuple[int, int, int]
    generators: Sequence[torch.Generator]
    start: Tensor | None = None
    flat: Tensor | None = None
    transparent: bool = False
    low: Tensor | None = None
    high: Tensor | None = None
    statistics: Statistics | None = None
    keep: frozenset[int] = frozenset()
    progress: Callable[[], None] = lambda: None
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers ``[unit, *shape]``, each unit's from its own generator.

        Drawn on the CPU in float32, so that every device and dtype sees the same.
        """
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), ``[unit, *shape]``, drawn like `normal`."""
        rows = [torch.rand(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)


@dataclass(frozen=True, eq=False)
class Ascent:
    """What a maximiser found.

    Attributes:
        images: ``[unit, channel, height, width]``.
        trace: The score at each step, ``[step, unit]``, as the maximiser saw it.
        moved: Whether each unit answered to a change of its picture and was not lost again,
            ``[unit]``.
        frames: Pictures on the way, ``[frame, unit, channel, height, width]``.
        opacity: ``[unit, 1, height, width]`` where the problem is transparent: pictures and frames
            then lie on a flat ground.
    """

    images: Tensor
    trace: Tensor
    moved: Tensor
    frames: Tensor
    opacity: Tensor | None = None


@runtime_checkable
class Maximizer(Protocol):
    """A way to maximise: a frozen dataclass whose fields are its hyper-parameters.

    A field named ``steps`` is what ``maximize(steps=…)`` sets.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, problem: Problem) -> Ascent:
        """Finds one picture per unit."""
        ...


class _Reached(BaseException):
    """Every layer asked for has run; no handler inside a model must catch it."""


class Reading(nn.Module):
    """A model, run only as far as an objective needs.

    Args:
        module: The caller's model, frozen.
        layers: The inner layers to read.
        logits: Whether the final scores are needed too: then the whole model runs.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str], *, logits: bool) -> None:
        super().__init__()
        self.module = module
        self.layers = tuple(layers)
        self.logits = logits

    def forward(self, images: Tensor) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """Logits ``[batch, classes]`` or None, and each layer's output, first call only.

        Raises:
            ModelError: A layer doesn't run, or puts out something that is not a tensor.
        """
        with self._captured() as found:
            try:
                logits = self._scores(images)
            except _Reached:
                return None, found
        missing = [layer for layer in self.layers if layer not in found]
        if missing:
            raise ModelError(f"expected layer {missing[0]!r} to run, but the model doesn't call it")
        return (logits if self.logits else None), found

    def probe(self, images: Tensor) -> tuple[int | None, dict[str, int]]:
        """How many classes and how many channels per layer there are.

        The whole model runs, where the pictures' size lets it, so that a layer that runs twice is
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

    def _scores(self, images: Tensor) -> Tensor:
        # a model may write into its input
        return as_scores(self.module(images.clone()), len(images))

    @contextmanager
    def _captured(self) -> Iterator[dict[str, Tensor]]:
        found: dict[str, Tensor] = {}

        def keeper(layer: str) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if not isinstance(output, Tensor):
                    raise ModelError(
                        f"expected a tensor from layer {layer!r}, got {type(output).__name__}; "
                        "name a layer inside it"
                    )
                last = len(found) + 1 == len(self.layers) and not self.logits
                # a later layer may write in place into what this one put out
                found.setdefault(layer, output if last else output.clone())
                if last:
                    raise _Reached

            return keep

        with ExitStack() as hooks:
            for layer in self.layers:
                hook = get_layer(self.module, layer).register_forward_hook(keeper(layer))
                hooks.callback(hook.remove)
            yield found

    def scope(
        self,
        shown: Tensor,
        pictures: Tensor,
        class_names: Sequence[str],
        reference: Mapping[str, Tensor] | None,
        opacity: Tensor | None = None,
    ) -> Scope:
        """Runs the model on ``shown`` and gives what an expression reads."""
        logits, activations = self(shown)
        return Scope(logits, activations, pictures, class_names, reference, opacity)
