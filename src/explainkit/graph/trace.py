"""Traces a model into a list of operators that can run in part, with every layer's output named.

Symbolic tracing (torch.fx) is tried first: it keeps the model's own modules. torch.export follows:
it handles models that symbolic tracing can't. If both fail, because control flow depends on the
data, only full runs with a layer's output replaced are possible.
"""

import builtins
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from explainkit.graph.cached import Cached
from explainkit.graph.recorder import OperatorCall, Recorder, is_write
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layer_tensors import LayerTensor

How = Literal["fx", "export", "hooks"]


@dataclass(eq=False)
class TracedModel:
    """A traced model, or the reasons why tracing failed.

    Attributes:
        model: The caller's model; its current parameters and modules are used.
        how: ``"fx"``, ``"export"``, or ``"hooks"`` if neither traces the model correctly.
        reasons: Why other ways of tracing failed.
        nodes: The operators in execution order; empty with ``"hooks"``.
        layers: For each dotted layer path the nodes of its calls.
        calls: The dispatcher calls of each node.
        values: Each node's value for the example, before any overwriting; only with ``keep``.
        tensors: The nodes whose values contain tensors.
        writes: Whether an operator works in place.
    """

    model: nn.Module
    how: How
    reasons: tuple[str, ...]
    nodes: list[fx.Node] = field(default_factory=list)
    layers: dict[str, list[fx.Node]] = field(default_factory=dict)
    calls: dict[fx.Node, list[OperatorCall]] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    tensors: frozenset[fx.Node] = frozenset()
    writes: bool = False
    _states: Mapping[str, str] = field(default_factory=dict)
    _constants: Mapping[str, Any] = field(default_factory=dict)
    _structure: Any = None

    @property
    def image(self) -> fx.Node:
        """The node of the input images."""
        return next(n for n in self.nodes if n.op == "placeholder" and n.name not in self._states)

    @property
    def output(self) -> fx.Node:
        """The node of the model's flattened output."""
        return self.nodes[-1]

    def structured(self, leaves: Sequence[Any]) -> Any:
        """Restores the model's own output structure from the value of `output`."""
        return pytree.tree_unflatten(list(leaves), self._structure)

    def run(self, nodes: Iterable[fx.Node], values: dict[fx.Node, Any]) -> None:
        """Runs nodes in order; reads from ``values`` and adds to it."""
        for node in nodes:
            if node not in values:
                values[node] = self.execute(node, values)

    def execute(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Runs one node."""
        if node.op == "placeholder":
            return self._state(self._states[node.name])
        if node.op == "get_attr":
            return self._state(_below(str(node.target)))
        arguments = fx.node.map_arg(node.args, values.__getitem__)
        options = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module":
            return self.model.get_submodule(_below(str(node.target)))(*arguments, **options)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
        if node.op == "output":
            return arguments[0]
        assert callable(node.target)
        return node.target(*arguments, **options)

    def _state(self, path: str) -> Any:
        return self._constants[path] if path in self._constants else attrgetter(path)(self.model)

    def dependent(self, sources: Iterable[fx.Node]) -> set[fx.Node]:
        """The nodes that depend on the sources, including the sources."""
        found = set(sources)
        for node in self.nodes:
            if any(source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def compare(self, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Compares flattened outputs with the model's own.

        Raises:
            ValueError: They differ by more than rounding.
        """
        for one, other in zip(found, expected, strict=True):
            if not isinstance(other, Tensor):
                same = one == other
            else:
                scale = float(other.abs().max()) if other.numel() else 0.0
                # another order of summation may change the last digits
                room = 1e3 * torch.finfo(other.dtype).eps if other.is_floating_point() else 0.0
                same = one.shape == other.shape and torch.allclose(
                    one, other, rtol=0, atol=room * scale, equal_nan=True
                )
            if not same:
                raise ValueError("its output differs from the model's own")

    def refuse(self, error: Exception) -> None:
        """Records why this way of tracing failed."""
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.reasons = (*self.reasons, f"{self.how}: {line}")
        self.how = "hooks"


def holds_tensor(value: Any) -> bool:
    """Whether any part of a value is a tensor; sizes don't count."""
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def trace(
    model: nn.Module, example: Tensor, *, layer: str | None = None, keep: bool = False
) -> TracedModel:
    """Traces a model's operators and names every layer's output.

    The trace is run once on the example and compared with the model; it is discarded if the outputs
    differ. The model is left unchanged, even if an exception occurs.

    Args:
        model: Any module; a compiled one is traced uncompiled.
        example: Images ``[batch, channel, height, width]``.
        layer: A layer, or the text of a `LayerTensor`, that must be named; some ways of tracing
            don't see inside every block.
        keep: Keep each node's value and calls for the example in ``values`` and ``calls``.

    Returns:
        The traced model. ``how`` names the way of tracing, ``reasons`` why others failed.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval()
        >>> traced = trace(net, torch.zeros(1, 1, 8, 8))
        >>> traced.how, list(traced.layers)
        ('fx', ['0', '1'])
    """
    model = getattr(model, "_orig_mod", model)
    if any(module.training for module in model.modules()):
        return TracedModel(model, "hooks", ("the model is in train mode, so its runs may differ",))
    known = recall(model, example, layer)
    if known is not None and known.how == "hooks":
        return known
    with preserve_process(0), preserve_model(model, keep_mode=True), torch.no_grad():
        expected = pytree.tree_leaves(model(example.clone()))
        again = known is not None and _runs(known, example, expected, layer)
        found = known if known and again else _found(model, example, expected, layer)
    if not again:
        # nothing that refers to the model, or is large, is cached
        bare = replace(found, model=_NOBODY, values={}, calls={})
        _known.put(model, _key(example, layer), bare)
    return found if keep else replace(found, values={}, calls={})


def recall(model: nn.Module, example: Tensor, layer: str | None) -> TracedModel | None:
    """The cached result of `trace`, or None if the model's structure has changed.

    It has no values. The caller must compare its output with the model's: it may depend on more
    than the structure.
    """
    found = _known.get(model, _key(example, layer))
    return found and replace(found, model=model)


_known = Cached[TracedModel]()
_NOBODY = nn.Identity()


def _key(example: Tensor, layer: str | None) -> Any:
    return layer, example.shape, example.dtype, example.device


def _found(
    model: nn.Module, example: Tensor, expected: Sequence[Any], layer: str | None
) -> TracedModel:
    """The first way of tracing whose output equals the model's; ``"hooks"`` if there is none."""
    refused = TracedModel(model, "hooks", ())
    ways: tuple[tuple[How, Any], ...] = (("fx", _symbolic), ("export", _exported))
    named = None if layer is None else LayerTensor.of(layer)
    chosen = named if named is not None and named.is_chosen else None
    for how, way in ways:
        try:
            traced: TracedModel = way(model, example, chosen)
            _record(traced, example, expected, layer)
        except Exception as error:  # noqa: BLE001 - whatever fails, the next way may work
            refused.how = how
            refused.refuse(error)
            continue
        traced.reasons = refused.reasons
        return traced
    return refused


def _runs(traced: TracedModel, example: Tensor, expected: Sequence[Any], layer: str | None) -> bool:
    """Whether the output of a cached trace still equals the model's."""
    try:
        _record(traced, example, expected, layer)
    except Exception:  # noqa: BLE001 - the model is then traced again
        return False
    return True


class _Root(nn.Module):
    """Wraps the caller's model with one input and a flattened output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.structure: Any = None

    def forward(self, images: Tensor) -> list[Any]:
        # forward only: hooks on the model itself are left to the caller
        with _length_traced(self.module):
            leaves, self.structure = pytree.tree_flatten(self.module.forward(images))
        return leaves


def passed(value: Any) -> Any:
    """Returns its argument; marks the output of a layer that consists of others."""
    return value


class _Tracer(fx.Tracer):
    """Symbolic tracing that records every layer's output and supports ``len``.

    Args:
        chosen: Another tensor that is recorded, too.
    """

    def __init__(self, chosen: LayerTensor | None) -> None:
        super().__init__()
        self.outputs: list[tuple[str, fx.Node]] = []
        self._chosen = chosen

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        chosen = self._chosen if self._chosen and self._chosen.layer == _below(path) else None
        if chosen and chosen.side == "input":
            args, kwargs = chosen.exchanged_inputs(args, kwargs, self._mark, kind=fx.Proxy)
        with _length_traced(m):
            output = super().call_module(m, forward, args, kwargs)
        if chosen and chosen.side == "output":
            output = chosen.exchanged(output, self._mark, kind=fx.Proxy)
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, fx.Proxy):
            if not self.is_leaf_module(m, path):
                # a layer that returns its input must not share the input's node
                first = self.create_proxy("call_function", passed, (first,), {})
                output = (first, *output[1:]) if isinstance(output, tuple) else first
            self.outputs.append((path, first.node))
        return output

    def _mark(self, tensor: fx.Proxy) -> fx.Proxy:
        """Records the chosen tensor, as a value that is used nowhere else."""
        marked = self.create_proxy("call_function", passed, (tensor,), {})
        self.outputs.append((str(self._chosen), marked.node))
        return marked


@contextmanager
def _length_traced(module: nn.Module) -> Iterator[None]:
    """Makes ``len`` of a traced value inside a module's forward an operator."""
    names = getattr(type(module).forward, "__globals__", {})
    if "len" in names:
        yield
        return
    names["len"] = _length
    try:
        yield
    finally:
        del names["len"]


def _length(value: Any) -> Any:
    if isinstance(value, fx.Proxy):
        return value.tracer.create_proxy("call_function", builtins.len, (value,), {})
    return len(value)


def _symbolic(model: nn.Module, _example: Tensor, chosen: LayerTensor | None) -> TracedModel:
    root, tracer = _Root(model), _Tracer(chosen)
    graph = tracer.trace(root)
    # fx puts tensors that are not parameters on the root
    constants = {name: value for name, value in vars(root).items() if isinstance(value, Tensor)}
    traced = TracedModel(
        model, "fx", (), list(graph.nodes), _constants=constants, _structure=root.structure
    )
    for path, node in tracer.outputs:
        traced.layers.setdefault(_below(path), []).append(node)
    traced.layers.pop("", None)
    return traced


def _below(path: str) -> str:
    """Converts a path in `_Root` to one in the caller's model."""
    return path.removeprefix("module").removeprefix(".")


def _exported(model: nn.Module, example: Tensor, chosen: LayerTensor | None) -> TracedModel:
    names: list[str] = []
    structure: Any = None

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, images: Tensor) -> tuple[list[Any], list[Tensor]]:
            nonlocal structure
            names.clear()
            with _outputs(model, chosen) as outputs:
                leaves, structure = pytree.tree_flatten(self.module.forward(images))
            names.extend(path for path, _ in outputs)
            return leaves, [tensor for _, tensor in outputs]

    # export would treat a batch of one as a constant
    several = example if len(example) > 1 else torch.cat([example, example.flip(-1)])
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Probe(), (several,), dynamic_shapes=({0: batch},), strict=False
        )
        if any(is_write(node.target) for node in program.graph.nodes):
            program = program.run_decompositions({})  # removes in-place operators
    signature = program.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    states = {name: _below(path) for name, path in state.items()}
    lifted = signature.inputs_to_lifted_tensor_constants
    nodes = list(program.graph.nodes)
    output = nodes[-1]
    leaves = output.args[0]
    assert isinstance(leaves, tuple)
    constants = {path: program.constants[path] for path in lifted.values()}
    found = TracedModel(
        model, "export", (), nodes,
        _states=states | lifted, _constants=constants, _structure=structure,
    )  # fmt: skip
    count = len(leaves) - len(names)
    for path, node in zip(names, leaves[count:], strict=True):
        assert isinstance(node, fx.Node)
        found.layers.setdefault(path, []).append(node)
    output.args = (leaves[:count],)
    return found


@contextmanager
def _outputs(model: nn.Module, chosen: LayerTensor | None) -> Iterator[list[tuple[str, Tensor]]]:
    """Collects a copy of every layer's output, on which the model continues, in order of calls.

    Args:
        model: The caller's model.
        chosen: Another tensor that is collected, too.
    """
    found: list[tuple[str, Tensor]] = []

    def keep_chosen(tensor: Tensor) -> Tensor:
        found.append((str(chosen), tensor.clone()))
        return found[-1][1]

    def keeper(path: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            several = isinstance(output, tuple) and bool(output)
            tensor = output[0] if several else output
            if not isinstance(tensor, Tensor):
                return None
            found.append((path, tensor.clone()))
            return (found[-1][1], *output[1:]) if several else found[-1][1]

        return keep

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(keeper(path)).remove)
        if chosen is not None:
            module = model.get_submodule(chosen.layer)
            hooks.callback(chosen.hook(module, keep_chosen).remove)
        yield found


def _storages(value: Any) -> set[int]:
    """Addresses of the storages of the tensors in a value."""
    leaves = (value,) if isinstance(value, Tensor) else pytree.tree_leaves(value)
    return {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}


def _record(
    traced: TracedModel, example: Tensor, expected: Sequence[Any], layer: str | None
) -> None:
    """Runs the example, records each node's calls and values, and rewires in-place operators.

    The nodes after an in-place operator use its result instead of the tensor that it overwrote.

    Raises:
        NotImplementedError: An operator writes into a view or a state of the model.
        ValueError: The output is not the model's own, or a layer is not named.
    """
    if layer is not None and layer not in traced.layers:
        raise ValueError(f"layer {layer!r} does not run, or is inside an operator")
    values: dict[fx.Node, Any] = {}
    holders: dict[int, list[fx.Node]] = {}
    order = {node: index for index, node in enumerate(traced.nodes)}

    def keep(node: fx.Node, value: Any) -> None:
        values[node] = value
        for storage in _storages(value):
            holders.setdefault(storage, []).append(node)

    keep(traced.image, example.clone())
    recorder = Recorder()
    for node in traced.nodes:
        if node in values:
            continue
        recorder.begin()
        with recorder:
            result = traced.execute(node, values)
        traced.calls[node] = recorder.calls
        for tensor, before, own in recorder.overwritten:
            aliases = holders.get(tensor.untyped_storage().data_ptr(), [])
            if own and not aliases:
                continue
            traced.writes = True
            if result is not tensor or not all(values[other] is tensor for other in aliases):
                raise NotImplementedError(f"{node} writes into a view or a state of the model")
            for other in aliases:
                values[other] = before
                for later in [n for n in other.users if order.get(n, -1) > order[node]]:
                    later.replace_input_with(other, node)
            holders[tensor.untyped_storage().data_ptr()] = []
            holders.setdefault(before.untyped_storage().data_ptr(), []).extend(aliases)
        keep(node, result)
    traced.values = values
    traced.tensors = frozenset(node for node, value in values.items() if holds_tensor(value))
    traced.compare(values[traced.output], expected)
