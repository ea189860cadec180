"""Whether a map's values predict what changes of the image do to the score."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from explainkit.correlation import is_flat, pearson, spearman
from explainkit.engine.arguments import whole_number
from explainkit.engine.failures import failing_as_model_error
from explainkit.errors import InputError
from explainkit.interfaces import Target
from explainkit.methods.perturbation.segments import grid
from explainkit.metrics.fill import Baseline, Fill
from explainkit.metrics.hiding import score_cells
from explainkit.metrics.question import Question, Scores, asking
from explainkit.metrics.results import nan_where


def faithfulness_correlation(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    samples: int = 100,
    share: float = 0.1,
    baseline: Baseline = "mean",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Correlation of the map's sums over random sets of pixels with the effects of hiding them.

    ``corr_R(Σ_{i∈R} a_i, S(x) − S(x with R hidden))`` over random sets R of one size. Higher is
    better. The sets are the same for every image.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; channels are summed.
        target: What the maps explain, as in `explainkit.explain`.
        samples: Number of sets.
        share: Share of the pixels in a set.
        baseline: Replaces hidden pixels: one value; a tensor; ``"mean"``, the image's mean per
            channel; ``"blur"``; ``"noise"``; ``"linear"``, interpolated from visible pixels.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]`` in [−1, 1]; NaN if the map is constant or hiding changes nothing.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite; fewer than 3 sets.

    References:
        Bhatt, Weller and Moura (2020), "Evaluating and Aggregating Feature-based Model
        Explanations", arXiv:2005.00631.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double()
        >>> x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
        >>> exact = x * net[1].weight[0].detach().view(1, 1, 4, 4)
        >>> round(faithfulness_correlation(net, x, exact, 0, baseline=0.0).item(), 6)
        1.0
    """
    samples = whole_number("samples", samples, 3)
    if not 0 < share < 1:
        raise InputError(f"share: expected a number between 0 and 1, got {share!r}")
    with asking(model, inputs, target, seed, batch_size) as question:
        maps = question.planes(attribution).flatten(1)
        pixels = maps.shape[1]
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(samples, pixels, generator=generator).argsort(1)
        hidden = torch.zeros(samples, pixels, dtype=torch.bool)
        size = min(max(round(share * pixels), 1), pixels - 1)
        hidden.scatter_(1, order[:, :size], value=True)
        scores = question.scores()
        found = _hiding(question, scores, hidden, baseline, seed)
        sums = maps @ hidden.to(maps).T
        effects = scores.clean[:, None] - found
        return _defined("faithfulness_correlation", pearson(sums, effects), maps, sums, found)


def single_deletion(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    cells: int = 6,
    baseline: Baseline = "linear",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Rank correlation of the map's sums over the cells of a grid with the effects of hiding each.

    ``Spearman_p(Σ_{i∈p} a_i, S(x) − S(x with p hidden))``. Higher is better.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; channels are summed.
        target: What the maps explain, as in `explainkit.explain`.
        cells: Cells per side.
        baseline: Replaces hidden pixels, as in `faithfulness_correlation`.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]`` in [−1, 1]; NaN if the map is constant or hiding changes nothing.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite.
        MethodError: More cells than pixels per side.

    References:
        Hesse, Schaub-Meyer and Roth (2023), "FunnyBirds: A Synthetic Vision Dataset for a
        Part-Based Analysis of Explainable AI Methods", arXiv:2308.06248. Hesse, Schaub-Meyer and
        Roth (2024), "Benchmarking the Attribution Quality of Vision Models", arXiv:2407.11910.

    Examples:
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> single_deletion(model, images, images, 0, cells=3).shape
        torch.Size([4])
    """
    cells = whole_number("cells", cells, 2)
    with asking(model, inputs, target, seed, batch_size) as question:
        maps = question.planes(attribution)
        labels = grid(cells, *maps.shape[1:])
        hidden = labels.flatten() == torch.arange(cells * cells)[:, None]
        scores = question.scores()
        found = _hiding_cells(scores, labels.to(maps.device), Fill(baseline, question.images, seed))
        sums = maps.flatten(1) @ hidden.to(maps).T
        effects = scores.clean[:, None] - found
        return _defined("single_deletion", spearman(sums, effects), maps, sums, found)


def infidelity(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    perturbation: Literal["squares", "noise"] = "squares",
    samples: int = 50,
    size: int | None = None,
    noise: float = 0.05,
    baseline: Baseline = 0.0,
    scaled: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Mean squared difference between the change that the map predicts and that of the score.

    ``E_I[(β I·a − (S(x) − S(x − I)))²]`` with β = 1, or with the best β for the image,
    ``E[I·a Δ] / E[(I·a)²]``. Lower is better. Samples are the same for every image.

    ``"squares"`` is for maps of contributions (integrated gradients, input × gradient, LRP,
    occlusion): a square at a random position is hidden, and the map predicts its sum over the
    square. ``"noise"`` is for gradients: I is normal noise, and ``I·a`` the product.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``; for noise, with all channels.
        target: What the maps explain, as in `explainkit.explain`.
        perturbation: How images are changed.
        samples: Number of changes.
        size: Side of the squares in pixels; None: a sixth of the image's shorter side.
        noise: Standard deviation of the noise, in units of the image's range.
        baseline: Replaces pixels in squares, as in `faithfulness_correlation`.
        scaled: Whether β is fitted, so that a positive or negative scale of the map does not
            matter; 1 otherwise, and the map's unit matters.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``, in units of the score, squared.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite.

    References:
        Yeh, Hsieh, Suggala, Inouye and Ravikumar (2019), "On the (In)fidelity and Sensitivity of
        Explanations", arXiv:1901.09392.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
        >>> x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
        >>> gradient = net[1].weight[0].detach().view(1, 1, 4, 4)
        >>> infidelity(net, x, gradient, 0, perturbation="noise").item() < 1e-12
        True
        >>> infidelity(net, x, 7 * x * gradient, 0, scaled=True).item() < 1e-12
        True
    """
    samples = whole_number("samples", samples, 1)
    if perturbation not in ("squares", "noise"):
        raise InputError(f"perturbation: expected 'squares' or 'noise', got {perturbation!r}")
    with asking(model, inputs, target, seed, batch_size) as question:
        maps = question.planes(attribution)
        scores = question.scores()
        if perturbation == "squares":
            height, width = maps.shape[1:]
            hidden = _squares(samples, height, width, size, seed).flatten(1)
            predicted = maps.flatten(1) @ hidden.to(maps).T
            found = _hiding(question, scores, hidden, baseline, seed)
        else:
            predicted, found = _noisy(question, scores, attribution, samples, noise, seed)
        change = scores.clean[:, None] - found
        if scaled:
            fitted = (predicted * change).sum(1) / predicted.square().sum(1)
            predicted = fitted.nan_to_num(0)[:, None] * predicted  # a map of zeros predicts 0
        return (predicted - change).square().mean(1)


def completeness(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    *,
    baseline: Baseline = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """How far the map's sum is from the difference of the scores of image and baseline.

    ``|Σ a − (S(x) − S(b))|``; 0 for methods that are complete, such as integrated gradients.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        attribution: Maps ``[batch, channel or 1, height, width]``.
        target: What the maps explain, as in `explainkit.explain`.
        baseline: The method's baseline, as in `faithfulness_correlation`.
        seed: Random seed of a baseline of noise.
        batch_size: Images run at once; None: chosen.

    Returns:
        float64 ``[batch]``, in units of the score.

    Raises:
        InputError: Images or maps of the wrong shape, or that are not finite.

    References:
        Sundararajan, Taly and Yan (2017), "Axiomatic Attribution for Deep Networks",
        arXiv:1703.01365.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
        >>> x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
        >>> gradient = net[1].weight[0].detach().view(1, 1, 4, 4)
        >>> completeness(net, x, x * gradient, 0).item() < 1e-12
        True
    """
    with asking(model, inputs, target, seed, batch_size) as question:
        maps = question.planes(attribution).flatten(1)
        scores = question.scores()
        everything = torch.ones(1, maps.shape[1], dtype=torch.bool)
        found = _hiding(question, scores, everything, baseline, seed)[:, 0]
        return (maps.sum(1) - (scores.clean - found)).abs()


def _hiding(
    question: Question, scores: Scores, hidden: Tensor, baseline: Baseline, seed: int
) -> Tensor:
    """Scores with each set of pixels hidden, ``[batch, sets]``; the sets are ``[sets, pixels]``."""
    images = question.images
    fill = Fill(baseline, images, seed)
    masks = hidden.view(-1, *images.shape[2:]).to(images.device)
    return scores.of(lambda rows, sets: fill(rows, masks[sets]), len(masks))


def _hiding_cells(scores: Scores, labels: Tensor, fill: Fill) -> Tensor:
    """Scores with each cell hidden, ``[batch, cells]``."""
    model, images = scores.model, scores.images
    rows = zip(images, fill.one_at_a_time(labels), scores.labels, strict=True)
    with failing_as_model_error(model.module, images):
        every = [
            score_cells(model, image, filled, labels)[:, label] for image, filled, label in rows
        ]
    return torch.stack(every)


def _squares(samples: int, height: int, width: int, size: int | None, seed: int) -> Tensor:
    """Squares at random positions inside the image, bool ``[samples, height, width]``."""
    side = max(min(height, width) // 6, 1) if size is None else size
    if not 1 <= side <= min(height, width):
        raise InputError(f"size: expected 1 to {min(height, width)} pixels, got {side}")
    generator = torch.Generator().manual_seed(seed)
    inside = []
    for length in (height, width):
        start = torch.randint(length - side + 1, (samples, 1), generator=generator)
        place = torch.arange(length)
        inside.append((place >= start) & (place < start + side))
    return inside[0][:, :, None] & inside[1][:, None]


def _noisy(
    question: Question, scores: Scores, attribution: Tensor, samples: int, noise: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Predicted changes, and scores, of images with noise subtracted, ``[batch, samples]``."""
    images = question.images
    if attribution.shape != images.shape:
        raise InputError(
            f"attribution: expected a gradient {list(images.shape)} for perturbation='noise', got "
            f"{list(attribution.shape)}"
        )
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(samples, *images.shape[1:], generator=generator).to(images)
    spread = noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    maps = attribution.detach().to(images.device, torch.float64).flatten(1)
    predicted = spread[:, None].double() * (maps @ unit.flatten(1).double().T)
    found = scores.of(
        lambda rows, which: images[rows] - spread[rows, None, None, None] * unit[which], samples
    )
    return predicted, found


def _defined(name: str, found: Tensor, maps: Tensor, sums: Tensor, scores: Tensor) -> Tensor:
    flat = is_flat(maps.flatten(1)) | is_flat(sums)
    found = nan_where(name, found, flat, "the map is constant")
    return nan_where(name, found, is_flat(scores), "hiding pixels does not change the score")
