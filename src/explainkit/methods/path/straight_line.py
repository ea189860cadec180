"""Paths of images, and line integrals of the score's gradient along them."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import as_input
from explainkit.engine.passes import gradients
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution


class Visit(NamedTuple):
    """One point on the path of each image.

    Attributes:
        points: ``[batch, channel, height, width]``, as passed to the model, at least float32.
        scores: ``[batch]``, float64.
        gradients: Gradients of the scores with respect to the points, at least float32.
    """

    points: Tensor
    scores: Tensor
    gradients: Tensor


@runtime_checkable
class PathMethod(Protocol):
    """A method whose path other methods can use."""

    def walk(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[Visit]:
        """Yields the points from the start of the path to the images, both included."""
        ...


def spread(numbers: Tensor, image: Tensor) -> Tensor:
    """Numbers ``[n]``, shaped to multiply ``[n, *image.shape]``."""
    return numbers.view(-1, *[1] * image.dim())


def score_and_gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's own score ``[batch]`` and its gradient with respect to the image.

    Both come from one forward pass, in chunks that fit the memory budget.

    Raises:
        ModelError: The score does not depend on the images.
    """
    scores: list[Tensor] = []

    def run(part: slice) -> Tensor:
        found = gradients(model, inputs[part], target[part], image=True)
        scores.append(found.scores)
        assert found.image is not None
        return found.image

    slopes = in_chunks(run, len(inputs), chunk_size(model, inputs[0]))
    return torch.cat(scores), slopes


def visit(
    model: nn.Module, path: Iterable[Tensor], inputs: Tensor, target: Tensor
) -> Iterator[Visit]:
    """Scores and gradients at the points of paths that are known in advance.

    As many points as fit the memory budget run at once.

    Args:
        model: Gives scores ``[batch, classes]``.
        path: Points ``[batch, channel, height, width]``, one tensor per step.
        inputs: The images; the points are converted to their dtype.
        target: int64 ``[batch]``.
    """
    precise = torch.promote_types(inputs.dtype, torch.float32)
    batch = len(inputs)
    together = max(chunk_size(model, inputs[0]) // batch, 1)
    steps = iter(path)
    while part := list(islice(steps, together)):
        points = torch.cat(part).to(inputs.dtype)
        scores, slopes = score_and_gradient(model, points, target.repeat(len(part)))
        steps_of = partial(torch.unflatten, dim=0, sizes=(len(part), batch))
        yield from map(
            Visit,
            steps_of(points.to(precise)),
            steps_of(scores.double()),
            steps_of(slopes.to(precise)),
        )


def line_integral(visits: Iterable[Visit], dtype: torch.dtype) -> Attribution:
    """The integral of the gradient along a path, by the trapezoidal rule.

    ``a = Σ_k (x_{k+1} − x_k) · (∇S(x_k) + ∇S(x_{k+1})) / 2``: exact for every score that is
    quadratic between neighboring points, without a derivative of the path.

    Args:
        visits: The path from its start to the image.
        dtype: Dtype of the map.

    Returns:
        The map with its ``completeness_gap`` against the score at the start, and a warning if that
        is large.
    """
    total: Tensor | float = 0.0
    change: Tensor | float = 0.0
    for before, now in pairwise(visits):
        total = total + (now.points - before.points) * (before.gradients + now.gradients) / 2
        change = change + (now.scores - before.scores)
    if not (isinstance(total, Tensor) and isinstance(change, Tensor)):
        raise MethodError("expected a path of at least two points")
    return complete(Attribution(total.to(dtype)), change, "raise steps")


def completeness_gap(values: Tensor, change: Tensor) -> Tensor:
    """``|Σa − ΔS| / max(|ΔS|, 0.05)``: the deviation of each map's sum from the score's change.

    Args:
        values: Maps ``[batch, channel, height, width]``.
        change: The score minus that of the baseline, float64 ``[batch]``.

    Examples:
        >>> completeness_gap(torch.ones(1, 1, 2, 2), torch.tensor([5.0]).double())
        tensor([0.2000], dtype=torch.float64)
    """
    return (values.double().flatten(1).sum(1) - change).abs() / change.abs().clamp(min=0.05)


def complete(
    found: Attribution,
    change: Tensor,
    remedy: str,
    *,
    name: str = "completeness_gap",
    limit: float = 0.05,
) -> Attribution:
    """Adds the gap of a map that should sum to ``change``, and a warning if it is large.

    A sum that deviates by no more than the rounding of the map's own values is as good as its dtype
    allows, so it is not warned of, however small the change is.

    Args:
        found: The map.
        change: What each map should sum to, float64 ``[batch]``.
        remedy: What to do about a large gap.
        name: The diagnostic that the gap becomes.
        limit: The largest gap without a warning.
    """
    gap = completeness_gap(found.values, change)
    flat = found.values.flatten(1)
    rounding = torch.finfo(flat.dtype).eps * flat.double().abs().sum(1)
    wide = (gap > limit) & (gap * change.abs().clamp(min=0.05) > rounding)
    warning = f"{name} above {limit:g}: the map does not add up; {remedy}"
    return found.saying(*([warning] if bool(wide.any()) else []), **{name: gap})


def as_baselines(model: nn.Module, baseline: float | Tensor, inputs: Tensor) -> Tensor:
    """A baseline for each image; the batch stride of a shared one is 0.

    Args:
        model: The model that the method is called with. If it starts at a layer, a baseline image
            is replaced by the layer's output on it.
        baseline: A number, a tensor ``[channel, height, width]``, or one per image.
        inputs: Images ``[batch, channel, height, width]``.

    Raises:
        MethodError: The baseline does not fit the images.
    """
    baseline = as_input(model, baseline, "baseline")
    if isinstance(baseline, Tensor):
        baseline = baseline.to(inputs)
        one = inputs.shape[1:]
        if baseline.shape not in {inputs.shape, one, (1, *one)}:
            raise MethodError(
                f"baseline: expected a number or a tensor {list(one)} or {list(inputs.shape)}, "
                f"got {list(baseline.shape)}"
            )
    else:
        baseline = torch.full_like(inputs[0], baseline)
    if not bool(baseline.isfinite().all()):
        raise MethodError("baseline: expected finite numbers, got NaN or infinity")
    return baseline.expand_as(inputs)


def several_baselines(model: nn.Module, baselines: float | Tensor, inputs: Tensor) -> Tensor:
    """Baselines that every image is compared with, ``[n, channel, height, width]``.

    Args:
        model: As in `as_baselines`.
        baselines: A number, one image, or several.
        inputs: Images ``[batch, channel, height, width]``.

    Raises:
        MethodError: The baselines do not fit the images, or there are none.
    """
    baselines = as_input(model, baselines, "baselines")
    if not isinstance(baselines, Tensor):
        return torch.full_like(inputs[:1].detach(), baselines)
    baselines = baselines[None] if baselines.shape == inputs.shape[1:] else baselines
    if baselines.shape[1:] != inputs.shape[1:] or not len(baselines):
        raise MethodError(
            f"baselines: expected a number or [n, {', '.join(map(str, inputs.shape[1:]))}] of at "
            f"least one image, got {list(baselines.shape)}"
        )
    return baselines.to(inputs)
