"""A traced model as a sequence of steps that can run on boxes where rules exist."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.layouts import (
    Layout,
    changed_layout,
    from_layout,
    is_strict,
    positionwise,
)
from explainkit.graph.incremental.operators import BoxOperator, Convolution, Mean, Slide
from explainkit.graph.incremental.regions import Clean
from explainkit.graph.incremental.rules import (
    arguments_of,
    convolution,
    dense_work,
    operators,
    scale_and_shift,
)
from explainkit.graph.recorder import OperatorCall, is_write
from explainkit.graph.trace import TracedModel, holds_tensor


@dataclass(eq=False)
class Action:
    """One operator of a step.

    Attributes:
        operator: Runs it on boxes.
        sources: Keys of those arguments that change.
        result: Key of its result.
        call: The call as recorded on the unchanged image.
    """

    operator: BoxOperator | Mean
    sources: list[int]
    result: int
    call: OperatorCall


@dataclass(frozen=True)
class Place:
    """Where steps find a tensor that changes with the image.

    Attributes:
        key: Key of its maps; `UNKNOWN` if there is no rule for the operator that made it.
        layout: Its layout.
    """

    key: int
    layout: Layout = "first"


UNKNOWN = -1


@dataclass(eq=False)
class Step:
    """One node of the traced model whose value changes with the image.

    Attributes:
        node: The node.
        source: The first of its inputs that depends on the image.
        actions: Its operators that have rules, in order; empty if it only passes a value on.
        work: The work to run it on the whole map of one variant.
        largest: Numbers in the largest result of its operators.
        value: The node's value with a `Place` for each tensor.
        dense: Runs the node on a whole map, faster than the node itself.
        strict: Whether it fails on tensors whose memory is ordered otherwise than in the model.
    """

    node: fx.Node
    source: fx.Node
    actions: list[Action]
    work: Work
    largest: int
    value: Any
    dense: Callable[..., Tensor] | None = None
    strict: bool = False

    @property
    def keys(self) -> list[int]:
        """Keys of the tensors in its value."""
        return [place.key for place in pytree.tree_leaves(self.value)]

    @property
    def is_local(self) -> bool:
        """Whether it can run on boxes."""
        return UNKNOWN not in self.keys


@dataclass(eq=False)
class Program:
    """The steps of a model between an image and its output.

    Attributes:
        traced: The model, with the values of the unchanged image.
        steps: The steps in execution order.
        clean: The values of the unchanged image by key; maps have the channels first.
        maps: Those of them that have been prepared for reading boxes.
        means: Keys of spatial means, which have no boxes.
        image: Key of the image.
    """

    traced: TracedModel
    steps: list[Step] = field(default_factory=list)
    clean: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Clean] = field(default_factory=dict)
    means: set[int] = field(default_factory=set)
    image: int = 0

    def map(self, key: int) -> Clean:
        """A value ``[1, channel, height, width]``, prepared for reading boxes."""
        if key not in self.maps:
            self.maps[key] = Clean(self.clean[key])
        return self.maps[key]


def program(traced: TracedModel) -> Program:
    """Builds a program from the recorded operators of a model; folds normalizations.

    Args:
        traced: A model traced on one image, with its values kept.

    Raises:
        NotImplementedError: The model computes with numbers that it reads from a tensor.
    """
    found = Program(traced)
    # tensors identify values: the recorder copies what in-place operators overwrite
    seen = _Seen()
    seen.put(traced.values[traced.image], Place(0))
    found.clean[0] = traced.values[traced.image]
    changing = {traced.image}
    for node in traced.nodes:
        sources = [source for source in node.all_input_nodes if source in changing]
        if not sources or node is traced.output:
            continue
        if not holds_tensor(traced.values[node]):
            if not _reads_shape(node):
                raise NotImplementedError(f"{node} reads numbers from a tensor")
            continue  # sizes are computed when they are needed
        step = _step(found, node, sources[0], seen)
        if step is not None:
            changing.add(node)
            found.steps.append(step)
    _fold(found)
    return found


_SHAPES = {"size", "shape", "dim", "ndim", "ndimension", "numel", "len", "dtype", "device"}


def _reads_shape(node: fx.Node) -> bool:
    """Whether a node that outputs no tensor reads only the shape or kind of its inputs."""
    name = str(getattr(node.target, "__name__", node.target))
    name = str(node.args[1]) if name == "getattr" else name
    return name.removeprefix("sym_").partition(".")[0] in _SHAPES


class _Seen:
    """The places of the tensors that change with the image."""

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._written: set[int] = set()

    def put(self, tensor: Tensor, place: Place, *, written: bool = False) -> None:
        """Adds a tensor; if it was ``written`` to, others may share its memory."""
        self._places[id(tensor)] = place
        if written:
            self._written.add(tensor.untyped_storage().data_ptr())

    def get(self, value: Any) -> Place | None:
        """The place of a tensor; None if it is the same for all images."""
        place = self._places.get(id(value))
        if place is None and isinstance(value, Tensor):
            written = value.untyped_storage().data_ptr() in self._written
            return Place(UNKNOWN) if written else None
        return place


def _step(found: Program, node: fx.Node, source: fx.Node, seen: _Seen) -> Step | None:
    """The step of a node; None if its value is the same for all images."""
    step = Step(node, source, [], Work(), 0, None)
    for call in found.traced.calls[node]:
        changing = [t for t in _tensors((call.arguments, dict(call.options))) if seen.get(t)]
        places = [place for t in changing if (place := seen.get(t))]
        results = _tensors(call.result)
        if not changing or not results:
            continue
        moved = _moved(found, call, places[0])
        if moved is not None:
            seen.put(results[0], moved)
            continue
        step.work = step.work + dense_work(call, changing, results[0])
        step.largest = max(step.largest, *(result.numel() for result in results))
        step.strict = step.strict or is_strict(node, call)
        layout = places[0].layout
        for result, rule in zip_longest(results, _rules(found, call, changing, places)):
            made = UNKNOWN if rule is None else len(found.clean)
            seen.put(result, Place(made, layout), written=is_write(call.operator))
            if isinstance(rule, Mean):
                found.means.add(made)
            if rule is not None:
                size = found.clean[places[0].key].shape[2:]
                found.clean[made] = from_layout(result, layout, (1, *size))
                step.actions.append(Action(rule, [p.key for p in places], made, call))
    value = found.traced.values[node]
    if not any(seen.get(leaf) for leaf in pytree.tree_leaves(value)):
        return None
    step.value = pytree.tree_map(lambda leaf: seen.get(leaf) or Place(UNKNOWN), value)
    if _convolution_of(step) is not None:
        step.dense = _whole(step)
    return step


def _moved(found: Program, call: OperatorCall, place: Place) -> Place | None:
    """The new place if an operator only rearranges its source, else None."""
    before = found.clean.get(place.key)
    if before is None or before.dim() != 4:
        return None
    layout = changed_layout(call, place.layout, before.shape)
    return layout and Place(place.key, layout)


def _rules(
    found: Program, call: OperatorCall, changing: Sequence[Tensor], places: Sequence[Place]
) -> Sequence[BoxOperator | Mean | None]:
    """How to run an operator on boxes: for each result, or for the first ones."""
    layout = places[0].layout
    if any(p.key in found.means | {UNKNOWN} or p.layout != layout for p in places):
        return ()
    return (
        operators(call, changing) if layout == "first" else [positionwise(call, changing, layout)]
    )


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, including those in lists."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _convolution_of(step: Step) -> OperatorCall | None:
    """The call of a step that consists of one convolution, else None."""
    if not step.is_local or len(step.actions) != 1 or len(step.actions[0].sources) != 1:
        return None
    call = step.actions[0].call
    return call if call.operator._schema.name == "aten::convolution" else None


def _whole(step: Step) -> Callable[[Tensor], Tensor]:
    """Runs a step that is a convolution on whole maps, with the same weights."""
    rule = step.actions[0].operator
    assert isinstance(rule, Slide)
    assert isinstance(rule.apply, Convolution)
    return rule.apply.whole


def _fold(found: Program) -> None:
    """Folds normalizations with fixed statistics into the preceding convolutions."""
    by_node = {step.node: step for step in found.steps}
    for step in found.steps:
        call = _convolution_of(step)
        # users that are not steps only read its size, which doesn't change
        readers = [by_node.get(n) for n in step.node.users if n in by_node or n.op == "output"]
        after = readers[0] if len(readers) == 1 else None
        if call is None or after is None:
            continue
        factors = _normalization(after, step)
        if factors is None:
            continue
        scale, shift = factors
        a = arguments_of(call)
        a["weight"] = a["weight"] * scale[:, None, None, None]
        a["bias"] = shift if a["bias"] is None else a["bias"] * scale + shift
        (convolved,), (normalized,) = step.actions, after.actions
        folded = convolution(a)
        assert folded is not None
        convolved.operator = folded
        step.dense = _whole(step)
        # the normalization's result is now the convolution's
        found.clean[convolved.result] = found.clean[normalized.result]
        _rename(found, normalized.result, convolved.result)
        after.actions, after.work, after.dense = [], Work(), _same


def _normalization(step: Step, before: Step) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a step that normalizes another with fixed statistics, else None."""
    if len(step.actions) != 1 or step.actions[0].sources != before.keys:
        return None
    call = step.actions[0].call
    batch_norm = "batch_norm" in call.operator._schema.name
    return scale_and_shift(arguments_of(call)) if batch_norm else None


def _rename(found: Program, key: int, new: int) -> None:
    def renamed(place: Place) -> Place:
        return replace(place, key=new) if place.key == key else place

    for step in found.steps:
        step.value = pytree.tree_map(renamed, step.value)
        for action in step.actions:
            action.sources = [new if source == key else source for source in action.sources]


def _same(value: Tensor) -> Tensor:
    return value
