"""A traced model as steps, each with what it needs to run on boxes where it can."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.operators import (
    Mean,
    Operator,
    arguments_of,
    convolution,
    dense_work,
    operator,
    pair,
    scale_and_shift,
)
from explainkit.graph.incremental.regions import Clean
from explainkit.graph.trace import Call, Traced, holds_tensor


@dataclass(eq=False)
class Action:
    """One operator of a step.

    Attributes:
        operator: Runs it on boxes; None: it has no rule.
        sources: Keys of the values that change among its arguments.
        result: Key of what it gives.
    """

    operator: Operator | Mean | None
    sources: list[int]
    result: int


@dataclass(eq=False)
class Step:
    """One node of the traced model that depends on the image.

    Attributes:
        node: The node.
        actions: What it does, one operator after the other; empty where it passes a value on.
        work: What it costs to run it on the whole map of one variant.
        source: The first node it reads of those that depend on the image.
        key: Of its value; None: the value is no tensor that steps can follow.
        dense: Runs the node on its one whole map, faster than the node itself would.
    """

    node: fx.Node
    source: fx.Node
    actions: list[Action]
    work: Work
    key: int | None
    dense: Callable[..., Tensor] | None = None

    @property
    def is_local(self) -> bool:
        """Whether it can run on boxes."""
        known = all(action.operator is not None for action in self.actions)
        return known and self.key is not None


@dataclass(eq=False)
class Program:
    """The steps of a model between an image and its output.

    Attributes:
        traced: The model, with the values that the image as it is gives.
        steps: In the order in which they run.
        clean: For each key the value that the image as it is gives.
        image: Key of the image.
    """

    traced: Traced
    steps: list[Step] = field(default_factory=list)
    clean: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Clean] = field(default_factory=dict)
    image: int = 0

    def map(self, key: int) -> Clean:
        """A value ``[1, channel, height, width]``, ready to be looked up."""
        if key not in self.maps:
            self.maps[key] = Clean(self.clean[key])
        return self.maps[key]


def program(traced: Traced) -> Program:
    """Reads the operators that a traced model ran on one image; normalisations are folded."""
    found = Program(traced)
    # a value is known by its tensor: operators in place keep what they overwrote
    keys: dict[int, int] = {id(traced.values[traced.image]): 0}
    found.clean[0] = traced.values[traced.image]
    per_image = traced.dependent([traced.image])
    for node in traced.nodes:
        # sizes are counted when they are needed
        inner = node in per_image and node not in (traced.image, traced.output)
        if inner and holds_tensor(traced.values[node]):
            source = next(n for n in node.all_input_nodes if n in per_image)
            found.steps.append(_step(found, node, source, keys))
    _fold(found)
    return found


def _step(found: Program, node: fx.Node, source: fx.Node, keys: dict[int, int]) -> Step:
    actions: list[Action] = []
    work = Work()
    for call in found.traced.calls[node]:
        changing = [t for t in _tensors(call) if id(t) in keys]
        if not changing:
            continue
        sources = [keys[id(t)] for t in changing]
        result = _result(call)
        if not isinstance(result, Tensor):
            actions.append(Action(None, sources, -1))
            continue
        work = work + dense_work(call, changing, result)
        if call.operator._schema.name in _PASSING:
            keys[id(result)] = sources[0]
            continue
        made = len(found.clean)
        keys[id(result)], found.clean[made] = made, result
        actions.append(Action(operator(call, changing), sources, made))
    value = found.traced.values[node]
    key = keys.get(id(value)) if isinstance(value, Tensor) else None
    step = Step(node, source, actions, work, key)
    own = _convolution_of(found, step)
    if own is not None:
        step.dense = _whole(arguments_of(own))
    return step


_PASSING = {"aten::clone", "aten::detach", "aten::alias", "aten::lift_fresh"}


def _tensors(call: Call) -> list[Tensor]:
    """The tensors among a call's arguments, those in lists included."""
    found: list[Tensor] = []
    for value in (*call.arguments, *call.options.values()):
        several = value if isinstance(value, tuple | list) else (value,)
        found += [v for v in several if isinstance(v, Tensor)]
    return found


def _convolution_of(found: Program, step: Step) -> Call | None:
    """The call of a step that is one convolution and nothing else."""
    if not step.is_local or len(step.actions) != 1 or len(step.actions[0].sources) != 1:
        return None
    result = found.clean[step.actions[0].result]
    (call,) = (c for c in found.traced.calls[step.node] if _result(c) is result)
    return call if call.operator._schema.name == "aten::convolution" else None


def _result(call: Call) -> Any:
    return call.result[0] if isinstance(call.result, tuple | list) else call.result


def _whole(arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """A convolution of whole maps."""
    apply = convolution(arguments["weight"], arguments["bias"], arguments)
    padding = pair(arguments["padding"])
    return lambda images: apply(images, padding)


def _fold(found: Program) -> None:
    """Takes a normalisation by fixed statistics into the convolution before it."""
    by_node = {step.node: step for step in found.steps}
    for step in found.steps:
        call = _convolution_of(found, step)
        after = by_node.get(next(iter(step.node.users)))
        if call is None or after is None or len(step.node.users) != 1:
            continue
        factors = _normalisation(found, after, step.key)
        if factors is None:
            continue
        scale, shift = factors
        a = arguments_of(call)
        a["weight"] = a["weight"] * scale[:, None, None, None]
        a["bias"] = shift if a["bias"] is None else a["bias"] * scale + shift
        (convolved,), (normalised,) = step.actions, after.actions
        convolved.operator = operator(Call(call.operator, (), a, call.result), [a["input"]])
        step.dense = _whole(a)
        # what the normalisation gave is now what the convolution gives
        found.clean[convolved.result] = found.clean[normalised.result]
        _rename(found, normalised.result, convolved.result)
        after.actions, after.work, after.dense = [], Work(), _same


def _normalisation(found: Program, step: Step, source: int | None) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a step that normalises this value by fixed statistics."""
    if len(step.actions) != 1 or step.actions[0].sources != [source]:
        return None
    result = found.clean[step.actions[0].result]
    (call,) = (c for c in found.traced.calls[step.node] if _result(c) is result)
    batch_norm = "batch_norm" in call.operator._schema.name
    return scale_and_shift(arguments_of(call)) if batch_norm else None


def _rename(found: Program, key: int, new: int) -> None:
    for step in found.steps:
        step.key = new if step.key == key else step.key
        for action in step.actions:
            action.sources = [new if source == key else source for source in action.sources]


def _same(value: Tensor) -> Tensor:
    return value
