"""What a model really did: every differentiable operator of one forward, as it ran.

Autograd already records each operator as a node, however it was spelled: ``torch.relu``,
``F.relu``, ``nn.ReLU``, in place, reused, or inside somebody's block. What autograd does not keep
is what a rule needs, so a tape keeps the operator's name, inputs and output beside its node. The
two are linked by the number that autograd gives to a node when it makes it, right before the
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
"""The node of a change in place of a part of a tensor."""

_AS_STRIDED = "AsStridedBackward0"
"""Also the node that autograd makes for a view when the memory under it has changed."""


class _Value:
    """A tensor as it was when an operator saw it, also after a later change in place."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass(eq=False)
class Record:
    """One operator call.

    Attributes:
        name: As torch's dispatcher knows it, without overload and trailing underscore: ``relu``.
        options: Keyword arguments that are no tensors.
        slot: Size, stride and offset of what the call wrote to, where it wrote in place.
    """

    name: str
    options: Mapping[str, Any]
    slot: tuple[torch.Size, tuple[int, ...], int] | None = None
    _arguments: tuple[Any, ...] = ()
    _outputs: tuple[_Value, ...] = ()

    def argument(self, place: int, default: Any = None) -> Any:
        """A positional argument; a tensor as it was, None where it was not kept."""
        if place >= len(self._arguments):
            return default
        return _read(self._arguments[place])

    def others(self, start: int) -> list[Any]:
        """The positional arguments from a place on."""
        return [_read(argument) for argument in self._arguments[start:]]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order, as they were; empty where not kept."""
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
        records: By the sequence number of the autograd node that was made last: the first is the
            node's own operator, save for a copy that autograd may take first; the others helped.

    Args:
        keep: Names of the operators whose inputs and outputs are wanted.
    """

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records: dict[int, list[Record]] = {}
        self._keep = keep
        self._held: dict[int, list[_Value]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing compiled runs under a tape, and to skip it torch would import its compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs one operator and notes it."""
        kwargs = kwargs or {}
        number = torch._C._autograd._get_sequence_nr() - 1
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        kept = name in self._keep
        record = Record(name, {k: v for k, v in kwargs.items() if not isinstance(v, Tensor)})
        record._arguments = tuple(self._argument(a, kept) for a in args)
        self.records.setdefault(number, []).append(record)
        if func._schema.is_mutable and args and isinstance(args[0], Tensor):
            written = args[0]
            self._detach(written)
            offset = int(written.storage_offset())
            record.slot = (written.size(), written.stride(), offset)
        result = func(*args, **kwargs)
        if kept:
            results = result if isinstance(result, tuple | list) else (result,)
            record._outputs = tuple(self._hold(r) for r in results if isinstance(r, Tensor))
        return result

    def _argument(self, argument: Any, kept: bool) -> Any:
        if isinstance(argument, Tensor):
            return self._hold(argument) if kept else None
        if isinstance(argument, list | tuple) and any(isinstance(a, Tensor) for a in argument):
            return tuple(self._argument(a, kept) for a in argument)
        return argument

    def _hold(self, tensor: Tensor) -> _Value:
        value = _Value(tensor.detach())
        self._held.setdefault(tensor.untyped_storage().data_ptr(), []).append(value)
        return value

    def _detach(self, tensor: Tensor) -> None:
        """Copies what was kept of memory that is about to change."""
        for value in self._held.pop(tensor.untyped_storage().data_ptr(), []):
            value.tensor = value.tensor.clone()


def _read(argument: Any) -> Any:
    return argument.tensor if isinstance(argument, _Value) else argument


@dataclass(frozen=True, eq=False)
class RecordedForward:
    """One forward of a model, ready to be walked backwards.

    Attributes:
        inputs: What was run, a leaf that requires grad.
        scores: ``[batch, classes]``, with its graph.
        records: By sequence number.
    """

    inputs: Tensor
    scores: Tensor
    records: Mapping[int, list[Record]]

    def record_of(self, node: Node) -> Record | None:
        """The operator call behind an autograd node, or None: a Python function, a leaf."""
        if issubclass(type(node), torch.autograd.function.BackwardCFunction):
            return None
        if node.name() == COPY_SLICES:  # the node of the change itself was made right before
            calls = self.records.get(node._sequence_nr() - 1, [])
            return next((call for call in calls if call.slot is not None), None)
        number = node._sequence_nr()
        own = _plain(node.name().partition("Backward")[0])
        # before it ran, autograd may have made nodes for views of memory that has changed, or
        # copied what a change in place needs later
        for later in range(1 + len(node.next_functions)):
            calls = self.records.get(number + later, [])
            named = next((call for call in calls if _plain(call.name) == own), None)
            if named is not None or node.name() == _AS_STRIDED:
                return named
            if calls and not later:
                return calls[0]
        return None

    def calls(self, names: frozenset[str]) -> list[Record]:
        """All calls of some operators, in the order in which they ran."""
        return [
            call
            for _, calls in sorted(self.records.items())
            for call in calls
            if call.name in names
        ]


def name_of(node: Node, record: Record | None) -> str:
    """What an operator is called, also one that never ran: a view that autograd made anew."""
    if record is not None:
        return record.name
    if node.name() == _AS_STRIDED:
        return "as_strided"
    return type(node).__name__.removesuffix("Backward")


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


@contextmanager
def recording(keep: frozenset[str] = frozenset()) -> Iterator[Tape]:
    """Records what runs in the block, compiled models and fused attention taken apart."""
    with (
        uncompiled(),
        sdpa_kernel(SDPBackend.MATH),
        Tape(keep) as tape,
    ):
        yield tape


def record(model: nn.Module, inputs: Tensor, keep: frozenset[str] = frozenset()) -> RecordedForward:
    """Runs a model that returns ``[batch, classes]`` once and records it.

    Args:
        model: As a method sees it.
        inputs: ``[batch, channel, height, width]``; used as it is where it is a leaf that
            requires grad, else a detached copy of it is.
        keep: Names of the operators whose values are kept.

    Raises:
        ModelError: A scripted model, whose operators can't be told apart.
    """
    refuse_scripted(model)
    if not (inputs.is_leaf and inputs.requires_grad):
        inputs = inputs.detach().requires_grad_()
    with torch.enable_grad(), recording(keep) as tape:
        scores = model(inputs)
    return RecordedForward(inputs, scores, tape.records)


def refuse_scripted(model: nn.Module) -> None:
    """Raises where a model hides its operators."""
    hidden = next((m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if hidden is not None:
        raise ModelError(
            "expected a model in Python, got a ScriptModule, whose operators can't be seen: use "
            "the module that was scripted or traced"
        )


def nodes_from(root: Node) -> dict[Node, int]:
    """All nodes below one, each after every node that uses it, with the number of its users."""
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
