"""The maximizers: gradient ascent on images, independently for each unit, in batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

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
from explainkit.graph.autograd import prepare

OptimizerName = Literal["adam", "ascent"]
Schedule = Literal["constant", "cosine"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-12


@dataclass(frozen=True, kw_only=True)
class Gradient(Transforms):
    """Gradient ascent on the parameters of an image, with random transforms at each step.

    Each unit has its own random numbers and gradient scale, so its image doesn't depend on the rest
    of the batch. In the first 16 steps, at most half of them, gradients are passed through ReLUs
    that would block them for a whole channel, to activate units that start at zero
    (`rectifiers.redirect`).

    Attributes:
        steps: Number of gradient steps.
        lr: Step size, per parameter.
        optimizer: ``"adam"``, or ``"ascent"``: the gradient divided by its root mean square.
        schedule: Step size over time: ``"constant"``, or ``"cosine"``, annealed to zero.
        clip: Maximum root mean square of an image's gradient; None doesn't clip.
        init_std: Standard deviation of the random initial image.
    """

    steps: int = field(default=256, metadata={"least": 1})
    lr: float = field(default=0.2, metadata={"above": 0, "below": math.inf})
    optimizer: OptimizerName = "adam"
    schedule: Schedule = "cosine"
    clip: float | None = field(default=None, metadata={"above": 0, "below": math.inf})
    init_std: float = field(default=0.01, metadata={"above": 0, "below": math.inf})

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """The parameterization, and its mapping to pixels."""
        raise NotImplementedError

    def __call__(self, problem: Problem) -> OptimizedImages:
        """Optimizes one image ``[channel, height, width]`` per unit."""
        form, pixel_space = self.parts(problem)
        parameters = [p.requires_grad_() for p in form.start(problem, self.init_std)]
        alpha_channel = AlphaChannel(problem, pixel_space, self.lr) if problem.transparent else None
        opaque = alpha_channel.start(self.init_std) if alpha_channel else []
        alpha_parameters = [p.requires_grad_() for p in opaque]
        rule = _Optimizer(self, parameters + alpha_parameters)

        @torch.no_grad()
        def finished() -> tuple[Tensor, Tensor | None]:
            pixels = pixel_space(form.raw(parameters))
            if alpha_channel is None:
                # unbounded pixels are the parameters themselves, so copy them
                return pixels.clone(), None
            opacity = alpha_channel.opacity(alpha_parameters)
            return alpha_channel.on_flat(pixels, opacity), opacity

        units = len(problem.generators)
        last_moved = torch.full((units,), -1, device=problem.device)
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
            last_moved[moving] = step
            trace.append(scores)
            rule.step(step)
            problem.progress()
        images, opacity = finished()
        if self.steps in problem.keep:
            frames.append(images)
        scores = torch.stack(trace)
        stills = torch.stack(frames) if frames else images.new_zeros(0, *images.shape)
        return OptimizedImages(images, scores, _moved(scores, last_moved), stills, opacity)


def _moved(trace: Tensor, last_moved: Tensor) -> Tensor:
    """Whether each unit's image activates it, ``[unit]``.

    False for a unit whose gradient was always zero, and for one whose gradient vanished while its
    score fell back to the lowest of the run. A gradient that vanishes at a high score means that
    the unit saturates. ``last_moved`` is the last step with a gradient, or −1.
    """
    window = max(1, len(trace) // 10)
    lost = (last_moved < len(trace) - window) & (trace[-window:].amax(0) <= trace.amin(0))
    return (last_moved >= 0) & ~lost


def _backward(
    problem: Problem, inputs: Sequence[Tensor | None], *, redirected: bool
) -> tuple[Tensor, Tensor]:
    """Computes the parameters' gradients; returns the scores and which units moved, ``[unit]``.

    A unit moves if the gradient of its score with respect to the model's input is not zero. That
    leaves out penalties on the image, and gradients that exist only because they were redirected.
    """
    roots = [root for root in inputs if root is not None]
    leaves = [root.detach().requires_grad_() for root in roots]
    scores = problem.score(*leaves)
    if not scores.requires_grad:
        return scores, torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if len(scores) == 1:
        prepare(scores)
    passed = None
    if redirected:
        passed = rectifiers.redirect(scores)
    shown, *_ = gradients = torch.autograd.grad(
        scores.sum(), leaves, allow_unused=True, materialize_grads=True
    )
    torch.autograd.backward(roots, gradients)
    moving = (shown != 0).flatten(1).any(1)
    return scores.detach(), moving if passed is None else moving & ~passed


class _Optimizer:
    """Gradient ascent, independently for each unit.

    Adam: Kingma and Ba (2015), arXiv:1412.6980. Its ε is far below any gradient, so that steps
    don't depend on the scale of the objective.
    """

    def __init__(self, settings: Gradient, parameters: list[Tensor]) -> None:
        self.settings = settings
        self.parameters = parameters
        self.moment = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Takes one step along the parameters' gradients and clears them."""
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
            gradients = [g * scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
        if settings.optimizer == "ascent":
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=lr)
            return
        lr /= 1 - _BETA1 ** (step + 1)
        correction = math.sqrt(1 - _BETA2 ** (step + 1))
        state = zip(self.parameters, gradients, self.moment, self.square, strict=True)
        for parameter, gradient, moment, square in state:
            moment.mul_(_BETA1).add_(gradient, alpha=1 - _BETA1)
            square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            size = square.sqrt().div_(correction).add_(_EPSILON)
            parameter.addcdiv_(moment, size, value=lr)


def _rms(gradients: Sequence[Tensor]) -> Tensor:
    """Root mean square over all parameters of each unit, ``[unit]``."""
    count = sum(g[0].numel() for g in gradients)
    total = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    return (total / count).sqrt()


@dataclass(frozen=True, kw_only=True)
class Fourier(Gradient):
    """Images in Fourier space, with high frequencies scaled down.

    ``x = irfft2(z / f^decay)``: a step changes low frequencies more than high ones, which avoids
    high-frequency noise. Works for any size and any number of channels.

    Attributes:
        decay: 0 weights all frequencies equally, as `Pixel` does; 1 gives the spectrum of natural
            images; higher is smoother.

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
        """Fourier coefficients, kept within bounds by a sigmoid."""
        return FourierParameterization(*problem.shape[1:], self.decay), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class Pixel(Gradient):
    """Images parameterized by their pixels: the baseline, prone to high-frequency noise.

    References:
        Erhan, Bengio, Courville and Vincent (2009), "Visualizing Higher-Layer Features of a Deep
        Network", technical report 1341, Université de Montréal.
    """

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Pixels, kept within bounds by a sigmoid."""
        return Pixels(), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class LaplacianPyramid(Gradient):
    """Images parameterized by a Laplacian pyramid: one set of parameters per scale.

    Attributes:
        levels: Number of scales, each half the size of the one before; fewer for a small image.
        decay: Each level is weighted ``2^decay`` times the next finer one.

    References:
        Burt and Adelson (1983), "The Laplacian Pyramid as a Compact Image Code",
        doi:10.1109/TCOM.1983.1095851; for visualization, Mordvintsev (2016), "DeepDreaming with
        TensorFlow".
    """

    levels: int = field(default=4, metadata={"least": 1})
    decay: float = 0.5

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """A pyramid, kept within bounds by a sigmoid."""
        return Pyramid(*problem.shape[1:], self.levels, self.decay), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class CPPN(Gradient):
    """Images parameterized by a small network from coordinates to colors: smooth.

    Attributes:
        hidden: Units per layer.
        layers: Hidden layers.

    References:
        Stanley (2007), "Compositional pattern producing networks",
        doi:10.1007/s10710-007-9028-8; for visualization, Mordvintsev, Pezzotti, Schubert and Olah
        (2018), "Differentiable Image Parameterizations", Distill, doi:10.23915/distill.00012.
    """

    lr: float = 0.02
    hidden: int = field(default=16, metadata={"least": 1})
    layers: int = field(default=4, metadata={"least": 1})

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """One network per unit, kept within bounds by a sigmoid."""
        return Cppn(*problem.shape[1:], self.hidden, self.layers), PixelSpace.of(problem)


@dataclass(frozen=True, kw_only=True)
class MACO(Gradient):
    """Images parameterized by Fourier phases, with the magnitudes of real images.

    The magnitudes are those of the initial image, or else the mean over the data set. Works for any
    number of channels.

    References:
        Fel, Boissin, Boutin et al. (2023), "Unlocking Feature Visualization for Deeper Networks
        with MAgnitude Constrained Optimization", arXiv:2306.06805.
    """

    lr: float = 0.1
    crop: float = 0.3

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Phases, clamped to the bounds: with natural magnitudes few pixels exceed them."""
        return natural_phases(problem)


@dataclass(frozen=True, kw_only=True)
class Plain(Gradient):
    """Normalized gradient ascent from a random image, without transforms, as in the study.

    ``x ← x + lr · g / rms(g)`` for 180 steps, clamped to the valid range if it is known. The step
    decays to zero along a cosine, so the steps add up to ``lr · steps / 2 = 0.9`` per pixel (root
    mean square), half of the half range of typical model inputs. Of twice that sum, half of the
    pixels end at a bound, in pure black or white; display normalization can't restore the grays.

    References:
        Chollet (2016), "How convolutional neural networks see the world", The Keras Blog.
    """

    jitter: int | None = 0
    scale: float = 0.0
    rotate: float = 0.0
    noise: float = 0.0
    steps: int = 180
    lr: float = 0.01
    optimizer: OptimizerName = "ascent"
    init_std: float = 0.1

    def parts(self, problem: Problem) -> tuple[Parameterization, PixelSpace]:
        """Pixels, clamped to the bounds."""
        return Pixels(), PixelSpace.of(problem, hard=True)
