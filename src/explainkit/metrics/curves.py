"""Pixels are removed in the order of a map: how much of the score remains."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from explainkit.engine.arguments import whole_number
from explainkit.errors import InputError, TargetError
from explainkit.interfaces import Target
from explainkit.metrics.fill import Baseline, Fill
from explainkit.metrics.question import Question, asking
from explainkit.metrics.results import nan_where

_FLAT = "the map is constant and ranks no pixel before another"

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the pixels that are hidden."""


def deletion(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    steps: int = 20,
    baseline: Baseline = "mean",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Area under the score as pixels are hidden, those with the largest values first.

    ``∫₀¹ S(x with the share q of pixels hidden) dq``, by the trapezoidal rule. Lower is better. It
    depends on the order of the map's values alone. Each step hides the same number of pixels, and
    ties are broken at random, in the same way for all images.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; channels are summed.
        target: What the maps explain, as in `explainkit.explain`; its score is measured as it is
            explained, a logit for a class. End the model in a softmax for probabilities.
        steps: Number of steps from the image to the baseline.
        baseline: Replaces hidden pixels: one value; a tensor; ``"mean"``, the image's mean per
            channel; ``"blur"``; ``"noise"``; ``"linear"``, interpolated from visible pixels.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``, in units of the score; NaN for a constant map.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite.

    References:
        Petsiuk, Das and Saenko (2018), "RISE: Randomized Input Sampling for Explanation of
        Black-box Models", arXiv:1806.07421. Samek, Binder, Montavon, Bach and Müller (2015),
        arXiv:1509.06321.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> deletion(model, images, images, 0).shape
        torch.Size([4])
    """
    with asking(model, inputs, target, seed, batch_size) as question:
        return _area("deletion", question, attribution, steps, baseline, seed, (True,))


def insertion(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    steps: int = 20,
    baseline: Baseline = "blur",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Area under the score as pixels appear, those with the largest values first.

    As `deletion`, but from the baseline to the image. Higher is better.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; channels are summed.
        target: What the maps explain, as in `explainkit.explain`.
        steps: Number of steps from the baseline to the image.
        baseline: Replaces hidden pixels, as in `deletion`.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``, in units of the score; NaN for a constant map.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite.

    References:
        Petsiuk, Das and Saenko (2018), arXiv:1806.07421.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> insertion(model, images, images, 0).shape
        torch.Size([4])
    """
    with asking(model, inputs, target, seed, batch_size) as question:
        return _area("insertion", question, attribution, steps, baseline, seed, (False,))


def srg(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    steps: int = 20,
    baseline: Baseline = "linear",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Symmetric relevance gain: the area of removing the smallest values first, minus the largest.

    ``insertion − deletion`` with the same baseline, which then matters far less than for either.
    Higher is better; a random map has 0 on average.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; channels are summed.
        target: What the maps explain, as in `explainkit.explain`.
        steps: Number of steps in each order.
        baseline: Replaces hidden pixels, as in `deletion`.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``, in units of the score; NaN for a constant map.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite.

    References:
        Blücher, Vielhaben and Strodthoff (2024), "Decoupling Pixel Flipping and Occlusion Strategy
        for Consistent XAI Benchmarks", arXiv:2401.06654.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> srg(model, images, images, 0, baseline=0.0).shape
        torch.Size([4])
    """
    with asking(model, inputs, target, seed, batch_size) as question:
        return _area("srg", question, attribution, steps, baseline, seed, (False, True))


def road(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    shares: Sequence[float] = TENTHS,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Remove and debias: how often the class is still predicted as its largest values are hidden.

    The mean over the shares of pixels of ``1[the class is predicted]``; the mean over images is the
    mean accuracy of the paper. Hidden pixels are interpolated linearly, with a little noise, so
    that the shape of what is hidden tells nothing. Lower is better. The number of removed pixels is
    fixed, not a threshold: of a map that is mostly zero, no more than the share is hidden.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; channels are summed.
        target: The class that the maps explain; the paper's is the label.
        shares: Shares of the pixels that are hidden, between 0 and 1.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]`` in [0, 1]; NaN for a constant map.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite; or not shares.
        TargetError: The target is not a class, or the model predicts values.

    References:
        Rong, Leemann, Borisov, Kasneci and Kasneci (2022), "A Consistent and Efficient Evaluation
        Strategy for Attribution Methods", arXiv:2202.00449.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> road(model, images, images).shape
        torch.Size([4])
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise InputError(f"shares: expected numbers between 0 and 1, got {shares!r}")
    with asking(model, inputs, target, seed, batch_size) as question:
        question.classes_only("road")
        scores = question.scores()
        outputs = scores.model.outputs
        if outputs.task == "regression":
            raise TargetError("road: expected a model that predicts classes, got values")
        position, flat = _positions(question, attribution, seed)
        fill = Fill("linear", question.images, seed)
        counts = torch.tensor([round(share * position[0].numel()) for share in shares])
        counts = counts.to(position.device)

        def change(rows: Tensor, variants: Tensor) -> Tensor:
            return fill(rows, position[rows] < counts[variants][:, None, None])

        found = scores.all_of(change, len(shares))
        labels = scores.labels[:, None]
        if outputs.task == "multilabel":
            where = labels[:, None].expand(-1, len(shares), 1)
            kept = found.gather(2, where)[..., 0] > (0.5 if outputs.squashed else 0)
        else:
            kept = found.argmax(2) == labels
        return nan_where("road", kept.double().mean(1), flat, _FLAT)


def _area(
    name: str,
    question: Question,
    attribution: Tensor,
    steps: int,
    baseline: Baseline,
    seed: int,
    largest_first: tuple[bool, ...],
) -> Tensor:
    """The area under one curve, or the area under the first minus that under the second."""
    steps = whole_number("steps", steps, 1)
    position, flat = _positions(question, attribution, seed)
    fill = Fill(baseline, question.images, seed)
    pixels = position[0].numel()
    counts = torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round().long()
    widths = counts.double().diff() / pixels
    counts, widths = counts.to(position.device), widths.to(position.device)
    scores = question.scores()
    areas = []
    for largest in largest_first:
        place = position if largest else pixels - 1 - position

        def change(rows: Tensor, variants: Tensor, place: Tensor = place) -> Tensor:
            return fill(rows, place[rows] < counts[variants + 1][:, None, None])

        curve = torch.cat([scores.clean[:, None], scores.of(change, steps)], 1)
        areas.append((widths * (curve[:, 1:] + curve[:, :-1]) / 2).sum(1))
    area = areas[0] if len(areas) == 1 else areas[0] - areas[1]
    return nan_where(name, area, flat, _FLAT)


def _positions(question: Question, attribution: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Each pixel's place in the order of falling values, and whether the map is constant."""
    maps = question.planes(attribution)
    values = maps.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(values.shape[1], generator=generator).to(values.device)
    order = shuffled[values[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    return order.argsort(1).view_as(maps), (values == values[:, :1]).all(1)
