"""A traced model as a sequence of steps that can run on boxes where rules exist."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, fx

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.layouts import (
    Layout,
    changed_layout,
    from_layout,
    positionwise,
)
from explainkit.graph.incremental.operators import BoxOperator, Convolution, Mean, Slide
from explainkit.graph.incremental.regions import Clean
from explainkit.graph.incremental.rules import arguments_of, dense_work, operator, scale_and_shift
from explainkit.graph.recorder import OperatorCall
from explainkit.graph.trace import TracedModel, holds_tensor


@dataclass(eq=False)
class Action:
    """One operator of a step.

    Attributes:
        operator: Runs it on boxes; None: there is no rule.
        sources: Keys of those arguments that change.
        result: Key of its result.
        call: The call as recorded on the unchanged image.
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
        source: The first of its inputs that depends on the image.
        actions: Its operators in order; empty if it only passes a value on.
        work: The work to run it on the whole map of one variant.
        key: Key of its value; None: the value is not a tensor that steps can follow.
        layout: Layout of its value.
        dense: Runs the node on a whole map, faster than the node itself.
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
    """The key and layout of a tensor of the clean run."""

    key: int
    layout: Layout


@dataclass(eq=False)
class Program:
    """The steps of a model between an image and its output.

    Attributes:
        traced: The model, with the values of the unchanged image.
        steps: The steps in execution order.
        clean: The values of the unchanged image by key; maps have the channels first.
        maps: Those of them that have been prepared for reading boxes.
        image: Key of the image.
    """

    traced: TracedModel
    steps: list[Step] = field(default_factory=list)
    clean: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Clean] = field(default_factory=dict)
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
    """
    found = Program(traced)
    # tensors identify values: the recorder copies what in-place operators overwrite
    seen = {id(traced.values[traced.image]): _Seen(0, "first")}
    found.clean[0] = traced.values[traced.image]
    per_image = traced.dependent([traced.image])
    for node in traced.nodes:
        # sizes are computed when they are needed
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
        rearranged = changed_layout(call, layout, before.shape) if before.dim() == 4 else None
        if rearranged is not None:
            seen[id(result)] = _Seen(sources[0], rearranged)
            continue
        work = work + dense_work(call, changing, result)
        made = len(found.clean)
        rule: BoxOperator | Mean | None = None
        if layout == "first":
            rule = operator(call, changing)
        elif all(seen[id(t)].layout == layout for t in changing):
            rule = positionwise(call, changing, layout)
        layout = layout if rule is not None else "first"
        found.clean[made] = from_layout(result, layout, (1, *before.shape[2:]))
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
    """The tensors among a call's arguments, including those in lists."""
    found: list[Tensor] = []
    for value in (*call.arguments, *call.options.values()):
        several = value if isinstance(value, tuple | list) else (value,)
        found += [v for v in several if isinstance(v, Tensor)]
    return found


def _convolution_of(step: Step) -> OperatorCall | None:
    """The call of a step that consists of one convolution, else None."""
    if not step.is_local or len(step.actions) != 1 or len(step.actions[0].sources) != 1:
        return None
    call = step.actions[0].call
    return call if call.operator._schema.name == "aten::convolution" else None


def _result(call: OperatorCall) -> Any:
    return call.result[0] if isinstance(call.result, tuple | list) else call.result


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
        # the normalization's result is now the convolution's
        found.clean[convolved.result] = found.clean[normalized.result]
        _rename(found, normalized.result, convolved.result)
        after.actions, after.work, after.dense = [], Work(), _same


def _normalization(step: Step, source: int | None) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a step that normalizes this value with fixed statistics, else None."""
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
