"""A model as a list of operators that can be run in part, with every layer's output named.

Three ways, tried in this order: symbolic tracing (torch.fx), which keeps the model's own modules;
torch.export, which sees through what symbolic tracing can't; and none, where control flow depends
on the data: then only full runs with a layer's output replaced are possible.
"""

import builtins
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from explainkit.graph.cached import Cached
from explainkit.graph.recorder import OperatorCall, Recorder, is_write
from explainkit.isolation import preserve_model

How = Literal["fx", "export", "hooks"]


@dataclass(eq=False)
class TracedModel:
    """A model that was traced, or why it was not.

    Attributes:
        model: The caller's model; its parameters and modules are used live.
        how: ``"fx"``, ``"export"``, or ``"hooks"`` where neither sees the model right.
        reasons: Why each way before it was refused.
        nodes: The operators in the order in which they run; empty under ``"hooks"``.
        layers: For each dotted layer path the node of each of its calls.
        calls: What torch's dispatcher ran for each node.
        values: What each node gave for the example, as it was then; only what `trace` keeps.
        tensors: The nodes that give tensors.
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
        """The node that stands for the images."""
        return next(n for n in self.nodes if n.op == "placeholder" and n.name not in self._states)

    @property
    def output(self) -> fx.Node:
        """The node that gives the model's output, flattened."""
        return self.nodes[-1]

    def structured(self, leaves: Sequence[Any]) -> Any:
        """The model's own output structure, from the value of `output`."""
        return pytree.tree_unflatten(list(leaves), self._structure)

    def run(self, nodes: Iterable[fx.Node], values: dict[fx.Node, Any]) -> None:
        """Runs nodes in order, reading and adding to ``values``."""
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
        return self._constants[path] if path in self._constants else _attribute(self.model, path)

    def dependent(self, sources: Iterable[fx.Node]) -> set[fx.Node]:
        """The nodes that use what the sources give, the sources included."""
        found = set(sources)
        for node in self.nodes:
            if any(source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def compare(self, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Checks flat outputs against the model's own.

        Raises:
            ValueError: They differ by more than rounding.
        """
        for one, other in zip(found, expected, strict=True):
            if not isinstance(other, Tensor):
                same = one == other
            else:
                scale = float(other.abs().max()) if other.numel() else 0.0
                same = one.shape == other.shape and torch.allclose(
                    one, other, rtol=0, atol=_rounding(other) * scale, equal_nan=True
                )
            if not same:
                raise ValueError("it gives other numbers than the model itself")

    def check(self, expected: Sequence[Any], layer: str | None) -> None:
        """Checks the recorded run against the model, and that a layer is named.

        Raises:
            ValueError: The outputs differ, or there is no such layer.
        """
        if layer is not None and layer not in self.layers:
            raise ValueError(f"layer {layer!r} is not run, or inside an operator")
        self.compare(self.values[self.output], expected)

    def refuse(self, error: Exception) -> None:
        """Notes why the way that was taken won't do."""
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.reasons = (*self.reasons, f"{self.how}: {line}")
        self.how = "hooks"


def holds_tensor(value: Any) -> bool:
    """Whether any part of a value is a tensor; sizes are not."""
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def _rounding(tensor: Tensor) -> float:
    """Relative difference that summing in another order may make."""
    return 1e3 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def trace(
    model: nn.Module, example: Tensor, *, layer: str | None = None, keep: bool = False
) -> TracedModel:
    """Names every layer's output and every operator of a model.

    What was found is run once on the example and compared with the model itself; a way of tracing
    that gives other numbers is not used. The model is as before afterwards, exceptions included.

    Args:
        model: Any module; a compiled one is traced as it was before compilation.
        example: Images ``[batch, channel, height, width]``.
        layer: A layer that must be among those named; some ways don't see into every block.
        keep: Keep what each node gave for the example in ``values`` and ``calls``.

    Returns:
        The traced model; its ``how`` says which way was taken, ``reasons`` why not an earlier one.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval()
        >>> traced = trace(net, torch.zeros(1, 1, 8, 8))
        >>> traced.how, list(traced.layers)
        ('fx', ['0', '1'])
    """
    model = getattr(model, "_orig_mod", model)
    if any(module.training for module in model.modules()):
        return TracedModel(model, "hooks", ("the model is in train mode, where runs differ",))
    known = recall(model, example, layer)
    if known is not None and known.how == "hooks":
        return known
    with preserve_model(model, keep_mode=True), torch.no_grad():
        expected = pytree.tree_leaves(model(example.clone()))
        again = known is not None and _runs(known, example, expected, layer)
        found = known if known and again else _found(model, example, expected, layer)
    if not again:
        # what refers to the model, or is large, is not for later
        bare = replace(found, model=_NOBODY, values={}, calls={})
        _known.put(model, _key(example, layer), bare)
    return found if keep else replace(found, values={}, calls={})


def recall(model: nn.Module, example: Tensor, layer: str | None) -> TracedModel | None:
    """What `trace` found the last time, unless the model is built otherwise now.

    It has no values; who uses it checks it, as it may depend on more than how the model is built.
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
    """The first way that gives the model's own numbers; ``"hooks"`` where none does."""
    refused = TracedModel(model, "hooks", ())
    ways: tuple[tuple[How, Any], ...] = (("fx", _symbolic), ("export", _exported))
    for how, way in ways:
        try:
            traced: TracedModel = way(model, example)
            _record(traced, example)
            traced.check(expected, layer)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the next way may do
            refused.how = how
            refused.refuse(error)
            continue
        traced.reasons = refused.reasons
        return traced
    return refused


def _runs(traced: TracedModel, example: Tensor, expected: Sequence[Any], layer: str | None) -> bool:
    """Whether a graph that was found earlier still gives the model's own numbers."""
    try:
        _record(traced, example)
        traced.check(expected, layer)
    except Exception:  # noqa: BLE001 - it is looked for again then
        return False
    return True


class _Root(nn.Module):
    """Gives the caller's model one input and a flat output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.structure: Any = None

    def forward(self, images: Tensor) -> list[Any]:
        # not by calling it: its own hooks are the caller's, and run when the caller runs it
        with _length_traced(self.module):
            leaves, self.structure = pytree.tree_flatten(self.module.forward(images))
        return leaves


def passed(value: Any) -> Any:
    """What it is given: marks where a layer made of others ends."""
    return value


class _Tracer(fx.Tracer):
    """Symbolic tracing that notes the output of every layer and knows ``len``."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[tuple[str, fx.Node]] = []

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        with _length_traced(m):
            output = super().call_module(m, forward, args, kwargs)
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, fx.Proxy):
            if not self.is_leaf_module(m, path):
                # a layer that hands its input on must not share the input's node
                first = self.create_proxy("call_function", passed, (first,), {})
                output = (first, *output[1:]) if isinstance(output, tuple) else first
            self.outputs.append((path, first.node))
        return output


@contextmanager
def _length_traced(module: nn.Module) -> Iterator[None]:
    """``len`` of a traced value inside a module's forward becomes an operator."""
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


def _symbolic(model: nn.Module, _example: Tensor) -> TracedModel:
    root, tracer = _Root(model), _Tracer()
    graph = tracer.trace(root)
    # tensors that are no parameters were put on the root
    constants = {name: value for name, value in vars(root).items() if isinstance(value, Tensor)}
    traced = TracedModel(
        model, "fx", (), list(graph.nodes), _constants=constants, _structure=root.structure
    )
    for path, node in tracer.outputs:
        traced.layers.setdefault(_below(path), []).append(node)
    traced.layers.pop("", None)
    return traced


def _below(path: str) -> str:
    """A path in the caller's model, from one in `_Root`."""
    return path.removeprefix("module").removeprefix(".")


def _exported(model: nn.Module, example: Tensor) -> TracedModel:
    names: list[str] = []
    structure: Any = None

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

        def forward(self, images: Tensor) -> tuple[list[Any], list[Tensor]]:
            nonlocal structure
            names.clear()
            with _outputs(model) as outputs:
                leaves, structure = pytree.tree_flatten(self.module.forward(images))
            names.extend(path for path, _ in outputs)
            return leaves, [tensor for _, tensor in outputs]

    # a batch of one would be taken for a constant
    several = example if len(example) > 1 else torch.cat([example, example.flip(-1)])
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Probe(), (several,), dynamic_shapes=({0: batch},), strict=False
        )
        if any(is_write(node.target) for node in program.graph.nodes):
            program = program.run_decompositions({})  # makes every operator a function
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
def _outputs(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Gathers a copy of every layer's output, which goes on into the model, in order of calls."""
    found: list[tuple[str, Tensor]] = []

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
        yield found


def _storages(value: Any) -> set[int]:
    """Addresses of the memory that the tensors in a value lie in."""
    leaves = (value,) if isinstance(value, Tensor) else pytree.tree_leaves(value)
    return {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _record(traced: TracedModel, example: Tensor) -> None:
    """Runs the example, notes what each node does, and makes in-place nodes plain ones.

    After an operator that works in place, the nodes that follow use its own value.

    Raises:
        NotImplementedError: An operator writes into something that other nodes see otherwise.
    """
    values: dict[fx.Node, Any] = {}
    holders: dict[int, list[fx.Node]] = {}
    places = {node: place for place, node in enumerate(traced.nodes)}

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
                for later in [n for n in other.users if places.get(n, -1) > places[node]]:
                    later.replace_input_with(other, node)
            holders[tensor.untyped_storage().data_ptr()] = []
            holders.setdefault(before.untyped_storage().data_ptr(), []).extend(aliases)
        keep(node, result)
    traced.values = values
    traced.tensors = frozenset(node for node, value in values.items() if holds_tensor(value))
