"""The maximizers: gradient ascent over images, each unit for itself, all of them at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from explainkit.activation_maximization import rectifiers
from explainkit.activation_maximization.parameterization import (
    AlphaChannel,
    Cppn,
    FourierParameterization,
    Parameterization,
    Pixels,
    PixelSpace,
    Pyramid,
    natural_phases,
)
from explainkit.activation_maximization.problem import OptimizedImages, Problem
from explainkit.activation_maximization.transforms import Transforms
from explainkit.errors import MethodError

OptimizerName = Literal["adam", "ascent"]
Schedule = Literal["constant", "cosine"]

_MOMENT, _SQUARE, _TINY = 0.9, 0.999, 1e-12

_REDRAWS = 64
"""Fresh starts for an image that nothing answers to, before its unit counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Gradient(Transforms):
    """Gradient ascent on some parameters of an image, with random transforms at each step.

    Each unit has its own random numbers, step size and gradient scale, so that an image doesn't
    depend on its neighbors. In the first 16 steps, or half of all, gradients pass rectifiers that
    keep a channel off all over the image, which wakes it (`rectifiers.redirect`). An image to
    which its unit does not answer even then is drawn afresh, ever more contrasted, until it does.

    Attributes:
        steps: Gradient steps.
        lr: Size of a step, per parameter.
        optimizer: ``"adam"``, or ``"ascent"``: the gradient divided by its root mean square.
        schedule: The step size over time: constant, or falling to zero along half a cosine.
        clip: Largest root mean square of an image's gradient; None leaves it.
        init_std: Standard deviation of the random start.
    """

    steps: int = 256
    lr: float = 0.2
    optimizer: OptimizerName = "adam"
    schedule: Schedule = "cosine"
    clip: float | None = None
    init_std: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise MethodError(f"steps: expected at least 1, got {self.steps}")
        for name in ("lr", "init_std", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise MethodError(f"{name}: expected a positive number, got {value}")
        for name, kind in (("optimizer", OptimizerName), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise MethodError(f"{name}: expected {known}, got {getattr(self, name)!r}")

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """What is optimized, and how it becomes an image."""
        raise NotImplementedError

    def __call__(self, problem: Problem) -> OptimizedImages:
        """Finds one image ``[channel, height, width]`` per unit."""
        form, pixel_space = self.parts(problem)
        parameters = [p.requires_grad_() for p in form.start(problem, self.init_std)]
        alpha_channel = AlphaChannel(problem, pixel_space, self.lr) if problem.transparent else None
        alpha_parameters = (
            [p.requires_grad_() for p in alpha_channel.start(self.init_std)]
            if alpha_channel
            else []
        )
        rule = _Optimizer(self, parameters + alpha_parameters)

        @torch.no_grad()
        def finished() -> tuple[Tensor, Tensor | None]:
            pixels = pixel_space(form.raw(parameters))
            if alpha_channel is None:
                # a copy: unbounded pixels are the parameters themselves
                return pixels.clone(), None
            opacity = alpha_channel.opacity(alpha_parameters)
            return alpha_channel.on_flat(pixels, opacity), opacity

        units = len(problem.generators)
        answered = torch.full((units,), -1, device=problem.device)  # the last step at which it did
        tries = min(_REDRAWS, self.steps - 1)
        trace, frames = [], []
        for step in range(self.steps):
            if step in problem.keep:
                frames.append(finished()[0])
            pixels = pixel_space(form.raw(parameters))
            opacity, seen = None, pixels
            if alpha_channel is not None:
                opacity = alpha_channel.opacity(alpha_parameters)
                seen = alpha_channel.background().lerp(pixels, opacity)
            redirected = step < min(rectifiers.STEPS, self.steps // 2)
            inputs = [self.transform(seen, problem), pixels, opacity]
            scores, moving = _backward(problem, inputs, redirected=redirected)
            answered[moving] = step
            trace.append(scores)
            rule.step(step)
            silent = (
                [unit for unit in range(units) if answered[unit] < 0]
                if not redirected and step < tries
                else []
            )
            if silent:
                # log-spaced from the start's init_std to full contrast
                init_std = self.init_std ** (1 - (step + 1) / tries)
                # only the silent units' generators: nobody else's numbers may shift
                own = replace(problem, generators=[problem.generators[u] for u in silent])
                _replace_rows(parameters, form.start(own, init_std), silent)
            problem.progress()
        images, opacity = finished()
        if self.steps in problem.keep:
            frames.append(images)
        empty = images.new_zeros(0, *images.shape)
        kept = torch.stack(frames) if frames else empty
        whole = torch.stack(trace)
        return OptimizedImages(images, whole, _found(whole, answered), kept, opacity)


def _found(trace: Tensor, answered: Tensor) -> Tensor:
    """Which units' images are of something, ``[unit]``.

    A unit that answered once, fell silent and ended no higher than it ever stood was lost on the
    way. One that fell silent at the top of a saturated answer was not.
    """
    window = max(1, len(trace) // 10)
    lost = (answered < len(trace) - window) & (trace[-window:].amax(0) <= trace.amin(0))
    return (answered >= 0) & ~lost


def _backward(
    problem: Problem, inputs: Sequence[Tensor | None], *, redirected: bool
) -> tuple[Tensor, Tensor]:
    """Fills the parameters' gradients; gives the scores and which units answered, ``[unit]``.

    The gradient is taken at the border between model and image, where a penalty's part can be
    told from the model's. A unit whose gradient had to be let through a rectifier did not answer.

    Args:
        problem: Has the score.
        inputs: What it takes: what the model is shown, the images, and their opacity or None.
        redirected: Whether gradients pass rectifiers that are off: from a flat image all of them,
            else those that keep a whole channel off.
    """
    roots = [root for root in inputs if root is not None]
    leaves = [root.detach().requires_grad_() for root in roots]
    scores = problem.score(*leaves)
    if not scores.requires_grad:
        return scores, torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    passed = None
    if redirected:
        passed = rectifiers.redirect(scores, everywhere=problem.flat is not None)
    shown, *_ = slopes = torch.autograd.grad(
        scores.sum(), leaves, allow_unused=True, materialize_grads=True
    )
    torch.autograd.backward(roots, slopes)
    moving = (shown != 0).flatten(1).any(1)
    return scores.detach(), moving if passed is None else moving & ~passed


class _Optimizer:
    """Turns gradients into steps, each unit for itself.

    Adam: Kingma and Ba (2015), arXiv:1412.6980. Its ε is far below any gradient, so that a step
    doesn't depend on the scale of an objective.
    """

    def __init__(self, settings: Gradient, parameters: list[Tensor]) -> None:
        self.settings = settings
        self.parameters = parameters
        self.moment = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, step: int) -> None:
        """One step uphill, from the parameters' gradients, which it takes away."""
        settings = self.settings
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        lr = settings.lr
        if settings.schedule == "cosine":
            lr *= (1 + math.cos(math.pi * step / settings.steps)) / 2
        if settings.optimizer == "ascent" or settings.clip is not None:
            size = _rms(gradients)
            scale = 1 / size.clamp_min(1e-30)
            if settings.optimizer == "adam":
                scale = (scale * (settings.clip or 0)).clamp_max(1)
            gradients = [g * _column(scale, g) for g in gradients]
        if settings.optimizer == "ascent":
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=lr)
            return
        lr /= 1 - _MOMENT ** (step + 1)
        correction = math.sqrt(1 - _SQUARE ** (step + 1))
        state = zip(self.parameters, gradients, self.moment, self.square, strict=True)
        for parameter, gradient, moment, square in state:
            moment.mul_(_MOMENT).add_(gradient, alpha=1 - _MOMENT)
            square.mul_(_SQUARE).addcmul_(gradient, gradient, value=1 - _SQUARE)
            size = square.sqrt().div_(correction).add_(_TINY)
            parameter.addcdiv_(moment, size, value=lr)


def _rms(gradients: Sequence[Tensor]) -> Tensor:
    """Root mean square over all parameters of each unit, ``[unit]``."""
    count = sum(g[0].numel() for g in gradients)
    total = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    return (total / count).sqrt()


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


@torch.no_grad()
def _replace_rows(tensors: Sequence[Tensor], fresh: Sequence[Tensor], rows: list[int]) -> None:
    for tensor, new in zip(tensors, fresh, strict=True):
        tensor[rows] = new


@dataclass(frozen=True, kw_only=True)
class Fourier(Gradient):
    """OptimizedImages in Fourier space, where the finer frequencies are scaled down.

    ``x = irfft2(z / f^decay)``: a step changes large forms more than fine ones, so that the
    image isn't a carpet of edges. Works for any size and any number of channels.

    Attributes:
        decay: 0 is as `Pixel`, 1 the spectrum of natural images; more is smoother.

    References:
        Olah, Mordvintsev and Schubert (2017), "Feature Visualization", Distill,
        doi:10.23915/distill.00007.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()).eval()
        >>> v = ek.maximize(net, 'channels("0")', shape=(1, 9, 7), maximizer="fourier", steps=8)
        >>> v.images.shape, v.trace.shape
        (torch.Size([4, 1, 9, 7]), torch.Size([8, 4]))
    """

    decay: float = 1.0

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Fourier coefficients on a soft pixel_space."""
        return FourierParameterization(*problem.shape[1:], self.decay), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class Pixel(Gradient):
    """OptimizedImages on the pixels themselves: the baseline, which fills in edges first.

    References:
        Erhan, Bengio, Courville and Vincent (2009), "Visualizing Higher-Layer Features of a Deep
        Network", technical report 1341, Université de Montréal.
    """

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Pixels on a soft pixel_space."""
        return Pixels(), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class LaplacianPyramid(Gradient):
    """OptimizedImages on a Laplacian pyramid: coarse and fine forms are parameters of their own.

    Attributes:
        levels: Sizes, each half of the one before, where the image is large enough.
        decay: Each level counts ``2^decay`` times the next finer one.

    References:
        Burt and Adelson (1983), "The Laplacian Pyramid as a Compact Image Code",
        doi:10.1109/TCOM.1983.1095851.
    """

    levels: int = 4
    decay: float = 0.5

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """A pyramid on a soft pixel_space.

        Raises:
            MethodError: ``levels`` is below 1.
        """
        if self.levels < 1:
            raise MethodError(f"levels: expected at least 1, got {self.levels}")
        return Pyramid(*problem.shape[1:], self.levels, self.decay), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class CPPN(Gradient):
    """OptimizedImages on the weights of a small network from coordinates to colors: smooth at any size.

    Attributes:
        hidden: Units per layer.
        layers: Hidden layers.

    References:
        Mordvintsev, Pezzotti, Schubert and Olah (2018), "Differentiable Image Parameterizations",
        Distill, doi:10.23915/distill.00012.
    """

    lr: float = 0.02
    hidden: int = 16
    layers: int = 4

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """A network per unit on a soft pixel_space.

        Raises:
            MethodError: ``hidden`` or ``layers`` is below 1.
        """
        if self.hidden < 1 or self.layers < 1:
            raise MethodError("hidden, layers: expected at least 1")
        return Cppn(*problem.shape[1:], self.hidden, self.layers), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class MACO(Gradient):
    """OptimizedImages on the phases alone: each frequency keeps the magnitude it has in real images.

    The magnitudes are the mean over the data set given, of any number of channels, or those of the
    image to start from.

    References:
        Fel, Boissin, Boutin et al. (2023), "Unlocking Feature Visualization for Deeper Networks
        with MAgnitude Constrained Optimization", arXiv:2306.06805.
    """

    lr: float = 0.1
    crop: float = 0.3

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Phases on a hard pixel_space: their image already has natural values."""
        return natural_phases(problem)


@dataclass(frozen=True, kw_only=True)
class Plain(Gradient):
    """The classroom experiment: a random image and plain normalized ascent, no transforms.

    ``x ← x + lr · g / rms(g)`` for 180 steps, cut off at the valid pixels where they are known.

    References:
        Chollet (2016), "How convolutional neural networks see the world", The Keras Blog.
    """

    jitter: int | None = 0
    scale: float = 0.0
    rotate: float = 0.0
    noise: float = 0.0
    steps: int = 180
    optimizer: OptimizerName = "ascent"
    schedule: Schedule = "constant"
    init_std: float = 0.1

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Pixels on a hard pixel_space."""
        return Pixels(), PixelSpace.of(problem, hard=True)
