"""The inputs of a model that has several: which are explained, and which are held fixed."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.engine.inputs import check_images
from explainkit.errors import InputError

Which = str | int | Sequence[str | int] | None
"""Names or positions of the inputs to explain; None: all images."""


@dataclass(frozen=True, eq=False)
class SeveralInputs:
    """The inputs of a model, by name.

    Attributes:
        explained: Images ``[batch, channel, height, width]`` of one height and width.
        fixed: All other inputs: a tensor has a row for each image, or one for all.
        positional: The inputs that are passed by position, in order; the others go by name.
    """

    explained: Mapping[str, Tensor]
    fixed: Mapping[str, Any]
    positional: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, inputs: object, wrt: Which) -> "SeveralInputs | None":
        """The inputs, if a caller passed several: a dict, or a tuple with tensors.

        Raises:
            InputError: An input that is to be explained is none or is no image, images have
                different sizes, or a tensor has neither a row for each image nor one for all.
        """
        positional: tuple[str, ...] = ()
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        elif isinstance(inputs, tuple) and any(isinstance(one, Tensor) for one in inputs):
            positional = _names(module, len(inputs))
            named = dict(zip(positional, inputs, strict=True))
        elif wrt is None:
            return None
        else:
            raise InputError(
                f"wrt: expected several inputs to choose from, got {type(inputs).__name__}"
            )
        wanted = _chosen(named, wrt)
        images = {
            name: check_images(module, named[name], volumes=True).detach().clone()
            for name in wanted
        }
        sizes = {name: (len(image), *image.shape[2:]) for name, image in images.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {list(images[name].shape)}" for name in wanted)
            raise InputError(
                "expected inputs of one number, height and width to explain together, got "
                f"{listed}: wrt={wanted[0]!r} explains one, with the others held fixed"
            )
        count = len(images[wanted[0]])
        fixed = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in named.items()
            if name not in images
        }
        for name, value in fixed.items():
            if isinstance(value, Tensor) and (not value.dim() or len(value) not in {1, count}):
                raise InputError(
                    f"{name}: expected a row for each image, {count}, or one for all, got "
                    f"{list(value.shape)}"
                )
        return cls(images, fixed, positional)

    def __len__(self) -> int:
        return len(next(iter(self.explained.values())))

    @property
    def whole(self) -> Tensor:
        """All explained inputs as one image."""
        return self.stacked(list(self.explained))

    def stacked(self, names: Sequence[str]) -> Tensor:
        """Some of the explained inputs as one image, ``[batch, channels, height, width]``."""
        return torch.cat([self.explained[name] for name in names], 1)

    def channels(self, names: Sequence[str]) -> dict[str, slice]:
        """Where each of some of the inputs is in their `stacked` channels."""
        ends = list(accumulate((self.explained[name].shape[1] for name in names), initial=0))
        return {name: slice(*ends[i : i + 2]) for i, name in enumerate(names)}

    def value(self, given: Any, names: Sequence[str]) -> Any:
        """A value of a method, such as a baseline, in the form of `stacked`.

        Args:
            given: A dict or tuple with a number or tensor for each explained input; anything else
                is returned.
            names: The inputs.

        Raises:
            InputError: It is a dict that lacks an input, or a value fits no image.
        """
        if isinstance(given, tuple) and len(given) == len(self.explained) > 1:
            given = dict(zip(self.explained, given, strict=True))
        if not isinstance(given, Mapping):
            return given
        if missing := [name for name in names if name not in given]:
            raise InputError(
                f"expected a value for each explained input, got none for {missing[0]!r}"
            )
        parts = [_like(given[name], self.explained[name], name) for name in names]
        rows = max(map(len, parts))
        found = torch.cat([part.expand(rows, *part.shape[1:]) for part in parts], 1)
        return found[0] if rows == 1 else found

    @property
    def alike(self) -> bool:
        """Whether all images have the same fixed inputs, so that they can run together."""
        tensors = [value for value in self.fixed.values() if isinstance(value, Tensor)]
        return all(bool((value == value[:1]).all()) for value in tensors)

    def beside(self, names: Sequence[str]) -> "SeveralInputs":
        """The same inputs, of which only some are explained."""
        others = {name: value for name, value in self.explained.items() if name not in names}
        own = {name: self.explained[name] for name in names}
        return replace(self, explained=own, fixed={**self.fixed, **others})


def _names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of a model's first inputs; their positions where it does not tell."""
    with suppress(TypeError, ValueError):
        found = inspect.signature(module.forward).parameters.values()
        named = [one.name for one in found if one.kind == one.POSITIONAL_OR_KEYWORD]
        if len(named) >= count:
            return tuple(named[:count])
    return tuple(map(str, range(count)))


def _chosen(named: Mapping[str, Any], wrt: Which) -> list[str]:
    """Names of the inputs to explain, in the order of the inputs."""
    if wrt is None:
        found = [
            name
            for name, value in named.items()
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() in {4, 5}
        ]
        if found:
            return found
        raise InputError(
            "expected an image [batch, channel, height, width] among the inputs, got "
            f"{', '.join(named) or 'none'}"
        )
    wanted = [wrt] if isinstance(wrt, str | int) else list(wrt)
    known = list(named)
    chosen = {
        known[one] if isinstance(one, int) and 0 <= one < len(known) else one for one in wanted
    }
    if not chosen or (unknown := [one for one in chosen if one not in named]):
        got = repr(unknown[0]) if chosen else "none"
        raise InputError(f"wrt: expected names among {', '.join(known)}, got {got}")
    return [name for name in known if name in chosen]


def _like(value: Any, images: Tensor, name: str) -> Tensor:
    """A number or tensor as images, ``[batch or 1, channel, height, width]``."""
    tensor = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    shape = images.shape[1:]
    if not tensor.dim() or tensor.shape == shape:
        return tensor.expand(1, *shape)
    if tensor.shape[1:] == shape and len(tensor) in {1, len(images)}:
        return tensor
    raise InputError(
        f"{name}: expected a number or an image {list(shape)}, or one for each image, got "
        f"{list(tensor.shape)}"
    )
