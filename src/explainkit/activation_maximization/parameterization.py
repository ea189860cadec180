"""Parameterizations: which variables are optimized, and how they become an image.

A parameterization determines which images are easy to reach: Fourier coefficients with decaying
weights favor smooth ones. Each maps parameters ``[unit, …]`` to a raw image ``[unit, channel,
height, width]`` whose variance is about 1 for parameters of unit variance; `PixelSpace` maps it to
valid pixels.
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
    """Magnitude of each frequency of the real Fourier transform, in cycles per pixel.

    Examples:
        >>> frequencies(3, 4)
        tensor([[0.0000, 0.2500, 0.5000],
                [0.3333, 0.4167, 0.6009],
                [0.3333, 0.4167, 0.6009]])
    """
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


def multiplicity(height: int, width: int) -> Tensor:
    """How often each coefficient of the real transform occurs in the full one: 1 or 2."""
    twice = torch.full((height, width // 2 + 1), 2.0)
    twice[:, 0] = 1
    if width % 2 == 0:
        twice[:, -1] = 1
    return twice


def _image(spectrum: Tensor, height: int, width: int) -> Tensor:
    # half a spectrum doesn't determine whether the width is odd or even
    image: Tensor = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    return image


class Pixels:
    """One parameter per pixel."""

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Normal pixels with standard deviation ``init_std``."""
        return [init_std * problem.normal(*problem.shape)]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """The parameters themselves."""
        return parameters[0]


@dataclass(frozen=True)
class FourierParameterization:
    """Fourier coefficients, weighted less at higher frequencies; see `optimize.Fourier`."""

    height: int
    width: int
    decay: float

    @cached_property
    def weights(self) -> Tensor:
        """``f^−decay``, scaled to mean square 1 over all frequencies."""
        lowest = 1 / max(self.height, self.width)
        weights = frequencies(self.height, self.width).clamp_min(lowest) ** -self.decay
        square = weights.square() * multiplicity(self.height, self.width)
        return weights / math.sqrt(float(square.sum()) / (self.height * self.width))

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Normal coefficients for which the image's standard deviation is ``init_std``."""
        shape = (problem.shape[0], self.height, self.width // 2 + 1, 2)
        return [init_std / math.sqrt(2) * problem.normal(*shape)]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """``irfft2(z · weights)``, orthonormal."""
        weights = self.weights.to(parameters[0])
        spectrum = torch.view_as_complex(parameters[0]) * weights
        return _image(spectrum, self.height, self.width)


@dataclass(frozen=True)
class Phases:
    """The phase of each frequency; the magnitude stays fixed; see `optimize.MACO`.

    Attributes:
        magnitude: ``[channel, height, width // 2 + 1]``.
        phase: Initial phases, of the same shape, or None for random ones.
    """

    magnitude: Tensor
    height: int
    width: int
    phase: Tensor | None = None

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Uniform random phases, or the given ones plus noise."""
        shape = self.magnitude.shape
        if self.phase is None:
            # phases of a real image of white noise, whose coefficients come in conjugate pairs
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
    """Images of successively halved size, upsampled and summed; see `optimize.LaplacianPyramid`.

    All levels but the finest are at least 2 × 2 pixels.
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
        """Normal pixels at each level."""
        return [init_std * problem.normal(problem.shape[0], *size) for size in self.sizes]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """The weighted sum of the upsampled levels."""
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
    """A compositional pattern-producing network per unit; see `optimize.CPPN`."""

    height: int
    width: int
    hidden: int
    layers: int

    def start(self, problem: Problem, init_std: float) -> list[Tensor]:
        """Weights and biases per layer; the last layer is scaled by ``init_std``."""
        widths = [3, *[2 * self.hidden] * self.layers]
        parameters = []
        for inner in widths[:-1]:
            parameters += [problem.normal(inner, self.hidden) / math.sqrt(inner)]
            parameters += [0 * parameters[-1][:, :1]]
        last = problem.normal(widths[-1], problem.shape[0]) / math.sqrt(widths[-1])
        return [*parameters, init_std * last, 0 * last[:, :1]]

    def raw(self, parameters: Sequence[Tensor]) -> Tensor:
        """The network evaluated at every pixel."""
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
        """``[height · width, 3]``: y, x and radius; the shorter side spans −√3 to √3."""
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
    """Maps a raw image to model-input space: correlates the colors and keeps pixels valid.

    With bounds, ``x = low + (high − low) · σ(base + M r)``, or, if ``hard``, ``x = base + M r``
    clamped to the bounds; without bounds, ``x = base + M r``. M correlates the colors as in the
    data set (the identity without one); ``base`` is the initial image.

    Attributes:
        base: The value of a zero raw image before σ, ``[channel, height, width]``, or None;
            ``[unit, channel, 1, 1]`` if each unit starts from its own single-color image.
        low: Smallest valid value per channel, or None.
        high: Largest valid value per channel, or None.
        color: ``M``, ``[channel, channel]``, or None.
        hard: Clamp instead of applying a sigmoid.
    """

    base: Tensor | None
    low: Tensor | None
    high: Tensor | None
    color: Tensor | None
    hard: bool

    @classmethod
    def of(cls, problem: Problem, *, hard: bool = False) -> "PixelSpace":
        """The pixel space for a problem's bounds, initial image and data set."""
        base = problem.start if problem.flat is None else problem.flat
        if base is not None and problem.low is not None and problem.high is not None and not hard:
            # away from the bounds, where σ has no gradient; a single-color image stays near them
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
    """The opacity of each pixel, optimized along with the image.

    The model is given ``o x + (1 − o) b`` with ``o = σ(irfft2(z / f))``. The background ``b`` is a
    smooth random image, drawn anew at each step, so only what activates the unit stays opaque.

    Source: Mordvintsev, Pezzotti, Schubert and Olah (2018), "Differentiable Image
    Parameterizations", doi:10.23915/distill.00012, on semi-transparent patterns.
    """

    def __init__(self, problem: Problem, pixel_space: PixelSpace, lr: float) -> None:
        self._gain = 0.2 / lr
        self._problem = problem
        self._pixel_space = replace(pixel_space, base=None, hard=False)
        self._spectrum = FourierParameterization(*problem.shape[1:], 1.0)

    def start(self, init_std: float) -> list[Tensor]:
        """Parameters of an opacity near 0.5."""
        problem = self._problem
        own = replace(problem, shape=(1, *problem.shape[1:]))
        return self._spectrum.start(own, init_std / self._gain)

    def opacity(self, parameters: Sequence[Tensor]) -> Tensor:
        """``σ(irfft2(z / f))``, ``[unit, 1, height, width]``."""
        return torch.sigmoid(self._gain * self._spectrum.raw(parameters))

    def background(self) -> Tensor:
        """A random image per unit, ``[unit, channel, height, width]``."""
        return self._pixel_space(self._spectrum.raw(self._spectrum.start(self._problem, 1.0)))

    def on_flat(self, images: Tensor, opacity: Tensor) -> Tensor:
        """Composites the images on the middle of the valid range, or on 0."""
        return self._pixel_space(torch.zeros_like(images)).lerp(images, opacity)


def natural_phases(problem: Problem) -> tuple[Phases, PixelSpace]:
    """Phases with the magnitudes of the initial image or, without one, of the data set."""
    height, width = problem.shape[1:]
    pixel_space = replace(PixelSpace.of(problem, hard=True), base=None)
    if problem.start is not None:
        start = problem.start.float()
        if pixel_space.color is not None:
            start = torch.einsum("ij,jyx->iyx", torch.linalg.inv(pixel_space.color), start)
        spectrum = torch.fft.rfft2(start, norm="ortho")
        return Phases(spectrum.abs(), height, width, spectrum.angle()), pixel_space
    if problem.statistics is None:
        raise MethodError(
            "maco: expected images to take the spectrum's magnitudes from: give dataset="
        )
    return Phases(problem.statistics.magnitude, height, width), pixel_space
