"""The values that replace hidden parts of an image."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from explainkit.errors import MethodError

Filling = Literal["mean", "blur", "noise"]


def fill_images(baseline: "float | Tensor | str", images: Tensor, seed: int) -> Tensor:
    """The image that replaces masked parts of another one.

    Args:
        baseline: One value; a tensor ``[channel, height, width]`` or one per image; ``"mean"``: the
            image's mean per channel; ``"blur"``: the image blurred by a Gaussian with σ a tenth of
            its shorter side; ``"noise"``: normal noise with the mean and deviation of each channel.
        images: ``[batch, channel, height, width]``, or volumes, which have no blur.
        seed: Random seed of the noise, which is the same for every image.

    Returns:
        A tensor like ``images``.

    Raises:
        MethodError: The baseline is none of these.

    Examples:
        >>> fill_images("mean", torch.tensor([[[[1.0, 3.0]]]]), 0)
        tensor([[[[2., 2.]]]])
    """
    images = images.detach()
    axes = tuple(range(2, images.dim()))
    match baseline:
        case "mean":
            return images.mean(axes, keepdim=True).expand_as(images)
        case "blur":
            if images.dim() > 4:
                raise MethodError(
                    "baseline: expected a number, a tensor, mean or noise for a volume, got 'blur'"
                )
            return blurred(images, min(images.shape[2:]) / 10)
        case "noise":
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(images.shape[1:], generator=generator).to(images)
            mean = images.mean(axes, keepdim=True)
            return mean + noise * images.std(axes, correction=0, keepdim=True)
        case Tensor():
            if baseline.shape not in {images.shape, images.shape[1:]}:
                raise MethodError(
                    f"baseline: expected a number or a tensor {list(images.shape[1:])} or "
                    f"{list(images.shape)}, got {list(baseline.shape)}"
                )
            return baseline.to(images).expand_as(images)
        case int() | float():
            return torch.full_like(images[:1], baseline).expand_as(images)
    raise MethodError(
        f"baseline: expected a number, a tensor, {' or '.join(get_args(Filling))}, got {baseline!r}"
    )


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images blurred by a Gaussian of ``sigma`` pixels, truncated at 3 σ, with edge padding."""
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float64)
    kernel = (-offsets.square() / (2 * max(sigma, 1e-9) ** 2)).exp()
    kernel = (kernel / kernel.sum()).to(images.dtype)
    down, across = kernel.view(1, 1, -1, 1), kernel.view(1, 1, 1, -1)
    padded = F.pad(images, (radius, radius, radius, radius), "replicate")
    # each image alone, since a convolution rounds differently in another batch
    return torch.stack([F.conv2d(F.conv2d(one[:, None], down), across)[:, 0] for one in padded])
