"""``ek.concepts``: the concepts of a layer, their importance, and how far to trust them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from explainkit.catalog.models import load_model
from explainkit.concept_discovery.activations import ImageChunks, activations
from explainkit.concept_discovery.factorize import factorize
from explainkit.concept_discovery.importance import (
    Effects,
    Moments,
    concept_maps,
    sobol_indices,
)
from explainkit.concept_discovery.layer import LayerMaps
from explainkit.concept_discovery.reliability import p_values, random_directions, stability
from explainkit.engine.arguments import batch_number, seed_number, whole_number
from explainkit.engine.inputs import check_module
from explainkit.engine.record import model_name, outputs_of, versions
from explainkit.errors import ExplainkitWarning, InputError, ModelError
from explainkit.evaluation.images import Images, given
from explainkit.interfaces import spec_of
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layers import path_of
from explainkit.metrics.reinitialization import reinitialized
from explainkit.results.concepts import Concepts, Measure
from explainkit.scores import Task

MOST = 32
"""Concepts above which a person no longer looks at each."""

FEWEST = 200
"""Images below which halves are too small to tell whether concepts are stable."""

EXEMPLARS = 9


def concepts(
    model: str | Path | nn.Module,
    images: Images,
    layer: str | nn.Module | None = None,
    n: int = 10,
    *,
    directions: Tensor | None = None,
    importance: Measure = "removal",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
) -> Concepts:
    """Finds the concepts of a layer: what it knows, and what each piece of it does to the scores.

    The layer's outputs at all positions (or patch tokens) of all images, ``A``, are factorized into
    ``A ≈ U W`` with weights ``U ≥ 0``: the rows of W are the concepts. Where A is not negative,
    neither is W (NMF, as in CRAFT and ICE); else W is free (semi-NMF). A concept's importance is
    what each class's score loses when it is removed, ``mean s(A) − s(A − u_k w_k)``; only the part
    of the model after the layer runs for it.

    A factorization always finds something. `Concepts.unexplained`, `Concepts.stability` and
    `Concepts.p` say how much of the layer's effect it covers, whether other images give the same
    concepts, and whether random directions would do as well.

    With ``importance="sobol"``, it is CRAFT's total Sobol index: the share of the score's variance
    over random masks of the concepts that is due to concept k and its interactions. It takes
    32 (n + 1) runs of the rest of the model instead of n. `Concepts.p` compares removals in both
    cases.

    Fel et al. 2023 (CRAFT, arXiv:2211.10154); Zhang et al. 2021 (ICE, arXiv:2006.15417).

    Args:
        model: A source of `load_model`, such as a registered name, or any module.
        images: As `evaluate` takes them: a tensor, a folder, a list of paths or images, or a data
            set, or the `Store` of a job. All have one size as the model takes them; at least 200
            make the numbers reliable. They are read several times, a chunk at a time.
        layer: Path or module of a layer with spatial positions or patch tokens. None: the default
            of class activation maps.
        n: Number of concepts.
        directions: Concepts found elsewhere, such as the decoder of a sparse autoencoder,
            ``[n, channel]``, of any length. Nothing is factorized then, and ``n`` is ignored. As
            for all concepts, an image's weights are the non-negative ones with which the directions
            together best approximate the layer's output (non-negative least squares); an encoder
            that came with them is not used. For weights of both signs, give each direction and its
            negative. Their stability is unknown.
        importance: ``"removal"``, or ``"sobol"`` for total Sobol indices.
        seed: Random seed.
        limit: Only so many of the images, evenly spread over all.
        batch_size: Images run at once; None: as many as fit a memory budget.
        output: Which of several outputs of the model holds the scores, as in `explain`.
        task: What the outputs decide, as in `explain`.
        class_names: In the order of the classes, as in `explain`.

    Raises:
        DatasetError: There are no images.
        InputError: A single image, images of different sizes, more concepts than channels, or
            directions that are zero, not finite or of another number of channels.
        ModelError: The layer has no spatial positions, or outputs zeros or NaN.

    Examples:
        >>> import explainkit as ek
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                     nn.Flatten(), nn.Linear(6, 2)).eval()
        >>> found = ek.concepts(net, torch.rand(200, 1, 8, 8), n=3)
        >>> found.directions.shape, found.importance.shape, found.kind
        (torch.Size([3, 6]), torch.Size([3, 2]), 'nmf')
        >>> ek.explain(net, torch.rand(1, 1, 8, 8), found[0]).attribution.shape
        torch.Size([1, 1, 8, 8])
    """
    seed = seed_number(seed)
    if importance not in get_args(Measure):
        raise InputError(
            f"importance: expected {' or '.join(get_args(Measure))}, got {importance!r:.40}"
        )
    n = whole_number("n", n, 1, 2**20)
    batch_size = None if batch_size is None else batch_number(batch_size)
    module = load_model(model) if isinstance(model, str | Path) else model
    check_module(module)
    read = ImageChunks(module, given(images, limit=limit))
    if len(read) < 2:
        raise InputError("expected at least 2 images, better 200 or more, got 1")
    outputs = outputs_of(module, output, task, class_names)
    named = layer if layer is None else path_of(module, layer)
    with preserve_process(seed), preserve_model(module, seed=seed), torch.no_grad():
        few = read.read([0, 1])
        maps = LayerMaps(module, named, few, outputs, batch_size)
        factors = (
            _factorized(module, read, maps, n, seed)
            if directions is None
            else _given(directions, maps, few)
        )
        found = _measured(module, read, maps, factors, importance, seed)
    for text in found.warnings:
        warnings.warn(f"concepts: {text}", ExplainkitWarning, stacklevel=2)
    # what the caller named is loaded again; what the caller holds is not kept alive
    return found.coming_from(
        partial(load_model, model) if isinstance(model, str | Path) else ref(module)
    )


@dataclass(frozen=True, eq=False)
class _Factors:
    """Directions of length 1, ``[n, channel]``, and what is known of them: fields of `Concepts`."""

    directions: Tensor
    kind: str
    stability: Tensor
    random_stability: float
    warnings: tuple[str, ...] = ()


def _factorized(
    module: nn.Module, images: ImageChunks, layer: LayerMaps, n: int, seed: int
) -> _Factors:
    values = activations(layer, images, seed=seed)
    found = factorize(values.flatten(0, 1), n, seed=seed)
    directions = found.directions
    stable = stability(values, directions, seed=seed)
    del values
    fewer = f"the layer has only {len(directions)} concepts, not {n}"
    random_stability, missing = _random_stability(module, images, layer, n, seed)
    texts = [*([fewer] if len(directions) < n else []), *([missing] if missing else [])]
    return _Factors(directions, found.kind, stable, random_stability, tuple(texts))


def _given(directions: Tensor, layer: LayerMaps, few: Tensor) -> _Factors:
    """Somebody else's directions, whose stability is not known."""
    like, found = layer.maps(few), torch.as_tensor(directions).detach().double()
    if found.dim() != 2 or not len(found) or found.shape[1] != like.shape[-1]:
        raise InputError(
            f"directions: expected [n, channel] for the {like.shape[-1]} channels of layer "
            f"{layer.path!r}, got {list(found.shape)}"
        )
    if not bool(found.isfinite().all()) or not bool(found.any(1).all()):
        raise InputError("directions: expected finite numbers and no direction that is zero")
    unit = normalize(found, dim=1, eps=0).to(like)
    return _Factors(unit, "given", found.new_zeros(0, len(found)), float("nan"))


def _measured(
    module: nn.Module,
    images: ImageChunks,
    layer: LayerMaps,
    factors: _Factors,
    importance: Measure,
    seed: int,
) -> Concepts:
    directions = factors.directions
    effects, indices = Effects(directions), Moments()
    random = [Effects(one) for one in random_directions(directions, seed=seed)]
    peaks = []
    for numbers, chunk in images.chunks(layer.chunk, "importance"):
        maps = layer.maps(chunk, numbers)
        weights = effects.add(layer, maps)
        peaks.append(weights.flatten(2).amax(2))
        for other in random:
            other.add(layer, maps)
        if importance == "sobol":
            indices.add(sobol_indices(layer, maps, weights, directions, seed=seed))
    measured = indices if importance == "sobol" else effects.losses
    outputs, spec = layer.model.outputs, spec_of(module)
    name = model_name(module)
    return Concepts(
        directions=directions.cpu(),
        importance=measured.mean.cpu(),
        standard_error=measured.standard_error.cpu(),
        stability=factors.stability.cpu(),
        random_stability=factors.random_stability,
        p=p_values(effects.size, torch.cat([other.size for other in random])).cpu(),
        unexplained=effects.unexplained,
        random_unexplained=sum(other.unexplained for other in random) / len(random),
        **_exemplars(layer, images, directions, torch.cat(peaks)),
        measure=importance,
        kind=factors.kind,
        layer=layer.path,
        model=name,
        count=len(images),
        seed=seed,
        task=outputs.task,
        output=outputs.output,
        class_names=outputs.class_names,
        mean=spec.mean if spec else None,
        std=spec.std if spec else None,
        versions=versions(name, module),
        warnings=(*_warnings(len(images), len(directions)), *factors.warnings),
    )


def _random_stability(
    module: nn.Module, images: ImageChunks, layer: LayerMaps, n: int, seed: int
) -> tuple[float, str]:
    """Mean stability in a copy of the network with random weights; or NaN, and why."""
    few = images.read([0, 1])
    try:
        made = reinitialized(module, seed)
        other = LayerMaps(made, layer.path, few, layer.model.outputs, layer.model.batch_size)
        values = activations(other, images, seed=seed)
        found = factorize(values.flatten(0, 1), n, seed=seed)
        return float(stability(values, found.directions, seed=seed).mean()), ""
    except ModelError as error:
        return float("nan"), f"not compared with a network of random weights: {error}"


def _exemplars(
    layer: LayerMaps, images: ImageChunks, directions: Tensor, peaks: Tensor
) -> dict[str, Any]:
    """The images in which each concept is most active, each read once, and where it is active.

    Args:
        layer: The layer.
        images: All images.
        directions: ``[n, channel]``.
        peaks: The largest weight of each concept in each image, ``[image, n]``.
    """
    index = peaks.argsort(dim=0, descending=True, stable=True)[:EXEMPLARS].T.cpu()
    shown, places = torch.unique(index, return_inverse=True)
    parts, weights = [], []
    for numbers in shown.split(layer.chunk):
        chunk = images.read(numbers.tolist())
        parts.append(chunk.cpu())
        weights.append(concept_maps(layer.maps(chunk, numbers.tolist()), directions))
    small = torch.cat(weights)[places, torch.arange(len(places))[:, None]].flatten(0, 1)
    large = layer.upsampled(chunk, small).cpu()
    small = small.cpu()
    return {
        "images": torch.cat(parts),
        "names": tuple(images.images.names[i] for i in shown.tolist()),
        "exemplar": places,
        "index": index,
        "maps": small.reshape(*places.shape, *small.shape[1:]),
        "upsampled": large.reshape(*places.shape, *large.shape[1:]),
    }


def _warnings(images: int, n: int) -> tuple[str, ...]:
    texts = []
    if n > MOST:
        texts.append(f"{n} concepts are hard to look through: use at most {MOST}")
    if images < FEWEST:
        texts.append(f"{images} images are few: {FEWEST} or more make the numbers reliable")
    return tuple(texts)
