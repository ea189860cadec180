"""Runs a model on many variants of an image that each differ from it in one box."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from explainkit.graph.incremental.cost import TRACING, Work
from explainkit.graph.incremental.layouts import ordered_like, to_layout
from explainkit.graph.incremental.operators import Elementwise, Mean
from explainkit.graph.incremental.program import Action, Place, Program, program
from explainkit.graph.incremental.regions import Boxes, Clean, Local, Span
from explainkit.graph.trace import How, TracedModel, trace

CHUNK = 20 * 2**20
"""Largest size in bytes of a map of a chunk of variants, so that it stays close to the cache."""

MOST = 256
"""Largest number of variants per chunk."""

NO_GAIN = "boxes save no time"


@dataclass(frozen=True, eq=False)
class BoxPlan:
    """How many steps run on boxes before whole maps take over.

    Attributes:
        boxes: Where each value changes, by key.
        local: Number of steps that run on boxes; the rest run on whole maps.
        needed: Keys of the values that whole maps start from.
        seconds: Estimated time per variant.
        dense: Estimated time per variant if all steps ran on whole maps.
        chunk: Variants run at once.
        tracing: Estimated time to trace the model, for all variants together.
    """

    boxes: dict[int, Boxes]
    local: int
    needed: frozenset[int]
    seconds: float
    dense: float
    chunk: int
    tracing: float = 0.0

    @property
    def saves(self) -> bool:
        """Whether boxes are estimated to save more than the time to trace the model."""
        return len(self.boxes[0]) * (self.dense - self.seconds) > self.tracing


def make_plan(network: Program, boxes: Boxes, most: int = MOST) -> BoxPlan:
    """Follows boxes through a network and finds the step from which whole maps are cheaper."""
    count = len(boxes)
    found = {network.image: boxes}
    costs: list[Work] = []
    for step in network.steps:
        if not step.is_local:
            break
        cost = Work()
        for action in step.actions:
            sources = [found[source] for source in action.sources]
            result = network.clean[action.result]
            if isinstance(action.operator, Mean):
                cost = cost + action.operator.work(sources[0], result.shape[1])
            else:
                size = (result.shape[2], result.shape[3])
                found[action.result] = action.operator.reach(sources, size)
                cost = cost + action.operator.work(sources, found[action.result])
        costs.append(cost)
    chunk = min(count, most)
    dense = [step.work.seconds(chunk) for step in network.steps]
    local = [work.seconds(chunk) for work in costs]
    lives = _lives(network)
    opened = {key: _opening(network, found, key).seconds(chunk) for key in lives}
    totals = [
        sum(local[:k]) + sum(opened[key] for key in _frontier(lives, k)) + sum(dense[k:])
        for k in range(len(costs) + 1)
    ]
    best = min(range(len(totals)), key=totals.__getitem__)
    frontier = _frontier(lives, best)
    chunk = _chunk(network, found, best, most)
    # a trace runs the model twice
    tracing = TRACING * len(network.steps) + 2 * totals[0]
    return BoxPlan(found, best, frontier, totals[best], totals[0], chunk, tracing)


def _lives(network: Program) -> dict[int, tuple[int, int]]:
    """For each key the number of the first step that has it, and of the last that reads it."""
    number = {step.node: i for i, step in enumerate(network.steps)}
    number[network.traced.output] = len(network.steps)
    found: dict[int, tuple[int, int]] = {}
    made = [(network.traced.image, [network.image]), *((s.node, s.keys) for s in network.steps)]
    for i, (node, keys) in enumerate(made, -1):
        last = max((number[user] for user in node.users if user in number), default=-1)
        for key in keys:
            first, later = found.get(key, (i, -1))
            found[key] = first, max(last, later)
    return found


def _frontier(lives: dict[int, tuple[int, int]], local: int) -> frozenset[int]:
    """Keys of the values of the first steps that later steps, or the output, use."""
    return frozenset(key for key, (first, last) in lives.items() if first < local <= last)


def _opening(network: Program, boxes: dict[int, Boxes], key: int) -> Work:
    """The work to convert a variant from its box to a whole map."""
    if key not in boxes:
        return Work()
    value = network.clean[key]
    channels, area = value.shape[1], boxes[key].area
    return Work(0, 4 * (2 * value.numel() + 2 * channels * area), area, 16)


def _chunk(network: Program, boxes: dict[int, Boxes], local: int, most: int) -> int:
    """The chunk size that keeps the largest map within `CHUNK`, for chunks of nearly equal size."""
    followed = {a.result for s in network.steps[:local] for a in s.actions} | {network.image}
    sizes = [network.clean[key].shape[1] * boxes[key].area for key in followed if key in boxes]
    sizes += [step.largest for step in network.steps[local:]]
    most = max(1, min(most, CHUNK // (4 * max(sizes))))
    count = len(boxes[network.image])
    return -(-count // -(-count // most))


class Variants:
    """Runs a model on variants of an image in which a box is replaced.

    The run of the unchanged image is stored. A variant is run on the boxes that its change affects,
    and on whole maps from the step at which a cost model estimates that they are cheaper. Results
    differ from full runs by rounding only.

    Args:
        model: Any module, in eval mode.
        image: ``[channel, height, width]``.
        most: Largest number of variants that the model runs at once.

    Attributes:
        plan: The plan of the last `run`.

    References:
        Nakandala, Kumar and Papakonstantinou (2019), "Incremental and Approximate Inference for
        Faster Occlusion-based Deep CNN Explanations", SIGMOD, DOI 10.1145/3299869.3319874.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> variants = Variants(net.eval(), torch.rand(1, 8, 8))
        >>> corners = torch.tensor([[0, 0], [3, 5]])
        >>> variants.run(corners, torch.zeros(2, 1, 2, 3)).shape
        torch.Size([2, 2])
    """

    def __init__(self, model: nn.Module, image: Tensor, most: int = MOST) -> None:
        self.image = image.detach()
        self.plan: BoxPlan | None = None
        self._most = most
        self._traced = trace(model, self.image[None], keep=True)
        self._network: Program | None = None
        if self.how != "hooks":
            try:
                with torch.no_grad():
                    self._network = program(self._traced)
            except Exception as error:  # noqa: BLE001 - whatever fails, full runs are correct
                self._traced.refuse(error)

    @property
    def how(self) -> How:
        """How the model was traced; ``"hooks"``: it can't be, and every run is a full one."""
        return self._traced.how

    @property
    def refusal(self) -> str:
        """Why every run is a full one; empty if it is not."""
        return "; ".join(self._traced.reasons) if self.how == "hooks" else ""

    def decide(self, corners: Tensor, size: tuple[int, int]) -> str:
        """Whether boxes are used: they save time, and two variants have the outputs of full runs.

        Args:
            corners: Top and left of each box, int64 ``[n, 2]``; the first and the last are run.
            size: Height and width of the boxes.

        Returns:
            Why they are not; empty if they are. If outputs differ, every later run is a full one.
        """
        if self._network is None:
            return self.refusal
        try:
            plan = make_plan(self._network, self._boxes(corners, size), self._most)
            if not plan.saves:
                return NO_GAIN
            part = torch.tensor([0, len(corners) - 1], device=self.image.device)[: plan.chunk]
            boxes = plan.boxes[self._network.image][part]
            with torch.no_grad():
                patches = 1 - self._clean().read(boxes)
                found = self._run(self._network, plan, part, patches)
                expected = self._full(boxes, patches)
            self._traced.compare(pytree.tree_leaves(found), pytree.tree_leaves(expected))
        except Exception as error:  # noqa: BLE001 - whatever fails, full runs are correct
            self._traced.refuse(error)
            self._network = None
        return self.refusal

    def run(self, corners: Tensor, patches: Tensor) -> Any:
        """The model's output for each variant: the image with one patch pasted in.

        Args:
            corners: Top and left of each patch, int64 ``[n, 2]``; patches lie within the image.
            patches: ``[n, channel, height, width]``.

        Returns:
            The model's own output structure, for ``n`` images, without gradients.
        """
        boxes = self._boxes(corners, (patches.shape[2], patches.shape[3]))
        with torch.no_grad():
            if self._network is None:
                parts = [
                    self._full(boxes[part], patches[part])
                    for part in _parts(len(boxes), min(self._most, 16))
                ]
            else:
                self.plan = make_plan(self._network, boxes, self._most)
                parts = [
                    self._run(self._network, self.plan, part, patches[part])
                    for part in _parts(len(boxes), self.plan.chunk)
                ]
        return pytree.tree_map(_joined, *parts) if len(parts) > 1 else parts[0]

    def _boxes(self, corners: Tensor, size: tuple[int, int]) -> Boxes:
        corners = corners.to(self.image.device)
        return Boxes(Span(corners[:, 0], size[0]), Span(corners[:, 1], size[1]))

    def _clean(self) -> Clean:
        return self._network.map(0) if self._network is not None else Clean(self.image[None])

    def _full(self, boxes: Boxes, patches: Tensor) -> Any:
        images = Local(self._clean(), boxes, patches).whole()
        # the channels are last in memory, which a model's views may not allow
        return self._traced.model(images.contiguous())

    def _run(self, network: Program, plan: BoxPlan, part: slice | Tensor, patches: Tensor) -> Any:
        values: dict[int, Local | Tensor] = {
            network.image: Local(self._clean(), plan.boxes[network.image][part], patches)
        }
        actions = [action for step in network.steps[: plan.local] for action in step.actions]
        last = {source: i for i, action in enumerate(actions) for source in action.sources}
        for i, action in enumerate(actions):
            finished = {s for s in action.sources if last[s] == i and s not in plan.needed}
            sources = [values[source] for source in action.sources]
            for source in finished:
                del values[source]
            first = action.sources[0]
            # the patches belong to the caller
            overwrite = first in finished and first != network.image
            values[action.result] = _applied(network, plan, part, action, sources, overwrite)
        return _finished(network, plan, values, len(patches))


def _applied(
    network: Program,
    plan: BoxPlan,
    part: slice | Tensor,
    action: Action,
    sources: Sequence[Any],
    overwrite: bool,
) -> Local | Tensor:
    """The result of one operator on boxes."""
    if isinstance(action.operator, Mean):
        return action.operator.run(sources[0])
    boxes = plan.boxes[action.result][part]
    if isinstance(action.operator, Elementwise):
        data = action.operator.run(sources, boxes, overwrite=overwrite)
    else:
        data = action.operator.run(sources, boxes)
    return Local(network.map(action.result), boxes, data)


def _finished(
    network: Program, plan: BoxPlan, values: dict[int, Local | Tensor], count: int
) -> Any:
    """Runs the remaining steps on whole maps, for ``count`` variants."""
    traced = network.traced
    steps = {step.node: step for step in network.steps}
    followed = {step.node: step.value for step in network.steps[: plan.local]}
    followed[traced.image] = Place(network.image)

    def variants(place: Place) -> Tensor:
        value = values[place.key]
        return to_layout(value.whole() if isinstance(value, Local) else value, place.layout)

    def shaped(place: Place) -> Tensor:
        clean = network.clean[place.key]
        return to_layout(clean.expand(count, *clean.shape[1:]), place.layout)

    known: dict[fx.Node, Any] = {}
    run, sizes = {traced.output}, set[fx.Node]()
    for node in reversed(traced.nodes):
        if node not in run | sizes:
            continue
        if node in followed:
            # of some only the shape is needed
            known[node] = pytree.tree_map(variants if node in run else shaped, followed[node])
        else:
            run.add(node)
            varies = node is traced.output or node in steps
            (run if varies else sizes).update(node.all_input_nodes)
    if traced.writes and traced.image in known:
        known[traced.image] = known[traced.image].clone()
    ordered = [node for node in traced.nodes if node in run and node not in known]
    values.clear()
    uses = Counter(source for node in ordered for source in node.all_input_nodes)
    for node in ordered:
        step = steps.get(node)
        if step is not None and step.dense is not None:
            known[node] = step.dense(known[step.source])
        elif step is not None and step.strict:
            given = {source: _ordered(traced, source, known) for source in node.all_input_nodes}
            known[node] = traced.execute(node, given)
        else:
            known[node] = traced.execute(node, known)
        for source in node.all_input_nodes:
            uses[source] -= 1
            if not uses[source]:
                del known[source]
    return traced.structured(known[traced.output])


def _ordered(traced: TracedModel, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """A node's value, with its memory ordered as in the model's own run."""

    def ordered(value: Any, example: Any) -> Any:
        return ordered_like(value, example) if isinstance(value, Tensor) else value

    return pytree.tree_map(ordered, known[node], traced.values[node])


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _joined(first: Any, *rest: Any) -> Any:
    return torch.cat([first, *rest]) if isinstance(first, Tensor) else first
