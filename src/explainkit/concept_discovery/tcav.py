"""``ek.tcav``: whether a class responds to a concept that images show."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from explainkit.catalog.models import load_model
from explainkit.concept_discovery.activations import ImageChunks
from explainkit.concept_discovery.cav import resampled
from explainkit.concept_discovery.layer import LayerMaps
from explainkit.engine.arguments import batch_number, seed_number, whole_number
from explainkit.engine.inputs import check_module
from explainkit.engine.record import model_name, outputs_of, versions
from explainkit.errors import InputError
from explainkit.evaluation.images import Images, given
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layers import path_of
from explainkit.results.tcav import TCAV
from explainkit.scores import Task, class_index

FEWEST = 10
"""Images of a concept at least: each run has half of them."""


def tcav(
    model: str | Path | nn.Module,
    images: Images,
    target: int | str,
    concept: Images,
    random: Images,
    layer: str | nn.Module | None = None,
    *,
    runs: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
) -> TCAV:
    r"""Tests whether the score of a class rises along a concept that a set of images shows.

    A linear classifier tells the layer's outputs on images of the concept from those on random
    images; its direction v is the concept. The result is the share of images whose score rises
    along it:

    .. math:: \frac{1}{N} \left|\{x : \textstyle\sum_p \nabla_{a_p} s(x) \cdot v > 0\}\right|

    Activations are means over the positions p, so that a concept may be anywhere in an image and
    has the layer's channels; the classifier is a ridge regression in closed form.

    Each run uses a random half of the concept's images and as many random images; the other half
    tells how well the direction recognizes the concept. Further runs have random images in place of
    the concept's: a direction always exists and always has a score. `TCAV.p` says whether the
    concept's score differs from theirs, and `TCAV.caption` if it does not.

    Args:
        model: A source of `load_model`, such as a registered name, or any module.
        images: Images of the class, or any others, as `evaluate` takes them.
        target: The class, by number or name.
        concept: Images that show the concept; at least 10, better 50.
        random: Other images; at least as many as of the concept, better several times.
        layer: Path or module of a layer with spatial positions or patch tokens. None: the default
            of class activation maps.
        runs: Number of runs with the concept, and as many without.
        seed: Random seed of what each run draws.
        batch_size: Images run at once; None: as many as fit a memory budget.
        output: Which of several outputs of the model holds the scores, as in `explain`.
        task: What the outputs decide, as in `explain`.
        class_names: In the order of the classes, as in `explain`.

    Raises:
        DatasetError: There are no images.
        InputError: Too few images of the concept or random ones, or images of different sizes.
        ModelError: The layer has no spatial positions, its output is the same for all images, or
            the score does not depend on it.
        TargetError: The model has no such class.

    References:
        Kim, Wattenberg, Gilmer, Cai, Wexler, Viegas and Sayres (2018), "Interpretability Beyond
        Feature Attribution: Quantitative Testing with Concept Activation Vectors",
        arXiv:1711.11279.

    Examples:
        >>> import explainkit as ek
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...                     nn.Linear(4, 2)).eval()
        >>> bright, other = torch.rand(20, 1, 6, 6) + 1, torch.rand(40, 1, 6, 6)
        >>> found = ek.tcav(net, torch.rand(10, 1, 6, 6), 0, bright, other, "0")
        >>> found.score in (0.0, 1.0), found.significant
        (True, True)
    """
    runs, seed = whole_number("runs", runs, 3, 1000), seed_number(seed)
    batch_size = None if batch_size is None else batch_number(batch_size)
    module = load_model(model) if isinstance(model, str | Path) else model
    check_module(module)
    asked, positive, negative = (
        ImageChunks(module, given(one)) for one in (images, concept, random)
    )
    if len(positive) < FEWEST or len(negative) < len(positive):
        raise InputError(
            f"expected at least {FEWEST} images of the concept and as many random ones, got "
            f"{len(positive)} and {len(negative)}"
        )
    outputs = outputs_of(module, output, task, class_names)
    named = layer if layer is None else path_of(module, layer)
    with preserve_process(seed), preserve_model(module, seed=seed), torch.no_grad():
        few = negative.read([0, 1])
        sizes = {tuple(one.read([0]).shape[1:]) for one in (asked, positive, negative)}
        if len(sizes) > 1:
            raise InputError(
                "expected images, concept and random images of one size, got "
                f"{', '.join(str(list(size)) for size in sorted(sizes))}: resize them"
            )
        maps = LayerMaps(module, named, few, outputs, batch_size)
        label = class_index(target, maps.classes, maps.model.outputs.class_names)
        slopes = torch.cat(
            [
                maps.gradients(chunk, label).sum((1, 2)).double()
                for _, chunk in asked.chunks(maps.backward_chunk, "gradients")
            ]
        )
        shown, others = (_means(maps, one) for one in (positive, negative))
    found = resampled(slopes, shown, others, runs, seed)
    name = model_name(module)
    names = maps.model.outputs.class_names
    return TCAV(
        scores=found.scores,
        random_scores=found.random_scores,
        accuracy=found.accuracy,
        direction=found.direction.cpu(),
        layer=maps.path,
        model=name,
        target=names[label] if names else f"class {label}",
        images=len(asked),
        concept_images=len(positive),
        random_images=len(negative),
        seed=seed,
        versions=versions(name, module),
    )


def _means(layer: LayerMaps, images: ImageChunks) -> Tensor:
    """The layer's output on each image, mean over positions, float64 ``[image, channel]``."""
    return torch.cat(
        [
            layer.maps(chunk).double().mean((1, 2))
            for _, chunk in images.chunks(layer.chunk, "activations")
        ]
    )
