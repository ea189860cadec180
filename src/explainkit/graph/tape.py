"""Records every differentiable operator of one forward pass.

Autograd records each operator as a node, in whatever form it was called: ``torch.relu``,
``F.relu``, ``nn.ReLU``, in place, reused, or inside another module. It does not keep what a
propagation rule needs, so a tape records the operator's name, inputs and outputs as well. Records
and nodes are linked by the sequence number that autograd assigns to each node right before its
operator runs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from explainkit.errors import ModelError
from explainkit.isolation import uncompiled

COPY_SLICES = "torch::autograd::CopySlices"
"""The node of an in-place change of a part of a tensor."""

_AS_STRIDED = "AsStridedBackward0"
"""Also the node that autograd creates for a view whose memory has changed."""


class _Value:
    """A tensor as an operator saw it, even after a later in-place change."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(eq=False)
class Record:
    """One operator call.

    Attributes:
        name: Name in torch's dispatcher, without overload and trailing underscore: ``relu``.
        options: Keyword arguments that are not tensors.
        slot: Size, stride and offset of the tensor that an in-place call wrote to, else None.
    """

    name: str
    options: Mapping[str, Any]
    slot: tuple[torch.Size, tuple[int, ...], int] | None = None
    _arguments: tuple[Any, ...] = ()
    _outputs: tuple[_Value, ...] = ()

    def argument(self, index: int, default: Any = None) -> Any:
        """The positional argument at an index; tensors as they were, None if not recorded."""
        if index >= len(self._arguments):
            return default
        return _read(self._arguments[index])

    def others(self, start: int) -> list[Any]:
        """The positional arguments from an index on."""
        return [_read(argument) for argument in self._arguments[start:]]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order, as they were; empty if not recorded."""
        found = []
        for argument in self._arguments:
            values = argument if isinstance(argument, tuple) else (argument,)
            found += [value.tensor for value in values if isinstance(value, _Value)]
        return found

    @property
    def outputs(self) -> list[Tensor]:
        """The results, as they were."""
        return [value.tensor for value in self._outputs]

    @property
    def output(self) -> Tensor:
        """The first result, as it was."""
        return self._outputs[0].tensor


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operators that run while it is active.

    Attributes:
        records: Calls by the sequence number of the autograd node that was created last. The first
            call is the node's own operator (unless autograd made a copy before it); the others are
            auxiliary.

    Args:
        keep: Names of the operators whose inputs and outputs are recorded.
    """

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records: dict[int, list[Record]] = {}
        self._keep = keep
        self._held: dict[int, list[_Value]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import torch's compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs and records one operator."""
        kwargs = kwargs or {}
        number = torch._C._autograd._get_sequence_nr() - 1
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        keep = name in self._keep
        record = Record(name, {k: v for k, v in kwargs.items() if not isinstance(v, Tensor)})
        record._arguments = tuple(self._argument(a, keep) for a in args)
        self.records.setdefault(number, []).append(record)
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            written = args[0]
            self._detach(written)
            offset = int(written.storage_offset())
            record.slot = (written.size(), written.stride(), offset)
        result = func(*args, **kwargs)
        if keep:
            results = result if isinstance(result, tuple | list) else (result,)
            record._outputs = tuple(self._hold(r) for r in results if isinstance(r, Tensor))
        return result

    def _argument(self, argument: Any, keep: bool) -> Any:
        if isinstance(argument, Tensor):
            return self._hold(argument) if keep else None
        if isinstance(argument, list | tuple) and any(isinstance(a, Tensor) for a in argument):
            return tuple(self._argument(a, keep) for a in argument)
        return argument

    def _hold(self, tensor: Tensor) -> _Value:
        value = _Value(tensor.detach())
        self._held.setdefault(tensor.untyped_storage().data_ptr(), []).append(value)
        return value

    def _detach(self, tensor: Tensor) -> None:
        """Copies recorded tensors whose memory is about to change."""
        for value in self._held.pop(tensor.untyped_storage().data_ptr(), []):
            value.tensor = value.tensor.clone()


def _read(argument: Any) -> Any:
    return argument.tensor if isinstance(argument, _Value) else argument


@dataclass(frozen=True, eq=False)
class RecordedForward:
    """A recorded forward pass that can be traversed backwards.

    Attributes:
        inputs: The input images, a leaf that requires grad.
        scores: ``[batch, classes]``, with its graph.
        records: Calls by sequence number.
    """

    inputs: Tensor
    scores: Tensor
    records: Mapping[int, list[Record]]

    def record_of(self, node: Node) -> Record | None:
        """The call behind an autograd node; None for a Python function or a leaf."""
        if issubclass(type(node), torch.autograd.function.BackwardCFunction):
            return None
        if node.name() == COPY_SLICES:  # the change itself was recorded at the previous number
            calls = self.records.get(node._sequence_nr() - 1, [])
            return next((call for call in calls if call.slot is not None), None)
        number = node._sequence_nr()
        own = _plain(node.name().partition("Backward")[0])
        # before the call, autograd may have created nodes for views of changed memory, or copied
        # what the backward pass of an in-place operator needs
        for later in range(1 + len(node.next_functions)):
            calls = self.records.get(number + later, [])
            named = next((call for call in calls if _plain(call.name) == own), None)
            if named is not None or node.name() == _AS_STRIDED:
                return named
            if calls and not later:
                return calls[0]
        return None

    def calls(self, names: frozenset[str]) -> list[Record]:
        """All calls of the named operators, in execution order."""
        return [
            call
            for _, calls in sorted(self.records.items())
            for call in calls
            if call.name in names
        ]


def name_of(node: Node, record: Record | None) -> str:
    """The name of an operator, even of a view that autograd created and that never ran."""
    if record is not None:
        return record.name
    if node.name() == _AS_STRIDED:
        return "as_strided"
    return type(node).__name__.removesuffix("Backward")


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


@contextmanager
def recording(keep: frozenset[str] = frozenset()) -> Iterator[Tape]:
    """Records the operators in the block; compiled models and fused attention run unfused."""
    with uncompiled(), sdpa_kernel(SDPBackend.MATH), Tape(keep) as tape:
        yield tape


def record(model: nn.Module, inputs: Tensor, keep: frozenset[str] = frozenset()) -> RecordedForward:
    """Runs a model that returns ``[batch, classes]`` once and records it.

    Args:
        model: The model as methods receive it.
        inputs: ``[batch, channel, height, width]``. A leaf that requires grad is used itself,
            anything else detached.
        keep: Names of the operators whose inputs and outputs are recorded.

    Raises:
        ModelError: The model is scripted, so its operators can't be recorded.
    """
    refuse_scripted(model)
    if not (inputs.is_leaf and inputs.requires_grad):
        inputs = inputs.detach().requires_grad_()
    with torch.enable_grad(), recording(keep) as tape:
        scores = model(inputs)
    return RecordedForward(inputs, scores, tape.records)


def refuse_scripted(model: nn.Module) -> None:
    """Raises `ModelError` if the model contains a ScriptModule, which hides its operators."""
    hidden = next((m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if hidden is not None:
        raise ModelError(
            "expected a Python module, got a ScriptModule, whose operators can't be recorded: use "
            "the module that was scripted or traced"
        )


def nodes_from(root: Node) -> dict[Node, int]:
    """All nodes reachable from one, users first, with the number of users of each."""
    users: dict[Node, int] = {root: 0}
    stack = [root]
    while stack:
        for below, _ in stack.pop().next_functions:
            if below is not None:
                if below not in users:
                    users[below] = 0
                    stack.append(below)
                users[below] += 1
    waiting = dict(users)
    ready = [root]
    ordered: dict[Node, int] = {}
    while ready:
        node = ready.pop()
        ordered[node] = users[node]
        for below, _ in node.next_functions:
            if below is not None:
                waiting[below] -= 1
                if not waiting[below]:
                    ready.append(below)
    return ordered
