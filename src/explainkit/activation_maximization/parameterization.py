"""What is optimized, and how it becomes an image.

A parameterisation decides which images are near: in Fourier space with decaying frequencies,
smooth ones are. Each turns parameters ``[unit, …]`` into a raw image ``[unit, channel, height,
width]`` of about unit variance per unit of parameter; `PixelSpace` maps it to valid pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.activation_maximization.problem import Problem
from explainkit.errors import MethodError


def frequencies(height: int, width: int) -> Tensor:
    """Length of each frequency of the real Fourier transform, cycles per pixel.

    Returns:
        ``[height, width // 2 + 1]``.

    Examples:
        >>> frequencies(3, 4)
        tensor([[0.0000, 0.2500, 0.5000],
                [0.3333, 0.4167, 0.6009],
                [0.3333, 0.4167, 0.6009]])
    """
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


def multiplicity(height: int, width: int) -> Tensor:
    """How often each coefficient of the real transform stands in the full one: 1 or 2."""
    twice = torch.full((height, width // 2 + 1), 2.0)
    twice[:, 0] = 1
    if width % 2 == 0:
        twice[:, -1] = 1
    return twice


def _image(spectrum: Tensor, height: int, width: int) -> Tensor:
    # the size must be said: half a spectrum doesn't tell odd widths from even ones
    image: Tensor = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    return image


class Pixels:
    """One parameter per pixel."""

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Normal numbers of that standard deviation."""
        return [init_std * problem.normal(*problem.shape)]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """The parameters as they are."""
        return parameters[0]


@dataclass(frozen=True)
class FourierParameterization:
    """Fourier coefficients, the finer the smaller: ``x = irfft2(z / f^decay)``, any size.

    Source: Olah, Mordvintsev and Schubert (2017), "Feature Visualization",
    doi:10.23915/distill.00007.

    Attributes:
        height: Of the image.
        width: Of the image, odd or even.
        decay: 0 is white, 1 is the spectrum of natural images.
    """

    height: int
    width: int
    decay: float

    @cached_property
    def weights(self) -> Tensor:
        """``f^−decay``, scaled to a mean square of 1 over all frequencies."""
        lowest = 1 / max(self.height, self.width)
        weights = frequencies(self.height, self.width).clamp_min(lowest) ** -self.decay
        square = weights.square() * multiplicity(self.height, self.width)
        return weights / math.sqrt(float(square.sum()) / (self.height * self.width))

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Normal coefficients, so that the image's standard deviation is ``init_std``."""
        shape = (problem.shape[0], self.height, self.width // 2 + 1, 2)
        return [init_std / math.sqrt(2) * problem.normal(*shape)]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """``irfft2(z · weights)``, orthonormal."""
        weights = self.weights.to(parameters[0])
        spectrum = torch.view_as_complex(parameters[0]) * weights
        return _image(spectrum, self.height, self.width)


@dataclass(frozen=True)
class Phases:
    """Only the phase of each frequency; its magnitude stays that of natural images.

    Source: Fel, Boissin, Boutin et al. (2023), "Unlocking Feature Visualization for Deeper
    Networks with MAgnitude Constrained Optimization", arXiv:2306.06805.

    Attributes:
        magnitude: ``[channel, height, width // 2 + 1]``.
        phase: To start from, of the same shape, or None for random ones.
    """

    magnitude: Tensor
    height: int
    width: int
    phase: Tensor | None = None

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Uniform random phases, or those given and a little noise."""
        shape = self.magnitude.shape
        if self.phase is None:
            # that of a real white image: its coefficients come in conjugate pairs
            white = torch.fft.rfft2(problem.normal(*problem.shape).float())
            return [white.angle().to(problem.dtype)]
        return [self.phase.to(problem.dtype) + init_std * problem.normal(*shape)]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """``irfft2(magnitude · exp(i φ))``, orthonormal."""
        spectrum = torch.polar(
            self.magnitude.to(parameters[0]).expand_as(parameters[0]), *parameters
        )
        return _image(spectrum, self.height, self.width)


@dataclass(frozen=True)
class Pyramid:
    """A Laplacian pyramid: images of halving size, enlarged and summed.

    Source: Burt and Adelson (1983), "The Laplacian Pyramid as a Compact Image Code",
    doi:10.1109/TCOM.1983.1095851; for visualization, Mordvintsev (2016), "DeepDreaming with
    TensorFlow".

    Attributes:
        height: Of the image.
        width: Of the image.
        levels: How many there are at most; the smallest is at least 2 pixels wide.
        decay: Each level is ``2^decay`` times the next finer one.
    """

    height: int
    width: int
    levels: int
    decay: float

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each level, finest first."""
        found = [(-(-self.height // 2**k), -(-self.width // 2**k)) for k in range(self.levels)]
        return [size for k, size in enumerate(found) if k == 0 or min(size) >= 2]

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Normal numbers per level."""
        return [init_std * problem.normal(problem.shape[0], *size) for size in self.sizes]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """The weighted sum of the enlarged levels."""
        gains = [2 ** (k * self.decay) for k in range(len(parameters))]
        norm = math.sqrt(sum(gain**2 for gain in gains))
        total, *coarser = [
            gain / norm * level for gain, level in zip(gains, parameters, strict=True)
        ]
        for level in coarser:
            size = (self.height, self.width)
            total = total + F.interpolate(level, size, mode="bilinear", align_corners=False)
        return total


@dataclass(frozen=True)
class Cppn:
    """A small network from coordinates to colors, one per unit: smooth at any size.

    Source: Stanley (2007), "Compositional pattern producing networks",
    doi:10.1007/s10710-007-9028-8; for visualization, Mordvintsev, Pezzotti, Schubert and Olah
    (2018), "Differentiable Image Parameterizations", doi:10.23915/distill.00012.

    Attributes:
        height: Of the image.
        width: Of the image.
        hidden: Units per layer.
        layers: Hidden layers.
    """

    height: int
    width: int
    hidden: int
    layers: int

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Weights and biases per layer; the last layer's give the image its init_std."""
        widths = [3, *[2 * self.hidden] * self.layers]
        parameters = []
        for inner in widths[:-1]:
            parameters += [problem.normal(inner, self.hidden) / math.sqrt(inner)]
            parameters += [0 * parameters[-1][:, :1]]
        last = problem.normal(widths[-1], problem.shape[0]) / math.sqrt(widths[-1])
        return [*parameters, init_std * last, 0 * last[:, :1]]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """The network at every pixel."""
        x = self._coordinates.to(parameters[0]).expand(len(parameters[0]), -1, -1)
        pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
        for weight, bias in pairs[:-1]:
            angle = torch.atan(x @ weight + bias)
            # both centered to unit variance for standard normal inputs
            x = torch.cat([angle / 0.67, (angle.square() - 0.45) / 0.396], 2)
        weight, bias = pairs[-1]
        flat = x @ weight + bias
        return flat.transpose(1, 2).reshape(len(flat), -1, self.height, self.width)

    @cached_property
    def _coordinates(self) -> Tensor:
        """``[height · width, 3]``: down, right and distance, the shorter side from −√3 to √3."""
        side = min(self.height, self.width)
        down, right = (
            (torch.arange(size) - (size - 1) / 2) * (2 * math.sqrt(3) / side)
            for size in (self.height, self.width)
        )
        y, x = torch.meshgrid(down, right, indexing="ij")
        return torch.stack([y, x, torch.hypot(y, x)], -1).flatten(0, 1)


Parameterization = Pixels | FourierParameterization | Phases | Pyramid | Cppn


@dataclass(frozen=True, eq=False)
class PixelSpace:
    """From a raw image to model-input space.

    With bounds, ``x = low + (high − low) · σ(base + M r)``, or, hard, ``x = base + M r`` cut off
    at the bounds; without bounds ``x = base + M r``. M mixes channels as the data set's colors do
    (the identity without a data set); ``base`` is the image to start from.

    Attributes:
        base: What a raw image of zeros gives, before σ, ``[channel, height, width]``, or None;
            ``[unit, channel, 1, 1]`` where each unit starts from a flat one of its own.
        low: Smallest valid value per channel, or None.
        high: Largest valid value per channel, or None.
        color: ``M``, ``[channel, channel]``, or None.
        hard: Cut off instead of squashing.
    """

    base: Tensor | None
    low: Tensor | None
    high: Tensor | None
    color: Tensor | None
    hard: bool

    @classmethod
    def of(cls, problem: Problem, *, hard: bool = False) -> "PixelSpace":
        """The pixel_space of a problem, from its bounds, its start and its data set."""
        base = problem.start if problem.flat is None else problem.flat
        if base is not None and problem.low is not None and problem.high is not None and not hard:
            # kept off the bounds, where σ has no slope; a flat image is itself the thing to beat
            edge = 0.01 if problem.flat is None else 0.001
            share = (base - problem.low) / (problem.high - problem.low)
            base = torch.logit(share.clamp(edge, 1 - edge))
        color = None
        if problem.statistics is not None and problem.shape[0] == 3:
            color = problem.statistics.color
        return cls(base, problem.low, problem.high, color, hard)

    def __call__(self, raw: Tensor) -> Tensor:
        """The image ``[unit, channel, height, width]``."""
        if self.color is not None:
            raw = torch.einsum("ij,ujyx->uiyx", self.color.to(raw), raw)
        if self.base is not None:
            raw = raw + self.base
        if self.low is None or self.high is None:
            return raw
        if self.hard:
            return torch.minimum(torch.maximum(raw, self.low), self.high)
        return self.low + (self.high - self.low) * torch.sigmoid(raw)


class AlphaChannel:
    """How opaque each pixel of an image is; through the rest one sees a background.

    ``o x + (1 − o) b`` with ``o = σ(irfft2(z / f))``. The background ``b`` is a smooth random
    image, a new one at each step, so that what a unit needs must be opaque.

    Source: Mordvintsev, Pezzotti, Schubert and Olah (2018), "Differentiable Image
    Parameterizations", doi:10.23915/distill.00012, on semi-transparent patterns.

    Args:
        problem: Whose images.
        pixel_space: On which they are.
        lr: Of the ascent: the opacity changes as fast at any.
    """

    def __init__(self, problem: Problem, pixel_space: PixelSpace, lr: float) -> None:
        self._gain = 0.2 / lr
        self._problem = problem
        self._canvas = replace(pixel_space, base=None, hard=False)
        self._spectrum = FourierParameterization(*problem.shape[1:], 1.0)

    def start(self, init_std: float) -> list[Tensor]:
        """Parameters of an opacity near a half."""
        problem = self._problem
        own = replace(problem, shape=(1, *problem.shape[1:]))
        return self._spectrum.start(own, init_std / self._gain)

    def opacity(self, parameters: Sequence[Tensor]) -> Tensor:
        """``σ(irfft2(z / f))``, ``[unit, 1, height, width]``."""
        return torch.sigmoid(self._gain * self._spectrum.raw(parameters))

    def background(self) -> Tensor:
        """A random image per unit, ``[unit, channel, height, width]``."""
        return self._canvas(self._spectrum.raw(self._spectrum.start(self._problem, 1.0)))

    def on_flat(self, images: Tensor, opacity: Tensor) -> Tensor:
        """The images on the middle of the valid range, or on 0."""
        return self._canvas(torch.zeros_like(images)).lerp(images, opacity)


def natural_phases(problem: Problem) -> tuple[Phases, PixelSpace]:
    """Phases with the magnitudes of the image to start from, or else of the data set.

    Raises:
        MethodError: The problem has neither.
    """
    height, width = problem.shape[1:]
    pixel_space = replace(PixelSpace.of(problem, hard=True), base=None)
    if problem.start is not None:
        start = problem.start.float()
        if pixel_space.color is not None:
            start = torch.einsum("ij,jyx->iyx", torch.linalg.inv(pixel_space.color), start)
        spectrum = torch.fft.rfft2(start, norm="ortho")
        return Phases(spectrum.abs(), height, width, spectrum.angle()), pixel_space
    if problem.statistics is None:
        raise MethodError("maco: expected images whose magnitudes to keep: give dataset=")
    return Phases(problem.statistics.magnitude, height, width), pixel_space
