"""The arguments of `maximize`, validated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.activation_maximization.activations import ChannelStatistics
from explainkit.activation_maximization.problem import Statistics
from explainkit.adapters.overrides import final_size
from explainkit.errors import InputError, TargetError
from explainkit.expressions import Expression, parse
from explainkit.interfaces import ModelSpec
from explainkit.layers import floating_tensor
from explainkit.scores import Outputs

Objective = Expression | str | Sequence[Expression | str]


MOST = 4096
"""Images of a data set that statistics are computed from, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """The arguments of `explainkit.maximize` besides model and maximizer; documented there."""

    objective: Objective
    shape: tuple[int, int, int] | None
    seed: int
    start: Tensor | None
    restarts: int
    negative: bool
    dataset: Tensor | None
    frames: int
    batch_size: int | None
    keep_mode: bool


@dataclass(frozen=True, eq=False)
class Setting:
    """A request on a model: what all images of one call share.

    Attributes:
        outputs: What the model's outputs mean.
        shape: Channels, height, width.
        dtype: Of the model; the images have `precision`.
        start: Initial image ``[channel, height, width]``, or None.
        low: Smallest valid value per channel, ``[channel, 1, 1]``, or None.
        high: Largest valid value per channel, or None.
        images: The data set, ``[n, channel, height, width]``, at most `MOST` evenly spaced
            images, or None.
        statistics: Of these images, or None.
        channel_statistics: Of the layers whose channels an objective z-scores, or None.
    """

    request: Request
    module: nn.Module
    spec: ModelSpec | None
    outputs: Outputs
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    start: Tensor | None
    low: Tensor | None
    high: Tensor | None
    images: Tensor | None
    statistics: Statistics | None
    channel_statistics: ChannelStatistics | None = None

    @classmethod
    def of(
        cls, request: Request, module: nn.Module, spec: ModelSpec | None, outputs: Outputs
    ) -> "Setting":
        """Validates the images of a request, and moves them to the model's device."""
        start = check_image("start", request.start, 3)
        images = check_image("dataset", request.dataset, 4)
        shape = check_shape(request.shape, spec, start, images)
        own = floating_tensor(module).detach()
        like = own.new_zeros((), dtype=precision(own.dtype))
        low = high = None
        if spec is not None and spec.mean is not None and spec.std is not None:
            mean, std = (like.new_tensor(v)[:, None, None] for v in (spec.mean, spec.std))
            low, high = -mean / std, (1 - mean) / std
        few = None if images is None else images[:: -(-len(images) // MOST)]
        return cls(
            request, module, spec, outputs, shape, own.dtype, own.device,
            None if start is None else start.to(like), low, high,
            few, None if few is None else Statistics.of(few),
        )  # fmt: skip

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the images."""
        return precision(self.dtype)


def precision(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the images for a model of this one: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_objectives(objective: object) -> list[Expression]:
    """Parses an objective of `maximize`: an expression, its text, or a list of them."""
    given = list(objective) if isinstance(objective, list | tuple) else [objective]
    found = [parse(one) if isinstance(one, str) else one for one in given]
    if not found:
        raise TargetError("expected at least one objective, got an empty list")
    for one in found:
        if not isinstance(one, Expression):
            raise TargetError(
                "expected as objective an expression, its text, or a list of them, got "
                f"{type(one).__name__}"
            )
        if not (one.layers or one.uses_logits or one.uses_output):
            raise TargetError(f"expected an objective with a layer or an output, got {one}")
    return found  # type: ignore[return-value]


def check_shape(
    shape: object, spec: ModelSpec | None, *examples: Tensor | None
) -> tuple[int, int, int]:
    """The size of the images: as given, else the model's, a given image's or that of its inputs."""
    known = [tuple(example.shape[-3:]) for example in examples if example is not None]
    if shape is None:
        shape = (spec and spec.image_shape) or (known[0] if known else _shape_of_inputs(spec))
    if shape is None:
        raise InputError(
            "expected shape=(channel, height, width): the model doesn't declare its input shape"
        )
    sizes = tuple(shape) if isinstance(shape, tuple | list | torch.Size) else ()
    if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise InputError(f"expected shape=(channel, height, width), got {shape!r}")
    for other in known:
        if other != sizes:
            raise InputError(f"expected images of shape {list(sizes)}, got {list(other)}")
    return sizes


def _shape_of_inputs(spec: ModelSpec | None) -> tuple[int, int, int] | None:
    """What a model's preprocessing makes of images, if it makes all of one size."""
    if spec is None or spec.preprocessing is None:
        return None
    size = final_size(spec.preprocessing.steps)
    return None if size is None else (spec.preprocessing.channels, *size)


def check_image(name: str, image: object, dims: int) -> Tensor | None:
    """Validates a given image or images and detaches them; None stays None."""
    if image is None:
        return None
    if isinstance(image, Tensor) and image.dim() == dims + 1 and len(image) == 1 and dims == 3:
        image = image[0]
    axes = "[channel, height, width]" if dims == 3 else "[n, channel, height, width]"
    if not isinstance(image, Tensor) or image.dim() != dims or not image.numel():
        shape = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"{name}: expected floating-point images {axes}, got {shape}")
    if not image.is_floating_point() or not bool(torch.isfinite(image).all()):
        raise InputError(
            f"{name}: expected finite floating-point images {axes} in model-input space"
        )
    return image.detach()
