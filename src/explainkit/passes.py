"""Passes that methods share: what a method needs is said before, computed once, and handed out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.adapter import Adapter
from explainkit.errors import ModelError
from explainkit.graph.tape import Trace, record
from explainkit.layers import capture, single


@dataclass(frozen=True)
class Needs:
    """What a method reads of a forward and a backward.

    A method that has a function ``needs(model) -> Needs`` gets what it declares from passes that
    all methods asked for together share; one without simply runs.

    Attributes:
        layers: Layers whose outputs and their gradients it takes from `gradients`.
        image: Whether it takes the gradient of the image from `gradients`.
        values: Operators whose values it takes from `traced`; None: it asks for no trace.
    """

    layers: tuple[str, ...] = ()
    image: bool = False
    values: frozenset[str] | None = None

    def __or__(self, other: "Needs") -> "Needs":
        traces = [need.values for need in (self, other) if need.values is not None]
        return Needs(
            tuple(dict.fromkeys(self.layers + other.layers)),
            self.image or other.image,
            reduce(frozenset.union, traces) if traces else None,
        )


def needs_of(method: Any, model: nn.Module) -> Needs:
    """What a method declares; nothing where it has no declaration."""
    declare = getattr(method, "needs", None)
    return declare(model) if declare else Needs()


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one score per image.

    Attributes:
        image: ``∂ score / ∂ image``, ``[batch, channel, height, width]``; None if not asked for.
        activations: Output of each layer, ``[batch, …]``, detached.
        layers: ``∂ score / ∂ output`` of each layer, of the same shape.
    """

    image: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Tensor] = field(default_factory=dict)


def gradients(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    layers: Sequence[str] = (),
    *,
    image: bool = False,
) -> Gradients:
    """One forward, and one backward that goes no further than the first thing asked for.

    Where the host has run these inputs already, its forward is used, and a second method that
    asks for the same target gets what the first one computed.

    Args:
        model: Gives scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        target: int64 ``[batch]``.
        layers: Dotted paths, of the caller's model.
        image: Also the gradient of the image.

    Raises:
        ModelError: No such layer, or the score does not depend on what was asked for.
    """
    if isinstance(model, Adapter) and (ready := model.ready(inputs)) and ready.has(layers):
        scores, captured, leaf = ready.scores, ready.activations, ready.inputs
        wanted = ready.needs | Needs(tuple(layers), image)
        key = id(target)
        known = ready.gradients.get(key)
        if known is None or (image and known[1].image is None):
            if not model.shared:
                model.hold(None)  # its graph is used up
            found = _backward(
                scores, leaf, captured, target, wanted.layers, wanted.image, model.shared
            )
            # the target itself is kept, so that its id stays its own
            known = ready.gradients[key] = (target, found)
        return known[1]
    leaf = inputs if inputs.is_leaf and inputs.requires_grad else inputs.detach()
    if image and not leaf.requires_grad:
        leaf.requires_grad_()
    with torch.enable_grad():
        if not leaf.requires_grad:
            leaf = leaf.requires_grad_()
        module = model.module if isinstance(model, Adapter) else model
        with capture(module, layers) as outputs:
            scores = model(leaf)
    captured = {path: single(outputs[path], path) for path in layers}
    return _backward(scores, leaf, captured, target, layers, image, keep=False)


def image_gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """``∂ model(inputs)[i, target[i]] / ∂ inputs[i]``, like ``inputs``; see `gradients`."""
    found = gradients(model, inputs, target, image=True).image
    assert found is not None
    return found


def _backward(
    scores: Tensor,
    leaf: Tensor,
    captured: Mapping[str, Tensor],
    target: Tensor,
    layers: Sequence[str],
    image: bool,
    keep: bool,
) -> Gradients:
    tensors = [captured[path] for path in layers] + ([leaf] if image else [])
    detached = {path: captured[path].detach() for path in layers}
    if not tensors:
        return Gradients()
    found: tuple[Tensor | None, ...] = (None,) * len(tensors)
    score = scores.gather(1, target[:, None]).sum()
    if score.requires_grad and any(tensor.requires_grad for tensor in tensors):
        taken = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
        partial = torch.autograd.grad(
            score, [tensors[i] for i in taken], allow_unused=True, retain_graph=keep
        )
        by_place = dict(zip(taken, partial, strict=True))
        found = tuple(by_place.get(i) for i in range(len(tensors)))
    names = [*layers, *(["the images"] if image else [])]
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            if name == "the images":
                what, it, way_out = name, "them", ""
            else:
                what, it, way_out = f"layer {name!r}", "it", "; or name a layer on the way to it"
            raise ModelError(
                f"expected a score that depends on {what}, but no gradient reaches {it}: look for "
                f"detach(), no_grad(), argmax or rounding in the model or the target{way_out}"
            )
    by_layer = dict(zip(layers, found, strict=False))
    return Gradients(
        image=found[-1] if image else None,
        activations=detached,
        layers={path: by_layer[path] for path in layers},  # type: ignore[misc]
    )


def traced(model: nn.Module, inputs: Tensor, values: frozenset[str]) -> Trace:
    """A forward whose operators are recorded: the host's own where it recorded enough.

    Args:
        model: Gives scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        values: Operators whose inputs and outputs are wanted.
    """
    if isinstance(model, Adapter) and (ready := model.ready(inputs)):
        kept = ready.needs.values
        if ready.records is not None and kept is not None and values <= kept:
            return Trace(ready.inputs, ready.scores, ready.records)
    return record(model, inputs, values)
