"""What the terms of an expression are computed from, for one batch of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from explainkit.errors import TargetError


class Deferred(Protocol):
    """A layer whose output is computed on demand, since often only one channel is needed."""

    @property
    def count(self) -> int:
        """Its number of channels."""
        ...

    def whole(self) -> Tensor:
        """The whole output ``[batch, channel, height, width]``."""
        ...

    def channels(self, indices: Tensor) -> Tensor:
        """Channel ``indices[i]`` of image i, ``[batch, height, width]``."""
        ...


@dataclass(frozen=True, eq=False)
class Scope:
    """The values that the terms of an expression are computed from, for one batch of images.

    Attributes:
        logits: ``[batch, classes]``.
        activations: Layer path to its output, batch first, or to a `Deferred` output.
        images: The images ``[batch, channel, height, width]``.
        class_names: In the order of the logits.
        reference: Layer path to its output for the image that `caricature` exaggerates.
        opacity: Opacity of each pixel, ``[batch, 1, height, width]``; None: the images are opaque.
        channel_statistics: Layer path to the mean and standard deviation, over a data set, of its
            channels' spatial means, ``[channel]`` each.
        output: What the model returned.
        embeddings: Text to its embedding, ``[features]``.
    """

    logits: Tensor | None
    activations: Mapping[str, "Tensor | Deferred"]
    images: Tensor | None
    class_names: Sequence[str] = ()
    reference: Mapping[str, Tensor] | None = None
    opacity: Tensor | None = None
    channel_statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None
    output: Any = None
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def example(self) -> Tensor:
        """Any tensor of the batch, for its length, dtype and device."""
        for tensor in (self.logits, self.images, *self.activations.values()):
            if isinstance(tensor, Tensor):
                return tensor
        if (tensor := _first_tensor(self.output)) is not None:
            return tensor
        raise TargetError("expected logits, activations or images to evaluate, got none")

    def layer(self, name: str) -> Tensor:
        """A layer's output, batch first."""
        found = self._found(name)
        if not isinstance(found, Tensor):
            found = found.whole()
        batch = len(self.example)
        if found.dim() not in {2, 3, 4, 5} or len(found) != batch:
            raise TargetError(
                f"layer {name!r}: expected an output [{batch}, channel, height, width], "
                f"[{batch}, tokens, features] or [{batch}, features], got {list(found.shape)}"
            )
        return found

    def channels(self, name: str, indices: Sequence[int]) -> Tensor:
        """Channel ``indices[i]`` of image i in a layer: ``[batch, …]``, with its spatial axes."""
        found = self._found(name)
        if isinstance(found, Tensor):
            found = self.layer(name)
            count = found.shape[-1] if has_tokens(found) else found.shape[1]
        else:
            count = found.count
        for index in indices:
            if not 0 <= index < count:
                raise TargetError(
                    f"expected a channel of layer {name!r} from 0 to {count - 1}, got {index}"
                )
        chosen = torch.tensor(indices, device=self.example.device)
        if not isinstance(found, Tensor):
            return found.channels(chosen)
        rows = torch.arange(len(found), device=found.device)
        return found[rows, :, chosen] if has_tokens(found) else found[rows, chosen]

    def _found(self, name: str) -> "Tensor | Deferred":
        if name not in self.activations:
            known = ", ".join(map(repr, self.activations)) or "none"
            raise TargetError(f"expected the output of layer {name!r}, got only: {known}")
        return self.activations[name]


def _first_tensor(output: Any) -> Tensor | None:
    """Any floating-point tensor of what a model returned."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = list(output.values())
    elif hasattr(output, "__dict__"):
        output = list(vars(output).values())
    parts = output if isinstance(output, list | tuple) else []
    return next((one for one in map(_first_tensor, parts) if one is not None), None)


def has_tokens(found: Tensor) -> bool:
    """Whether a layer's output is ``[batch, tokens, features]``, with its channels last."""
    return found.dim() == 3
