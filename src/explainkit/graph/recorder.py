"""Records torch's dispatcher calls of a part of a model, and what in-place operators overwrite."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(eq=False)
class OperatorCall:
    """One call of an operator of torch's dispatcher.

    Attributes:
        operator: The overload, such as ``aten.relu.default``.
        arguments: Positional arguments, including tensors.
        options: Keyword arguments.
        result: The result.
    """

    operator: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    result: Any


def is_write(operator: Any) -> bool:
    """Whether an overload of torch's dispatcher changes one of its arguments."""
    return isinstance(operator, torch._ops.OpOverload) and operator._schema.is_mutable


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operator calls, and copies tensors before they are overwritten.

    Attributes:
        calls: Calls of the running node.
        overwritten: For each tensor that this node overwrote: the tensor, its previous value, and
            whether the node had created it itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[OperatorCall] = []
        self.overwritten: list[tuple[Tensor, Tensor, bool]] = []
        self._makers: dict[int, list[OperatorCall]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import torch's compiler, which takes seconds

    def begin(self) -> None:
        """Starts recording a new node."""
        self.calls, self.overwritten = [], []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given, options = args, kwargs
        if is_write(func):
            written = [a.name for a in func._schema.arguments if a.is_write]
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
            before = {
                id(tensor): (tensor, self._copied(tensor))
                for name, tensor in (named | kwargs).items()
                if name in written and isinstance(tensor, Tensor)
            }

            def as_was(value: Any) -> Any:
                return before[id(value)][1] if id(value) in before else value

            given = tuple(map(as_was, args))
            options = {name: as_was(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        call = OperatorCall(func, given, options, result)
        self.calls.append(call)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._makers.setdefault(id(tensor), []).append(call)
        return result

    def _copied(self, tensor: Tensor) -> Tensor:
        before = tensor.detach().clone()
        makers = self._makers.pop(id(tensor), [])
        own = any(maker is call for maker in makers for call in self.calls)
        self.overwritten.append((tensor, before, own))
        for maker in makers:
            if isinstance(maker.result, tuple | list):
                maker.result = tuple(before if r is tensor else r for r in maker.result)
            elif maker.result is tensor:
                maker.result = before
        return before
