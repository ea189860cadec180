"""How much a map changes when the image changes a little.

A constant map is perfectly stable: these describe a method, and do not say whether it is right.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from explainkit.catalog.factories import AnyMethod
from explainkit.engine.arguments import whole_number
from explainkit.engine.checks import Outcome
from explainkit.errors import InputError
from explainkit.interfaces import Target
from explainkit.metrics.question import Question, asking
from explainkit.metrics.results import nan_where

_ZERO = 1e-6
"""Values below this share of a map's largest count as this large in a quotient."""


def max_sensitivity(
    model: str | Path | nn.Module,
    inputs: Tensor,
    method: AnyMethod,
    target: Target = None,
    *,
    samples: int = 10,
    radius: float = 0.02,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The largest relative change of a map when noise is added to the image.

    ``max_e ‖a(x + e) − a(x)‖₂ / ‖a(x)‖₂`` over uniform noise e, each of whose values is at most
    ``radius`` times the image's range. Lower is more stable. The class predicted for the image
    itself stays the target, and the noise is the same for every image.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        method: A registered name, or a method.
        target: What is explained, as in `explainkit.explain`.
        samples: Number of noisy images.
        radius: Largest change of a pixel, in units of the image's range.
        seed: Random seed of the noise; the method keeps its own.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``; NaN if the map of the image is zero.

    Raises:
        InputError: Images of the wrong shape, or that are not finite.
        MethodError: No such method, or its map is not finite.

    References:
        Yeh, Hsieh, Suggala, Inouye and Ravikumar (2019), "On the (In)fidelity and Sensitivity of
        Explanations", arXiv:1901.09392.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> max_sensitivity(net, torch.rand(1, 1, 4, 4), "saliency").item()
        0.0
    """
    with asking(model, inputs, target, seed, batch_size) as question:
        clean, noisy = _maps(question, method, samples, radius, seed)
        first = _rows(clean)
        size = first.norm(dim=1)
        largest = torch.zeros_like(size)
        for one in noisy:
            largest = torch.maximum(largest, (_rows(one) - first).norm(dim=1))
        zero = size == 0
        return nan_where("max_sensitivity", largest / size, zero, "the map is zero everywhere")


def relative_output_stability(
    model: str | Path | nn.Module,
    inputs: Tensor,
    method: AnyMethod,
    target: Target = None,
    *,
    samples: int = 10,
    radius: float = 0.02,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The largest relative change of a map per change of the model's outputs.

    ``max_x' ‖(a(x) − a(x')) / a(x)‖₂ / max(‖h(x) − h(x')‖₂, 10⁻⁶)`` over noisy images x' with the
    same prediction, where h are the logits. Lower is more stable. The quotient is taken pixel by
    pixel; values of the map near zero count as a millionth of its largest.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        method: A registered name, or a method.
        target: What is explained, as in `explainkit.explain`.
        samples: Number of noisy images.
        radius: Largest change of a pixel, in units of the image's range.
        seed: Random seed of the noise; the method keeps its own.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``; NaN if the map of the image is zero, or no noisy image has its
        prediction.

    Raises:
        InputError: Images of the wrong shape, or that are not finite.
        MethodError: No such method, or its map is not finite.

    References:
        Agarwal, Johnson, Pawelczyk, Krishna, Saxena, Zitnik and Lakkaraju (2022), "Rethinking
        Stability for Attribution-based Explanations", arXiv:2203.06877.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> relative_output_stability(net, torch.rand(1, 1, 4, 4), "saliency", 0).item()
        0.0
    """
    with asking(model, inputs, target, seed, batch_size) as question:
        clean, noisy = _maps(question, method, samples, radius, seed)
        first, outputs = _rows(clean), clean.logits.double().flatten(1)
        most = first.abs().amax(1)
        least = _ZERO * most[:, None]
        divisor = torch.where(first.abs() < least, least, first)
        largest = torch.full_like(most, -torch.inf)
        for one in noisy:
            change = ((first - _rows(one)) / divisor).norm(dim=1)
            moved = (outputs - one.logits.double().flatten(1)).norm(dim=1).clamp(min=1e-6)
            ratio = torch.where(_same_prediction(clean, one), change / moved, -torch.inf)
            largest = torch.maximum(largest, ratio)
        name = "relative_output_stability"
        found = nan_where(name, largest, most == 0, "the map is zero everywhere")
        return nan_where(
            name, found, largest == -torch.inf, "the noise changes the prediction: lower radius="
        )


def _maps(
    question: Question, method: AnyMethod, samples: int, radius: float, seed: int
) -> tuple[Outcome, Iterator[Outcome]]:
    """The map of each image, and those of noisy images, made one after the other."""
    samples = whole_number("samples", samples, 1)
    if not radius > 0:
        raise InputError(f"radius: expected a positive number, got {radius!r}")
    question = question.resolved()
    ready = question.ready(method)
    images = question.images
    spread = radius * (images.amax((1, 2, 3), True) - images.amin((1, 2, 3), True))
    generator = torch.Generator().manual_seed(seed)

    def noisy() -> Iterator[Outcome]:
        for _ in range(samples):
            noise = 2 * torch.rand(images.shape[1:], generator=generator).to(images) - 1
            yield replace(question, images=images + spread * noise).explain(ready)

    return question.explain(ready), noisy()


def _rows(outcome: Outcome) -> Tensor:
    """Maps as rows, float64 ``[batch, values]``."""
    return outcome.values.double().flatten(1)


def _same_prediction(a: Outcome, b: Outcome) -> Tensor:
    """Whether two runs predict the same for each image, bool ``[batch]``; values always do."""
    first, second = a.outputs.predicted(a.logits), b.outputs.predicted(b.logits)
    if first is None or second is None:
        return torch.ones(len(a.logits), dtype=torch.bool, device=a.logits.device)
    return (first == second).reshape(len(first), -1).all(1)
