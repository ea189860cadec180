"""Whether a map depends on the model's weights, and on the class.

Maps that look random for other reasons pass as well: these describe a method, and do not say that
it is right.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from explainkit.catalog.factories import AnyMethod
from explainkit.correlation import is_flat, pearson, spearman
from explainkit.engine.checks import Outcome
from explainkit.errors import InputError, TargetError
from explainkit.interfaces import Target
from explainkit.metrics.question import asking
from explainkit.metrics.reinitialization import reinitialized, stages
from explainkit.metrics.results import nan_where, planes

Similarity = Literal["spearman", "pearson"]

_SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": spearman,
    "pearson": pearson,
}


def mprt(
    model: str | Path | nn.Module,
    inputs: Tensor,
    method: AnyMethod,
    target: Target = None,
    *,
    cascading: bool = False,
    similarity: Similarity = "spearman",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Model parameter randomization test: how similar the map stays if all weights are random.

    ``corr(a(f, x), a(f with random parameters, x))``. Near 0 if the map depends on what the model
    has learned. Every parameter of a copy of the model is re-initialized: by the initializer of its
    module, or, where that sets none (projections, tokens, position embeddings), from a normal
    distribution with the mean and the standard deviation of its values.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        method: A registered name, or a method.
        target: What is explained, as in `explainkit.explain`; the predicted class is the model's
            own.
        cascading: Randomize one module after the other, from the last to the first, and take the
            mean over all stages.
        similarity: ``"spearman"`` or ``"pearson"``, over pixels, with channels summed.
        seed: Random seed of the parameters; the method keeps its own.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]`` in [−1, 1]; NaN if a map is constant.

    Raises:
        InputError: Images of the wrong shape, or that are not finite.
        ModelError: The model has no parameters, or cannot be copied.
        MethodError: No such method, or its map is not finite.

    References:
        Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim (2018), "Sanity Checks for Saliency
        Maps", arXiv:1810.03292. Hedström, Weber, Lapuschkin and Höhne (2024), "A Fresh Look at
        Sanity Checks for Saliency Maps", arXiv:2405.02383.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["vit"]
        >>> mprt(model, images, "saliency").shape
        torch.Size([4])
    """
    compare = _similarity(similarity)
    with asking(model, inputs, target, seed, batch_size) as question:
        question = question.resolved()
        ready = question.ready(method)
        own = _rows(question.explain(ready))
        random = reinitialized(question.module, seed)
        copies = stages(question.module, random) if cascading else [random]
        found, flat = [], is_flat(own)
        for changed in copies:
            other = _rows(replace(question, module=changed).explain(ready))
            found.append(compare(own, other))
            flat |= is_flat(other)
        return nan_where("mprt", torch.stack(found).mean(0), flat, "a map is constant")


def random_logit(
    model: str | Path | nn.Module,
    inputs: Tensor,
    method: AnyMethod,
    target: Target = None,
    *,
    similarity: Similarity = "spearman",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """How similar the map of a random other class is to the map of the class.

    ``corr(a_c(x), a_c'(x))``. Near 1 if the map does not depend on the class. The distance between
    the two class indices, modulo their number, is the same for every image.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        method: A registered name, or a method.
        target: The class, as in `explainkit.explain`.
        similarity: ``"spearman"`` or ``"pearson"``, over pixels, with channels summed.
        seed: Random seed of the class; the method keeps its own.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]`` in [−1, 1]; NaN if a map is constant.

    Raises:
        InputError: Images of the wrong shape, or that are not finite.
        TargetError: The target is not a class, or the model has only one.
        MethodError: No such method, or its map is not finite.

    References:
        Sixt, Granz and Landgraf (2020), "When Explanations Lie: Why Many Modified BP Attributions
        Fail", arXiv:1912.09818.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> random_logit(model, images, "saliency").shape
        torch.Size([4])
    """
    compare = _similarity(similarity)
    with asking(model, inputs, target, seed, batch_size) as question:
        question.classes_only("random_logit")
        scores = question.scores()
        classes = scores.every.shape[1]
        if classes < 2:
            raise TargetError("random_logit: expected a model of at least two classes, got one")
        generator = torch.Generator().manual_seed(seed)
        further = 1 + int(torch.randint(classes - 1, (), generator=generator))
        ready = question.ready(method)
        own, other = (
            _rows(replace(question, target=labels).explain(ready))
            for labels in (scores.labels, (scores.labels + further) % classes)
        )
        flat = is_flat(own) | is_flat(other)
        return nan_where("random_logit", compare(own, other), flat, "a map is constant")


def _similarity(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    if name not in _SIMILARITIES:
        raise InputError(f"similarity: expected {' or '.join(_SIMILARITIES)}, got {name!r}")
    return _SIMILARITIES[name]


def _rows(outcome: Outcome) -> Tensor:
    """Maps with their channels summed, as rows."""
    return planes(outcome.values).flatten(1)
