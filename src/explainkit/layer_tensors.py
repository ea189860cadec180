"""Tensors that enter and leave a layer, by names such as ``blocks.3`` and ``blocks.3:output.1``."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from explainkit.errors import ModelError, ModelLookupError

Keys = tuple[Any, ...]
"""Indices and keys that lead to a tensor in a structure of tuples, lists and dicts."""


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer returns, or that it is called with.

    Its text is the layer's dotted path, then ``:input`` for what the layer is called with, and the
    name of the tensor among several: ``blocks.3``, ``blocks.3:input``, ``blocks.3:output.1``,
    ``encoder:output.hidden``, ``attention:input.mask``, ``block:output.1.0``. Outputs are named by
    their index or key, inputs by their position or, where they are passed by name, by that.

    Without a name, it is the only tensor there is, or the first of a tuple, or of the arguments, if
    that has a row for each image: the hidden state, for blocks that also return attention.

    Attributes:
        layer: Dotted path of the layer.
        side: Whether the layer returns it or is called with it.
        part: Its name among several; "" if there is no choice.
    """

    layer: str
    side: Literal["output", "input"] = "output"
    part: str = ""

    @classmethod
    def of(cls, text: str) -> "LayerTensor":
        """The tensor of a text.

        Raises:
            ModelLookupError: What follows the layer's path is neither input nor output.

        Examples:
            >>> LayerTensor.of("blocks.3:output.1")
            LayerTensor(layer='blocks.3', side='output', part='1')
            >>> str(LayerTensor.of("blocks.3:input")), str(LayerTensor.of("blocks.3:output"))
            ('blocks.3:input', 'blocks.3')
        """
        layer, _, rest = text.partition(":")
        side, _, part = rest.partition(".")
        if side == "input":
            return cls(layer, "input", part)
        if side == "output" or layer == text:
            return cls(layer, "output", part)
        raise ModelLookupError(
            f"expected a layer, or one followed by :input or :output, such as '{layer}:input' or "
            f"'{layer}:output.1', got {text!r}"
        )

    def __str__(self) -> str:
        if not self.part and self.side == "output":
            return self.layer
        return f"{self.layer}:{self.side}" + (f".{self.part}" if self.part else "")

    @property
    def is_chosen(self) -> bool:
        """Whether it is another tensor than what a path alone stands for."""
        return bool(self.part) or self.side == "input"

    def hook(
        self, module: nn.Module, change: Callable[[Tensor], Tensor], count: int | None = None
    ) -> RemovableHandle:
        """Calls a function with the tensor in each call of the layer; its result takes its place.

        Args:
            module: The layer.
            change: The function; a `ModelError` that the tensor is not there ends the forward.
            count: As in `exchanged`.

        Returns:
            The hook, which the caller removes.
        """

        def leave(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            return self.exchanged(output, change, count)

        def enter(_module: nn.Module, arguments: Any, options: Any) -> Any:
            return self.exchanged_inputs(arguments, options, change, count)

        if self.side == "output":
            return module.register_forward_hook(leave)
        return module.register_forward_pre_hook(enter, with_kwargs=True)

    def exchanged_inputs(
        self,
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        change: Callable[[Any], Any],
        count: int | None = None,
        kind: type = Tensor,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a layer with the tensor exchanged; see `exchanged`."""
        given = self.exchanged({**dict(enumerate(arguments)), **options}, change, count, kind)
        return tuple(given.pop(i) for i in range(len(arguments))), given

    def exchanged(
        self,
        value: Any,
        change: Callable[[Any], Any],
        count: int | None = None,
        kind: type = Tensor,
    ) -> Any:
        """What a layer returns, with the tensor exchanged; nothing is changed in place.

        Args:
            value: What the layer returns, or its arguments by position and name.
            change: Gives the new tensor from the old one.
            count: The number of images; None: what is first is not checked.
            kind: The type of tensors.

        Raises:
            ModelLookupError: There is no such tensor.
            ModelError: There are several tensors and none is named.
        """
        keys, tensor = self._found(value, count, kind)
        return _put(value, keys, change(tensor))

    def _found(self, value: Any, count: int | None, kind: type) -> tuple[Keys, Any]:
        parts = dict(_parts(value, kind))
        if self.part in parts:
            return parts[self.part]
        first = parts.get("0") if isinstance(value, tuple) or self.side == "input" else None
        if not self.part and len(parts) == 1:
            return next(iter(parts.values()))
        if not self.part and first is not None and (count is None or _rows(first[1]) == count):
            return first
        raise self._missing(value, {name: tensor for name, (_, tensor) in parts.items()}, count)

    def _missing(self, value: Any, parts: Mapping[str, Any], count: int | None) -> ModelError:
        verb = "from" if self.side == "output" else "given to"
        if not parts:
            return ModelError(
                f"expected a tensor {verb} layer {self.layer!r}, got {type(value).__name__}; "
                "name a layer inside it"
            )
        named = ", ".join(
            f"'{LayerTensor(self.layer, self.side, name)}' {list(getattr(tensor, 'shape', ()))}"
            for name, tensor in parts.items()
        )
        if self.part:
            return ModelLookupError(
                f"expected one of the tensors {verb} layer {self.layer!r}: {named}; got '{self}'"
            )
        rows = "" if count is None else " with a row for each image"
        return ModelError(
            f"expected one tensor {verb} layer {self.layer!r}{rows}, got several: name one of "
            f"{named}"
        )


def _parts(value: Any, kind: type, keys: Keys = ()) -> list[tuple[str, tuple[Keys, Any]]]:
    """The tensors in a value by name, with what leads to them."""
    if isinstance(value, kind):
        return [(".".join(map(str, keys)), (keys, value))]
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    return [found for key, one in items for found in _parts(one, kind, (*keys, key))]


def _put(value: Any, keys: Keys, new: Any) -> Any:
    """A copy of a value with another tensor in one place."""
    if not keys:
        return new
    key, *rest = keys
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        changed[key] = _put(value[key], tuple(rest), new)
        return changed
    items = list(value)
    items[key] = _put(items[key], tuple(rest), new)
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _rows(tensor: Any) -> int | None:
    """The length of a tensor's first axis; None if it has none."""
    shape = getattr(tensor, "shape", ())
    return shape[0] if shape else None
