"""Runs a model on many variants of an image that each differ from it in one box."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from explainkit.graph.incremental.cost import Work
from explainkit.graph.incremental.layouts import to_layout
from explainkit.graph.incremental.operators import Elementwise, Mean
from explainkit.graph.incremental.program import Action, Program, program
from explainkit.graph.incremental.regions import Boxes, Clean, Local, Span
from explainkit.graph.trace import holds_tensor, trace

CHUNK = 20 * 2**20
"""Largest size in bytes of a map of a chunk of variants, so that it stays close to the cache."""

MOST = 256
"""Largest number of variants per chunk."""


@dataclass(frozen=True, eq=False)
class BoxPlan:
    """How many steps run on boxes before whole maps take over.

    Attributes:
        boxes: Where each value changes, by key.
        local: Number of steps that run on boxes; the rest run on whole maps.
        seconds: Estimated time per variant.
        dense: Estimated time per variant if all steps ran on whole maps.
        chunk: Variants run at once.
    """

    boxes: dict[int, Boxes]
    local: int
    seconds: float
    dense: float
    chunk: int


def make_plan(network: Program, boxes: Boxes) -> BoxPlan:
    """Follows boxes through a network and finds the step from which whole maps are cheaper."""
    count = len(boxes)
    found = {network.image: boxes}
    whole: set[int] = set()
    costs: list[Work] = []
    for step in network.steps:
        if not step.is_local or any(s in whole for a in step.actions for s in a.sources):
            break
        cost = Work()
        for action in step.actions:
            sources = [found[source] for source in action.sources]
            result = network.clean[action.result]
            if isinstance(action.operator, Mean):
                whole.add(action.result)
                cost = cost + action.operator.work(sources[0], result.shape[1])
            elif action.operator is not None:
                size = (result.shape[2], result.shape[3])
                found[action.result] = action.operator.reach(sources, size)
                cost = cost + action.operator.work(sources, found[action.result])
        costs.append(cost)
    chunk = min(count, MOST)
    dense = [step.work.seconds(chunk) for step in network.steps]
    local = [work.seconds(chunk) for work in costs]
    totals = []
    for k in range(len(costs) + 1):
        opened = sum((_opening(network, found, key) for key in _frontier(network, k)), Work())
        totals.append(sum(local[:k]) + opened.seconds(chunk) + sum(dense[k:]))
    best = min(range(len(totals)), key=totals.__getitem__)
    return BoxPlan(found, best, totals[best], totals[0], _chunk(network, found, best, count))


def _frontier(network: Program, local: int) -> set[int]:
    """Keys of the values of the first steps that later steps, or the output, use."""
    made = {network.image} | {a.result for s in network.steps[:local] for a in s.actions}
    used = {source for s in network.steps[local:] for a in s.actions for source in a.sources}
    ends = network.traced.output.all_input_nodes
    used |= {step.key for step in network.steps if step.node in ends and step.key is not None}
    return made & (used | {network.image} if network.traced.image in ends else used)


def _opening(network: Program, boxes: dict[int, Boxes], key: int) -> Work:
    """The work to convert a variant from its box to a whole map."""
    if key not in boxes:
        return Work()
    value = network.clean[key]
    channels, area = value.shape[1], boxes[key].area
    return Work(0, 4 * (2 * value.numel() + 2 * channels * area), area, 16)


def _chunk(network: Program, boxes: dict[int, Boxes], local: int, count: int) -> int:
    """The chunk size that keeps the largest map within `CHUNK`, for chunks of nearly equal size."""
    followed = {a.result for s in network.steps[:local] for a in s.actions} | {network.image}
    sizes = [network.clean[key].shape[1] * boxes[key].area for key in followed if key in boxes]
    sizes += [
        network.clean[a.result].numel()
        for s in network.steps[local:]
        for a in s.actions
        if a.result >= 0
    ]
    most = max(1, min(MOST, CHUNK // (4 * max(sizes))))
    return -(-count // -(-count // most))


class Variants:
    """Runs a model on variants of an image in which a box is replaced.

    The run of the unchanged image is stored. A variant is run on the boxes that its change affects,
    and on whole maps from the step at which a cost model estimates that they are cheaper. Results
    differ from full runs by rounding only.

    Args:
        model: Any module, in eval mode.
        image: ``[channel, height, width]``.

    Attributes:
        how: How the model was traced; ``"hooks"``: it can't be, and every run is a full one.
        reasons: Why other ways of tracing failed.
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

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        self.image = image.detach()
        traced = trace(model, self.image[None], keep=True)
        self.how, self.reasons = traced.how, traced.reasons
        self.plan: BoxPlan | None = None
        self._model = traced.model
        with torch.no_grad():
            self._network = program(traced) if traced.how != "hooks" else None

    def run(self, corners: Tensor, patches: Tensor) -> Any:
        """The model's output for each variant: the image with one patch pasted in.

        Args:
            corners: Top and left of each patch, int64 ``[n, 2]``; patches lie within the image.
            patches: ``[n, channel, height, width]``.

        Returns:
            The model's own output structure, for ``n`` images, without gradients.
        """
        height, width = patches.shape[2:]
        corners = corners.to(self.image.device)
        boxes = Boxes(Span(corners[:, 0], height), Span(corners[:, 1], width))
        with torch.no_grad():
            if self._network is None:
                parts = [
                    self._model(Local(self._clean(), boxes[part], patches[part]).whole())
                    for part in _parts(len(boxes), 16)
                ]
            else:
                self.plan = make_plan(self._network, boxes)
                parts = [
                    self._run(self._network, self.plan, part, patches[part])
                    for part in _parts(len(boxes), self.plan.chunk)
                ]
        return pytree.tree_map(_joined, *parts) if len(parts) > 1 else parts[0]

    def _clean(self) -> Clean:
        return self._network.map(0) if self._network is not None else Clean(self.image[None])

    def _run(self, network: Program, plan: BoxPlan, part: slice, patches: Tensor) -> Any:
        values: dict[int, Local | Tensor] = {
            network.image: Local(self._clean(), plan.boxes[network.image][part], patches)
        }
        needed = _frontier(network, plan.local)
        actions = [action for step in network.steps[: plan.local] for action in step.actions]
        last = {source: i for i, action in enumerate(actions) for source in action.sources}
        for i, action in enumerate(actions):
            finished = {s for s in action.sources if last[s] == i and s not in needed}
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
    part: slice,
    action: Action,
    sources: Sequence[Any],
    overwrite: bool,
) -> Local | Tensor:
    """The result of one operator on boxes."""
    assert action.operator is not None
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
    keys: dict[fx.Node, int | None] = {step.node: step.key for step in network.steps[: plan.local]}
    keys[traced.image] = network.image
    layouts = {step.node: step.layout for step in network.steps}
    known: dict[fx.Node, Any] = {}
    run, sizes = {traced.output}, set[fx.Node]()
    for node in reversed(traced.nodes):
        key = keys.get(node)
        if node in run | sizes and key is None:
            run.add(node)
            of_values = node is traced.output or holds_tensor(traced.values[node])
            (run if of_values else sizes).update(node.all_input_nodes)
        elif node in run and key is not None:
            value = values[key]
            whole = value.whole() if isinstance(value, Local) else value
            known[node] = to_layout(whole, layouts.get(node, "first"))
        elif node in sizes and key is not None:
            # only its shape is needed
            whole = network.clean[key].expand(count, *network.clean[key].shape[1:])
            known[node] = to_layout(whole, layouts.get(node, "first"))
    if traced.writes and traced.image in known:
        known[traced.image] = known[traced.image].clone()
    dense = {step.node: step.dense for step in network.steps[plan.local :] if step.dense}
    sources = {step.node: step.source for step in network.steps}
    ordered = [node for node in traced.nodes if node in run and node not in known]
    values.clear()
    uses = Counter(source for node in ordered for source in node.all_input_nodes)
    for node in ordered:
        fast = dense.get(node)
        known[node] = fast(known[sources[node]]) if fast else traced.execute(node, known)
        for source in node.all_input_nodes:
            uses[source] -= 1
            if not uses[source]:
                del known[source]
    return traced.structured(known[traced.output])


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _joined(first: Any, *rest: Any) -> Any:
    return torch.cat([first, *rest]) if isinstance(first, Tensor) else first
