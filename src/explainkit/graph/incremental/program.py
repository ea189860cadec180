"""A traced model as steps, each with what it needs to run on boxes where it can."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, fx

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.layouts import Layout, passed_on, place_by_place, taken
from explainkit.graph.incremental.operators import BoxOperator, Convolution, Mean, Slide
from explainkit.graph.incremental.regions import Clean
from explainkit.graph.incremental.rules import arguments_of, dense_work, operator, scale_and_shift
from explainkit.graph.recorder import OperatorCall
from explainkit.graph.trace import TracedModel, holds_tensor


@dataclass(eq=False)
class Action:
    """One operator of a step.

    Attributes:
        operator: Runs it on boxes; None: it has no rule.
        sources: Keys of the values that change among its arguments.
        result: Key of what it gives.
        call: As it ran on the image as it was.
    """

    operator: BoxOperator | Mean | None
    sources: list[int]
    result: int
    call: OperatorCall


@dataclass(eq=False)
class Step:
    """One node of the traced model that depends on the image.

    Attributes:
        node: The node.
        actions: What it does, one operator after the other; empty where it passes a value on.
        work: What it costs to run it on the whole map of one variant.
        source: The first node it reads of those that depend on the image.
        key: Of its value; None: the value is no tensor that steps can follow.
        layout: Of its value.
        dense: Runs the node on its one whole map, faster than the node itself would.
    """

    node: fx.Node
    source: fx.Node
    actions: list[Action]
    work: Work
    key: int | None
    layout: Layout = "first"
    dense: Callable[..., Tensor] | None = None

    @property
    def is_local(self) -> bool:
        """Whether it can run on boxes."""
        known = all(action.operator is not None for action in self.actions)
        return known and self.key is not None


class _Seen(NamedTuple):
    """What a tensor of the clean run is."""

    key: int
    layout: Layout


@dataclass(eq=False)
class Program:
    """The steps of a model between an image and its output.

    Attributes:
        traced: The model, with the values that the image as it is gives.
        steps: In the order in which they run.
        clean: For each key the value that the image as it is gives; maps have channels first.
        image: Key of the image.
    """

    traced: TracedModel
    steps: list[Step] = field(default_factory=list)
    clean: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Clean] = field(default_factory=dict)
    image: int = 0

    def map(self, key: int) -> Clean:
        """A value ``[1, channel, height, width]``, ready to be looked up."""
        if key not in self.maps:
            self.maps[key] = Clean(self.clean[key])
        return self.maps[key]


def program(traced: TracedModel) -> Program:
    """Reads the operators that a traced model ran on one image; normalizations are folded."""
    found = Program(traced)
    # a value is known by its tensor: operators in place keep what they overwrote
    seen = {id(traced.values[traced.image]): _Seen(0, "first")}
    found.clean[0] = traced.values[traced.image]
    per_image = traced.dependent([traced.image])
    for node in traced.nodes:
        # sizes are counted when they are needed
        inner = node in per_image and node not in (traced.image, traced.output)
        if inner and holds_tensor(traced.values[node]):
            source = next(n for n in node.all_input_nodes if n in per_image)
            found.steps.append(_step(found, node, source, seen))
    _fold(found)
    return found


def _step(found: Program, node: fx.Node, source: fx.Node, seen: dict[int, _Seen]) -> Step:
    actions: list[Action] = []
    work = Work()
    for call in found.traced.calls[node]:
        changing = [t for t in _tensors(call) if id(t) in seen]
        if not changing:
            continue
        sources = [seen[id(t)].key for t in changing]
        layout = seen[id(changing[0])].layout
        result = _result(call)
        if not isinstance(result, Tensor):
            actions.append(Action(None, sources, -1, call))
            continue
        before = found.clean[sources[0]]
        again = passed_on(call, layout, before.shape) if before.dim() == 4 else None
        if again is not None:
            seen[id(result)] = _Seen(sources[0], again)
            continue
        work = work + dense_work(call, changing, result)
        made = len(found.clean)
        rule: BoxOperator | Mean | None = None
        if layout == "first":
            rule = operator(call, changing)
        elif all(seen[id(t)].layout == layout for t in changing):
            rule = place_by_place(call, changing, layout)
        layout = layout if rule is not None else "first"
        found.clean[made] = taken(result, layout, (1, *before.shape[2:]))
        seen[id(result)] = _Seen(made, layout)
        actions.append(Action(rule, sources, made, call))
    value = found.traced.values[node]
    known = seen.get(id(value)) if isinstance(value, Tensor) else None
    step = Step(node, source, actions, work, known and known.key)
    step.layout = known.layout if known else "first"
    if _convolution_of(step) is not None:
        step.dense = _whole(step)
    return step


def _tensors(call: OperatorCall) -> list[Tensor]:
    """The tensors among a call's arguments, those in lists included."""
    found: list[Tensor] = []
    for value in (*call.arguments, *call.options.values()):
        several = value if isinstance(value, tuple | list) else (value,)
        found += [v for v in several if isinstance(v, Tensor)]
    return found


def _convolution_of(step: Step) -> OperatorCall | None:
    """The call of a step that is one convolution and nothing else."""
    if not step.is_local or len(step.actions) != 1 or len(step.actions[0].sources) != 1:
        return None
    call = step.actions[0].call
    return call if call.operator._schema.name == "aten::convolution" else None


def _result(call: OperatorCall) -> Any:
    return call.result[0] if isinstance(call.result, tuple | list) else call.result


def _whole(step: Step) -> Callable[[Tensor], Tensor]:
    """A step that is a convolution, on whole maps, from the same weights."""
    rule = step.actions[0].operator
    assert isinstance(rule, Slide)
    assert isinstance(rule.apply, Convolution)
    return rule.apply.whole


def _fold(found: Program) -> None:
    """Takes a normalization by fixed statistics into the convolution before it."""
    by_node = {step.node: step for step in found.steps}
    for step in found.steps:
        call = _convolution_of(step)
        # what else uses it and is no step reads its size, which stays
        readers = [by_node.get(n) for n in step.node.users if n in by_node or n.op == "output"]
        after = readers[0] if len(readers) == 1 else None
        if call is None or after is None:
            continue
        factors = _normalization(after, step.key)
        if factors is None:
            continue
        scale, shift = factors
        a = arguments_of(call)
        a["weight"] = a["weight"] * scale[:, None, None, None]
        a["bias"] = shift if a["bias"] is None else a["bias"] * scale + shift
        (convolved,), (normalized,) = step.actions, after.actions
        convolved.operator = operator(OperatorCall(call.operator, (), a, call.result), [a["input"]])
        step.dense = _whole(step)
        # what the normalization gave is now what the convolution gives
        found.clean[convolved.result] = found.clean[normalized.result]
        _rename(found, normalized.result, convolved.result)
        after.actions, after.work, after.dense = [], Work(), _same


def _normalization(step: Step, source: int | None) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a step that normalizes this value by fixed statistics."""
    if len(step.actions) != 1 or step.actions[0].sources != [source]:
        return None
    call = step.actions[0].call
    batch_norm = "batch_norm" in call.operator._schema.name
    return scale_and_shift(arguments_of(call)) if batch_norm else None


def _rename(found: Program, key: int, new: int) -> None:
    for step in found.steps:
        step.key = new if step.key == key else step.key
        for action in step.actions:
            action.sources = [new if source == key else source for source in action.sources]


def _same(value: Tensor) -> Tensor:
    return value
