"""Passes shared by methods: each declares what it needs, and the engine computes it once."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from explainkit.engine.model import Forward, ScoreModel, unwrapped
from explainkit.errors import ModelError
from explainkit.graph.tape import RecordedForward, record
from explainkit.layers import capture, single


@dataclass(frozen=True)
class Needs:
    """What a method needs from the forward and the backward pass.

    A method with a function ``needs(model, inputs) -> Needs`` (with what it is called with) gets
    what it declares from passes that are shared by all methods of one call. The function is
    optional.

    Attributes:
        layers: Layers whose outputs it takes from `activations`, or with their gradients from
            `gradients`.
        image: Whether it takes the image's gradient from `gradients`.
        values: Operators whose values it takes from `recorded_forward`; None: it records nothing.
        twice: Whether it differentiates the graph of `scored` twice.
    """

    layers: tuple[str, ...] = ()
    image: bool = False
    values: frozenset[str] | None = None
    twice: bool = False

    @property
    def only_layers(self) -> bool:
        """Whether the graph may begin at the layers, which saves that of what is before them."""
        return bool(self.layers) and not self.image and self.values is None and not self.twice

    def __or__(self, other: "Needs") -> "Needs":
        traces = [need.values for need in (self, other) if need.values is not None]
        return Needs(
            tuple(dict.fromkeys(self.layers + other.layers)),
            self.image or other.image,
            reduce(frozenset.union, traces) if traces else None,
            self.twice or other.twice,
        )


def needs_of(method: Any, model: nn.Module, inputs: Tensor) -> Needs:
    """What a method declares; empty if it declares nothing."""
    declare = getattr(method, "needs", None)
    return declare(model, inputs) if declare else Needs()


@dataclass(frozen=True, eq=False)
class ScoreGradients:
    """Gradients of one score per image.

    Attributes:
        scores: ``[batch]``, detached.
        image: ``∂ score / ∂ image``, ``[batch, channel, height, width]``; None if not asked for.
        activations: Output of each layer, ``[batch, …]``, detached.
        layers: ``∂ score / ∂ output`` of each layer, of the same shape.
    """

    scores: Tensor
    image: Tensor | None
    activations: Mapping[str, Tensor]
    layers: Mapping[str, Tensor]


def twice_differentiable() -> AbstractContextManager[None]:
    """Runs attention unfused, since the fused operators have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def scored(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str] = (),
    *,
    image: bool = False,
    twice: bool = False,
) -> Forward:
    """Scores and layer outputs, attached to the graph, from the engine's forward or a new one.

    The caller must retain the graph on differentiation if `shared` is true.

    Args:
        model: Returns scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        layers: Dotted paths in the caller's model.
        image: Whether the image's gradient will be needed.
        twice: Whether the graph will be differentiated twice.
    """
    if (
        isinstance(model, ScoreModel)
        and (ready := model.ready(inputs))
        and ready.has(layers)
        and not (image and ready.from_layers)
    ):
        if not model.shared:
            model.hold(None)  # differentiation frees its graph
        return ready
    wanted = Needs(tuple(layers), image, twice=twice)
    leaf = inputs if inputs.is_leaf and inputs.requires_grad else inputs.detach()
    with torch.enable_grad(), twice_differentiable() if twice else nullcontext():
        only = wanted.only_layers
        leaf = leaf.detach() if only else leaf.requires_grad_()
        with capture(unwrapped(model), layers, count=len(leaf), leaves=only) as outputs:
            scores = model(leaf)
    captured = {path: single(outputs[path], path) for path in layers}
    return Forward(leaf, scores, wanted, only, captured)


def shared(model: nn.Module) -> bool:
    """Whether other computations use the graph of the engine's forward, too."""
    return isinstance(model, ScoreModel) and model.shared


def activations(model: nn.Module, inputs: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
    """Layer outputs ``[batch, …]``, detached, from the engine's forward or a new one.

    Args:
        model: Returns scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        layers: Dotted paths in the caller's model.
    """
    if isinstance(model, ScoreModel) and (ready := model.ready(inputs)) and ready.has(layers):
        return {path: ready.activations[path].detach() for path in layers}
    owner, runs = (model.owner, model.module) if isinstance(model, ScoreModel) else (model, model)
    with torch.no_grad(), capture(owner, layers, count=len(inputs)) as outputs:
        runs(inputs.clone())
    return {path: single(outputs[path], path) for path in layers}


def gradients(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    layers: Sequence[str] = (),
    *,
    image: bool = False,
) -> ScoreGradients:
    """Gradients of the score from one forward and one backward, no deeper than necessary.

    If the engine has already run these inputs, its forward is used, and a second method with the
    same target gets the gradients that the first one computed.

    Args:
        model: Returns scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        target: int64 ``[batch]``; or floating ``[batch, classes]``, the weights of a sum of scores.
        layers: Dotted paths in the caller's model.
        image: Also compute the image's gradient.

    Raises:
        ModelError: No such layer, or the score does not depend on a layer or the image.
    """
    forward = scored(model, inputs, layers, image=image)
    known = forward.gradients.get(id(target))
    if known is None or (image and known[1].image is None):
        wanted = Needs(tuple(layers), image)
        if not target.is_floating_point():
            wanted = forward.needs | wanted
        found = _backward(forward, target, wanted, shared(model))
        # holding the target keeps its id from being reused
        known = forward.gradients[id(target)] = (target, found)
    return _reached(known[1], layers, image)


def image_gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """``∂ model(inputs)[i, target[i]] / ∂ inputs[i]``, shaped like ``inputs``; see `gradients`."""
    found = gradients(model, inputs, target, image=True).image
    assert found is not None
    return found


def _backward(forward: Forward, target: Tensor, wanted: Needs, keep: bool) -> ScoreGradients:
    captured = {path: forward.activations[path] for path in wanted.layers}
    tensors = [*captured.values(), *([forward.inputs] if wanted.image else [])]
    weighted = target.is_floating_point()
    scores = forward.scores
    each = (scores * target if weighted else scores.gather(1, target[:, None])).sum(1)
    score = each.sum()
    found: dict[int, Tensor] = {}
    taken = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
    if score.requires_grad and taken:
        partial = torch.autograd.grad(
            score, [tensors[i] for i in taken], allow_unused=True, retain_graph=keep
        )
        found = {i: g for i, g in zip(taken, partial, strict=True) if g is not None}
    return ScoreGradients(
        scores=each.detach(),
        image=found.get(len(captured)),
        activations={path: tensor.detach() for path, tensor in captured.items()},
        layers={path: found[i] for i, path in enumerate(captured) if i in found},
    )


def _reached(found: ScoreGradients, layers: Sequence[str], image: bool) -> ScoreGradients:
    """The gradients; an error if one that was requested is missing."""
    missing = [path for path in layers if path not in found.layers]
    if missing:
        what, it = f"layer {missing[0]!r}", "it"
        remedy = "; or name an earlier layer"
    elif image and found.image is None:
        what, it, remedy = "the images", "them", ""
    else:
        return found
    raise ModelError(
        f"expected a score that depends on {what}, but no gradient reaches {it}: look for "
        f"detach(), no_grad(), argmax, rounding or int8 layers in the model or the target{remedy}"
    )


def recorded_forward(model: nn.Module, inputs: Tensor, values: frozenset[str]) -> RecordedForward:
    """A forward with recorded operators: the engine's own if it recorded enough, or a new one.

    Args:
        model: Returns scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        values: Operators whose inputs and outputs are needed.
    """
    if isinstance(model, ScoreModel) and (ready := model.ready(inputs)):
        recorded = ready.needs.values
        if ready.records is not None and recorded is not None and values <= recorded:
            return RecordedForward(ready.inputs, ready.scores, ready.records)
    return record(model, inputs, values)
