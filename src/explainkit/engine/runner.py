"""Runs methods on a model, in chunks of one size and with shared passes."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.checks import Outcome, all_finite, joined, listed, outcome_of
from explainkit.engine.failures import (
    failing_as_model_error,
    naming_missing_gradients,
    out_of_memory,
)
from explainkit.engine.inner_layer import InnerLayer
from explainkit.engine.model import Forward, Run, ScoreModel, shapes_of_one
from explainkit.engine.passes import Needs, needs_of, twice_differentiable
from explainkit.engine.precision import compared
from explainkit.engine.targets import Score, group_targets, resolve_target
from explainkit.errors import MethodError, ModelError
from explainkit.graph.suffix import suffix
from explainkit.graph.tape import recording, refuse_scripted
from explainkit.interfaces import Method, Target
from explainkit.layers import Members, capture, single
from explainkit.methods.contract import explains_volumes, for_images, looks_at_layers
from explainkit.scores import Outputs


def run_all(
    methods: Sequence[Method],
    module: nn.Module,
    images: Tensor,
    targets: Sequence[Target],
    outputs: Outputs,
    batch_size: int | None,
    at: Sequence[str] | None = None,
    precision: torch.dtype | None = None,
    members: Members | None = None,
) -> list[list[tuple[Outcome, Score]]]:
    """Runs methods on targets of every kind; shares passes between them where possible.

    Args:
        methods: Ready to be called.
        module: The caller's model.
        images: ``[batch, channel, height, width]``, or volumes with a depth before the height.
        targets: Of any kind, ``"all"`` among them.
        outputs: What the model's outputs mean.
        batch_size: Images run at once; None: chosen.
        at: The layers whose outputs are explained instead of the images.
        precision: Of the methods' forwards; None: the model's own.
        members: Of the model, if they are known.

    Returns:
        For each method, the outcome of each target, at each of several layers, with its expression
        or function; None: a class.

    Raises:
        MethodError: A method does not explain volumes.
    """
    if at is None:
        _check_volumes(methods, images)
    found: list[list[tuple[Outcome, Score]]] = [[] for _ in methods]
    for score, wanted in group_targets(targets):
        scorer = ScoreModel(
            module, score, batch_size, outputs, precision=precision, members=members
        )
        every: list[Target] = []
        for target in wanted:
            if isinstance(target, str) and target == "all":
                with failing_as_model_error(module, images), torch.no_grad():
                    every += range(scorer(images[:1]).shape[1])
            else:
                every.append(target)
        if at is None:
            per_method = run(methods, scorer, images, every)
            if precision is not None:
                per_method = compared(per_method, _first(methods, scorer, images, every))
        else:
            layers = [run_at(layer, methods, scorer, images, every) for layer in at]
            per_method = [outcome for same in zip(*layers, strict=True) for outcome in same]
        each = len(per_method) // len(methods)
        for i in range(len(methods)):
            block = per_method[i * each : (i + 1) * each]
            found[i] += [(outcome, score) for outcome in block]
    return found


def _check_volumes(methods: Sequence[Method], images: Tensor) -> None:
    refused = [type(one).__name__ for one in methods if not explains_volumes(one)]
    if images.dim() > 4 and refused:
        raise MethodError(
            f"{refused[0]}: expected images [batch, channel, height, width], got volumes "
            f"{list(images.shape)}, which it does not explain: use a gradient, path, propagation "
            "or class activation method, or occlusion"
        )


def _first(
    methods: Sequence[Method], scorer: ScoreModel, images: Tensor, targets: Sequence[Target]
) -> list[Outcome]:
    """What `run` finds for the first image in the model's own precision."""
    shapes = shapes_of_one(scorer, images)
    own = [for_images(method, [0], len(images), shapes) for method in methods]
    chosen = [t[:1] if isinstance(t, Tensor) and t.dim() else t for t in targets]
    return run(own, scorer.precise(), images[:1], chosen)


def run_at(
    layer: str,
    methods: Sequence[Method],
    scorer: ScoreModel,
    images: Tensor,
    targets: Sequence[Target],
) -> list[Outcome]:
    """Runs methods on the model from a layer on, with the layer's output in place of the image.

    If the rest of the model also depends on the images by other paths, it runs one image at a time,
    so that each evaluation belongs to a known image.

    Returns:
        As `run`; the maps have the layer's shape.

    Raises:
        ModelError: No such layer, or its output has no batch axis.
        MethodError: A method uses a layer itself.
    """
    for method in methods:
        if looks_at_layers(method):
            raise MethodError(
                f"{type(method).__name__} uses a layer of the whole model, but at= explains a "
                "layer's output: omit at="
            )
    with failing_as_model_error(scorer.module, images):
        inner = InnerLayer(suffix(scorer.module, layer, images), images[:1])
    if inner.part.self_contained:
        return _run_inner(scorer.after(inner), methods, images, targets)
    shapes = [inner.image_shape, inner.shape]
    parts = []
    for i in range(len(images)):
        chosen = [t[i : i + 1] if isinstance(t, Tensor) and t.dim() else t for t in targets]
        own = [for_images(method, [i], len(images), shapes) for method in methods]
        alone = scorer.after(inner)
        alone.batch_size = None
        parts.append(_run_inner(alone, own, images[i : i + 1], chosen))
    return [joined(list(found)) for found in zip(*parts, strict=True)]


def _run_inner(
    after: ScoreModel,
    methods: Sequence[Method],
    images: Tensor,
    targets: Sequence[Target],
) -> list[Outcome]:
    """Runs methods on a layer's output for images; the model is the one from the layer on."""
    inner = after.module
    assert isinstance(inner, InnerLayer)
    with failing_as_model_error(after.owner, images), torch.no_grad():
        size = chunk_size(after.owner, images[0]) if len(images) > 1 else 1
        values = in_chunks(lambda rows: inner.part.value(images[rows]), len(images), size)
    outcomes = []
    for found in run(methods, after, inner.present(values), targets):
        error = None if found.standard_error is None else inner.as_layer(found.standard_error)
        maps = inner.as_layer(found.values)
        outcomes.append(replace(found, values=maps, standard_error=error, at=inner.part.layer))
    return outcomes


def run(
    methods: Sequence[Method],
    scorer: ScoreModel,
    images: Tensor,
    targets: Sequence[Target],
) -> list[Outcome]:
    """Runs methods in chunks of one size, the last one padded; halves it when memory runs out.

    The methods share one forward per chunk, and everything else that they declare as needed.

    Returns:
        For each method, in order, the outcome of each target.

    Raises:
        ModelError: The model fails on the images, or its output is not finite.
        TargetError: A target does not exist in the output.
        MethodError: A method's map has the wrong shape or is not finite.
    """
    count = len(images)
    size = scorer.batch_size or _balanced(scorer, images)
    while True:
        try:
            with naming_missing_gradients(scorer.owner):
                chunks = [
                    _run_chunk(methods, scorer, images, targets, start, size)
                    for start in range(0, count, size)
                ]
            return [joined(list(parts)) for parts in zip(*chunks, strict=True)]
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        finally:
            scorer.hold(None)
        size = size // 2
        scorer.batch_size = size


def _balanced(scorer: ScoreModel, images: Tensor) -> int:
    """The smallest chunk size that needs as few chunks as the largest that fits the budget."""
    count = len(images)
    if count == 1:
        return 1
    with failing_as_model_error(scorer.module, images):
        most = chunk_size(scorer, images[0])
    return -(-count // -(-count // most))


def _run_chunk(
    methods: Sequence[Method],
    scorer: ScoreModel,
    images: Tensor,
    targets: Sequence[Target],
    start: int,
    size: int,
) -> list[Outcome]:
    count = min(size, len(images) - start)
    inputs = _padded(images, start, size).requires_grad_()
    scorer.shared = len(methods) * len(targets) > 1
    with failing_as_model_error(scorer.module, images):
        needs = [needs_of(method, scorer, inputs) for method in methods]
        forward, run = _forward(scorer, inputs, needs)
    boxes, run = scorer.boxes(run), run._replace(scope=None)  # the scope holds the graph
    scores, logits = run.scores, run.logits
    if not all_finite(logits):
        raise ModelError(
            "expected finite outputs from the model, got NaN or infinity for "
            f"{listed(~torch.isfinite(logits[:count]).all(1))} on finite inputs: check its "
            "weights and its dtype"
        )
    resolved = []
    for target in targets:
        if isinstance(target, Tensor) and target.dim():
            target = _padded(target, start, size)
        resolved.append(resolve_target(target, scores, scorer.outputs))
    rows = [min(row, len(images) - 1) for row in range(start, start + size)]
    shapes = shapes_of_one(scorer, images)
    outcomes = []
    for method in methods:
        method = for_images(method, rows, len(images), shapes)
        for chosen in resolved:
            scorer.hold(forward)
            result = method(scorer, inputs, chosen)
            outcomes.append(outcome_of(result, inputs, chosen, run, boxes, count, scorer.outputs))
    return outcomes


def _forward(scorer: ScoreModel, inputs: Tensor, each: list[Needs]) -> tuple[Forward, Run]:
    """The forward of a chunk, with everything recorded that each method needs."""
    needs = reduce(or_, each, Needs())
    from_layers = all(need.only_layers for need in each)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(not scorer.members.is_inference))
        calls = stack.enter_context(
            capture(scorer.owner, needs.layers, count=len(inputs), leaves=from_layers)
        )
        if needs.twice:
            stack.enter_context(twice_differentiable())
        tape = None
        if needs.values is not None:
            refuse_scripted(scorer.owner)
            tape = stack.enter_context(recording(needs.values))
        run = scorer.run(inputs.detach() if from_layers else inputs)
    activations = {path: single(calls[path], path) for path in needs.layers}
    records = tape.records if tape else None
    return Forward(inputs, run.scores, needs, from_layers, activations, records), run


def _padded(tensor: Tensor, start: int, size: int) -> Tensor:
    """A private copy of ``size`` rows; past the end, the last row is repeated."""
    rows = tensor[start : start + size]
    missing = size - len(rows)
    if missing:
        rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
    return rows.clone()
