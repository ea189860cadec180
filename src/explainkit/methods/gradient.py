"""Methods that use only the gradient of the score with respect to the image."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import shapes_of_one
from explainkit.engine.passes import Needs, image_gradient
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.contract import for_images


def input_gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The gradient of each image's own score with respect to the image.

    ``out[i] = ∂ model(inputs)[i, target[i]] / ∂ inputs[i]``, in chunks that fit the memory budget.

    Args:
        model: Gives scores ``[batch, classes]``.
        inputs: Images ``[batch, channel, height, width]``.
        target: int64 ``[batch]``.

    Returns:
        A tensor like ``inputs``.

    Raises:
        ModelError: The score does not depend on the images.
    """
    size = chunk_size(model, inputs[0]) if len(inputs) > 1 else 1

    def run(part: slice) -> Tensor:
        # pass the original tensor for the whole batch: its forward may be cached
        whole = part == slice(0, len(inputs))
        images, classes = (inputs, target) if whole else (inputs[part], target[part])
        return image_gradient(model, images, classes)

    return in_chunks(run, len(inputs), size)


@dataclass(frozen=True)
class Saliency(Typed):
    """Gradient of the target's score with respect to the image.

    ``a = ∂S_c(x) / ∂x``: how much the score changes per unit of each pixel, to first order.

    Attributes:
        absolute: Take ``|a|``, which hides whether a pixel raises or lowers the score.

    References:
        Simonyan, Vedaldi and Zisserman (2013), "Deep Inside Convolutional Networks: Visualising
        Image Classification Models and Saliency Maps", arXiv:1312.6034.

    Examples:
        >>> import torch
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> a = Saliency()(linear, torch.rand(1, 1, 2, 2), torch.tensor([1]))
        >>> torch.equal(a.flatten(), linear[1].weight[1])
        True
    """

    volumes: ClassVar[bool] = True

    absolute: bool = False

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """The gradient with respect to the image, which methods share."""
        return Needs(image=True)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns ``[batch, channel, height, width]``, score per unit of input."""
        gradient = input_gradient(model, inputs, target)
        return gradient.abs() if self.absolute else gradient


@dataclass(frozen=True)
class InputXGradient(Typed):
    """Gradient times image: each pixel's first-order contribution to the score.

    ``a = x · ∂S_c(x) / ∂x``. For a ReLU network without biases the map sums to the score.

    References:
        Shrikumar, Greenside, Shcherbina and Kundaje (2016), "Not Just a Black Box: Learning
        Important Features Through Propagating Activation Differences", arXiv:1605.01713.

    Examples:
        >>> import torch
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
        >>> x = torch.rand(1, 1, 2, 2)
        >>> a = InputXGradient()(linear, x, torch.tensor([1]))
        >>> torch.allclose(a.sum(), linear(x)[0, 1])
        True
    """

    volumes: ClassVar[bool] = True

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """The gradient with respect to the image, which methods share."""
        return Needs(image=True)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        return input_gradient(model, inputs, target) * inputs


@dataclass(frozen=True)
class _Noisy(Typed):
    """Base of the methods that average over noisy copies of an image."""

    volumes: ClassVar[bool] = True

    base: Method = field(default_factory=Saliency)
    samples: int = field(default=25, metadata={"least": 1})
    noise: float | tuple[float, ...] = 0.15
    relative: bool = True
    seed: int = field(default=0, metadata={"seed": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)

    def _statistics(
        self, model: nn.Module, inputs: Tensor, target: Tensor, *, squares: bool
    ) -> tuple[Tensor, Tensor, Attribution]:
        """Mean and summed squared deviations of the maps (or of their squares) over the samples.

        The third value holds the layer, coverage and warnings of the base method.
        """
        found = [
            self._statistics_of(model, inputs, target, i, squares=squares)
            for i in range(len(inputs))
        ]
        means, deviations, details = zip(*found, strict=True)
        warnings = [text for one in details for text in one.warnings]
        return torch.stack(means), torch.stack(deviations), details[0].saying(*warnings)

    def _statistics_of(
        self, model: nn.Module, inputs: Tensor, target: Tensor, i: int, *, squares: bool
    ) -> tuple[Tensor, Tensor, Attribution]:
        """The same for one image."""
        image, label = inputs[i].detach(), target[i]
        shapes = shapes_of_one(model, inputs)
        precise = torch.promote_types(image.dtype, torch.float32)
        generator = torch.Generator().manual_seed(self.seed)
        deviation = deviation_of(self.noise, image, relative=self.relative)
        size = chunk_size(model, image)
        count = 0
        mean = total = torch.zeros((), dtype=precise, device=image.device)
        details = Attribution(mean)
        for start in range(0, self.samples, size):
            now = min(size, self.samples - start)
            noisy = image + deviation * normal_noise(image, now, generator)
            base = for_images(self.base, [i] * now, len(inputs), shapes)
            found = Attribution.of(base(model, noisy.requires_grad_(), label.expand(now)))
            details = replace(details, layer=found.layer, at=found.at, coverage=found.coverage)
            details = details.saying(*found.warnings)
            maps = found.values.detach().to(precise)
            maps = maps.square() if squares else maps
            # merging chunk by chunk (Chan, Golub and LeVeque, 1983) keeps the digits that
            # E[a²] − E[a]² would cancel
            chunk_mean = maps.mean(0)
            delta = chunk_mean - mean
            total = (
                total
                + (maps - chunk_mean).square().sum(0)
                + delta.square() * (count * now / (count + now))
            )
            mean = mean + delta * (now / (count + now))
            count += now
        return mean, total, details

    def _mean(
        self, model: nn.Module, inputs: Tensor, target: Tensor, *, squares: bool
    ) -> Attribution:
        """The mean map (or mean of squares) with the standard error of each value."""
        mean, deviations, details = self._statistics(model, inputs, target, squares=squares)
        pairs = self.samples * (self.samples - 1)
        error = (deviations / pairs).sqrt().to(inputs.dtype) if pairs else None
        return replace(details, values=mean.to(inputs.dtype), standard_error=error)


def check_noise(noise: float | tuple[float, ...]) -> None:
    """Refuses deviations that are negative or not finite.

    Raises:
        MethodError: There is one.
    """
    for one in noise if isinstance(noise, tuple | list) else (noise,):
        if not 0 <= one < float("inf"):
            raise MethodError(f"noise: expected a finite deviation of at least 0, got {one}")


def deviation_of(
    noise: float | tuple[float, ...], image: Tensor, *, relative: bool
) -> float | Tensor:
    """The standard deviation of an image's noise, of each channel if it differs.

    Args:
        noise: For all channels, or one for each.
        image: ``[channel, height, width]``.
        relative: Whether it is a share of the image's range.

    Raises:
        MethodError: It has another number of channels.
    """
    scale = image.amax() - image.amin() if relative else 1.0
    if not isinstance(noise, tuple | list):
        return noise * scale
    if len(noise) != len(image):
        raise MethodError(
            f"noise: expected one deviation, or one for each of {len(image)} channels, got "
            f"{len(noise)}"
        )
    return image.new_tensor(noise).view(-1, *[1] * (image.dim() - 1)) * scale


def normal_noise(image: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Standard normal noise ``[count, *image]``, the same for every device, dtype and chunk."""
    noise = [
        torch.randn(image.shape, generator=generator, dtype=torch.float32) for _ in range(count)
    ]
    return torch.stack(noise).to(image)


@dataclass(frozen=True)
class SmoothGrad(_Noisy):
    """The mean of a method's maps over noisy copies of the image.

    ``a = 1/n Σ_i A(x + ε_i)``, ``ε_i ~ N(0, σ²)``, where A is any method.

    Every image has its own random generator, seeded with ``seed``: its map depends neither on the
    other images of the batch nor on the chunk size, and similar images get the same noise. The
    standard error of each value is reported.

    Attributes:
        base: The method to average.
        samples: Noisy copies per image.
        noise: Standard deviation σ, as a share of the image's own range (max − min); one for all
            channels, or one for each.
        relative: If false, ``noise`` is in units of the input instead.
        seed: Random seed; ``explain(seed=…)`` sets it.

    Raises:
        MethodError: A field is out of range.

    References:
        Smilkov, Thorat, Kim, Viégas and Wattenberg (2017), "SmoothGrad: removing noise by adding
        noise", arXiv:1706.03825.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> a = SmoothGrad(samples=4)(net, torch.rand(1, 1, 2, 2), torch.tensor([1])).values
        >>> torch.allclose(a.flatten(), net[1].weight[1])
        True
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns a map in the unit of the base method."""
        return self._mean(model, inputs, target, squares=False)


@dataclass(frozen=True)
class SmoothGradSquared(_Noisy):
    """The mean of squared maps over noisy copies of the image.

    ``a = 1/n Σ_i A(x + ε_i)²``; noise, seeds, fields and standard error as in `SmoothGrad`.

    References:
        Hooker, Erhan, Kindermans and Kim (2019), "A Benchmark for Interpretability Methods in Deep
        Neural Networks", arXiv:1806.10758.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> a = SmoothGradSquared(samples=4)(net, torch.rand(1, 1, 2, 2), torch.tensor([1])).values
        >>> torch.allclose(a.flatten(), net[1].weight[1] ** 2)
        True
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns a map in the squared unit of the base method, never negative."""
        return self._mean(model, inputs, target, squares=True)


@dataclass(frozen=True)
class VarGrad(_Noisy):
    """The variance of maps over noisy copies of the image.

    ``a = 1/n Σ_i (A(x + ε_i) − mean)²``; noise, seeds and fields as in `SmoothGrad`. Computed from
    deviations, not as E[A²] − E[A]², which loses all digits if the maps hardly vary.

    References:
        Adebayo, Gilmer, Goodfellow and Kim (2018), "Local Explanation Methods for Deep Neural
        Networks Lack Sensitivity to Parameter Values", arXiv:1810.03307.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> a = VarGrad(samples=4)(net, torch.rand(1, 1, 2, 2), torch.tensor([1])).values
        >>> float(a.abs().max())
        0.0
    """

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns a map in the squared unit of the base method, never negative."""
        _, deviations, details = self._statistics(model, inputs, target, squares=False)
        return replace(details, values=(deviations / self.samples).to(inputs.dtype))
