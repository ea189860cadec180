"""What a model really did: every differentiable operator of one forward, as it ran.

Autograd already records each operator as a node, however it was spelled: ``torch.relu``,
``F.relu``, ``nn.ReLU``, in place, reused, or inside somebody's block. What autograd does not keep
is what a rule needs, so a tape keeps the operator's name, inputs and output beside its node. The
two are linked by the number that autograd gives to a node when it makes it, right before the
operator runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from explainkit.errors import ModelError


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
        arguments: Positional arguments, tensors left out where they were not kept.
        options: Keyword arguments.
        slices: Size, stride and offset of what the call wrote to, where it wrote in place.
    """

    name: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    slices: tuple[torch.Size, tuple[int, ...], int] | None = None
    _inputs: list[_Value] = field(default_factory=list)
    _outputs: list[_Value] = field(default_factory=list)

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among the arguments, in order, as they were; empty where not kept."""
        return [value.tensor for value in self._inputs]

    @property
    def output(self) -> Tensor:
        """The first result, as it was."""
        return self._outputs[0].tensor


class Tape(TorchDispatchMode):
    """Records the operators that run while it is active.

    Attributes:
        records: By the sequence number of the autograd node that belongs to it.

    Args:
        keep: Names of the operators whose inputs and outputs are wanted.
    """

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.records: dict[int, Record] = {}
        self._keep = keep
        self._held: dict[int, list[_Value]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs one operator and notes it."""
        kwargs = kwargs or {}
        number = torch.autograd._get_sequence_nr() - 1
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        record = None
        if number not in self.records:
            kept = name in self._keep
            record = Record(name, tuple(None if _has_tensor(a) else a for a in args), kwargs)
            self.records[number] = record
            if kept:
                record._inputs = [self._hold(tensor) for tensor in _tensors(args)]
        if func._schema.is_mutable:
            written = args[0] if args and isinstance(args[0], Tensor) else None
            if written is not None:
                self._detach(written)
                if record is not None:
                    record.slices = (written.size(), written.stride(), written.storage_offset())
        result = func(*args, **kwargs)
        if record is not None and name in self._keep:
            record._outputs = [self._hold(tensor) for tensor in _tensors((result,))]
        return result

    def _hold(self, tensor: Tensor) -> _Value:
        value = _Value(tensor.detach())
        self._held.setdefault(tensor.untyped_storage().data_ptr(), []).append(value)
        return value

    def _detach(self, tensor: Tensor) -> None:
        """Copies what was kept of memory that is about to change."""
        for value in self._held.pop(tensor.untyped_storage().data_ptr(), []):
            value.tensor = value.tensor.clone()


def _has_tensor(argument: Any) -> bool:
    return isinstance(argument, Tensor) or (
        isinstance(argument, list | tuple) and any(isinstance(a, Tensor) for a in argument)
    )


def _tensors(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward of a model, ready to be walked backwards.

    Attributes:
        inputs: What was run, a leaf that requires grad.
        scores: ``[batch, classes]``, with its graph.
        records: By sequence number.
    """

    inputs: Tensor
    scores: Tensor
    records: Mapping[int, Record]

    def record_of(self, node: Node) -> Record | None:
        """The operator call behind an autograd node, or None: a Python function, a leaf."""
        number = node._sequence_nr()
        if node.name() == "torch::autograd::CopySlices":
            number -= 1  # the node of the change itself was made right before
        return None if isinstance(node, torch.autograd.Function) else self.records.get(number)


@contextmanager
def recording(keep: frozenset[str] = frozenset()) -> Iterator[Tape]:
    """Records what runs in the block, compiled models and fused attention taken apart."""
    with (
        torch.compiler.set_stance("force_eager"),
        sdpa_kernel(SDPBackend.MATH),
        Tape(keep) as tape,
    ):
        yield tape


def record(model: nn.Module, inputs: Tensor, keep: frozenset[str] = frozenset()) -> Trace:
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
    return Trace(inputs, scores, tape.records)


def refuse_scripted(model: nn.Module) -> None:
    """Raises where a model hides its operators."""
    hidden = next((m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if hidden is not None:
        raise ModelError(
            "expected a model in Python, got a ScriptModule, whose operators can't be seen: use "
            "the module that was scripted or traced"
        )


def nodes_from(root: Node) -> list[Node]:
    """All nodes below one, each after every node that uses it."""
    found: dict[Node, int] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = 0
        stack += [below for below, _ in node.next_functions if below is not None]
    for node in found:
        for below, _ in node.next_functions:
            if below is not None:
                found[below] += 1
    ready = [node for node, users in found.items() if not users]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for below, _ in node.next_functions:
            if below is not None:
                found[below] -= 1
                if not found[below]:
                    ready.append(below)
    return order
