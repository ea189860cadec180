"""What a caller of `maximize` asked for, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from explainkit.activation_maximization.activations import ChannelStatistics
from explainkit.activation_maximization.problem import Statistics
from explainkit.errors import InputError, TargetError
from explainkit.expressions import Expression, parse
from explainkit.interfaces import ModelSpec

Objective = Expression | str | Sequence[Expression | str]


MOST = 4096
"""Images of a data set that are looked at."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """What a caller of `maximize` asked for, besides model and maximizer; its words are there."""

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

    def __post_init__(self) -> None:
        for name, least in (("restarts", 1), ("frames", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: expected at least {least}, got {value}")


@dataclass(frozen=True, eq=False)
class Setting:
    """What all images of one call share.

    Attributes:
        module: The caller's model.
        shape: Channel, height, width.
        class_names: In the order of the logits.
        seed: Of all random draws.
        restarts: Tries per unit, of which the best is kept.
        frames: How many images to keep on the way.
        batch_size: Images at once, or None: chosen.
        dtype: Of the model.
        device: Of the model.
        start: An image ``[channel, height, width]`` to start from, or None.
        low: Smallest valid value per channel ``[channel, 1, 1]``, or None.
        high: Largest valid value per channel, or None.
        statistics: Of a data set, or None.
        images: That data set, ``[n, channel, height, width]``, at most `MOST` evenly spaced
            ones, or None.
        channel_statistics: What layers that an objective standardizes say of that data set.
    """

    module: nn.Module
    shape: tuple[int, int, int]
    class_names: Sequence[str]
    seed: int
    restarts: int
    frames: int
    batch_size: int | None
    dtype: torch.dtype
    device: torch.device
    start: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    statistics: Statistics | None = None
    images: Tensor | None = None
    channel_statistics: ChannelStatistics | None = None

    def ready(
        self, start: Tensor | None, images: Tensor | None, spec: ModelSpec | None
    ) -> "Setting":
        """With the images at hand, on the model's device; valid values where the spec says."""
        like = torch.zeros((), device=self.device, dtype=self.precision)
        few = None if images is None else images[:: -(-len(images) // MOST)]
        low = high = None
        if spec is not None:
            mean, std = (like.new_tensor(v)[:, None, None] for v in (spec.mean, spec.std))
            low, high = -mean / std, (1 - mean) / std
        return replace(
            self,
            start=None if start is None else start.to(like),
            low=low,
            high=high,
            statistics=None if few is None else Statistics.of(few),
            images=few,
        )

    @property
    def precision(self) -> torch.dtype:
        """Of the images: no less than single, whatever the model computes in."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


def as_objectives(objective: object) -> list[Expression]:
    """Reads what `maximize` takes as an objective: an expression, its text, or a list of them.

    Raises:
        TargetError: It is none of these, or reads nothing of the model.
    """
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
        if not (one.layers or one.uses_logits):
            raise TargetError(f"expected an objective that reads a layer or a logit, got {one}")
    return found  # type: ignore[return-value]


def check_shape(
    shape: object, spec: ModelSpec | None, *examples: Tensor | None
) -> tuple[int, int, int]:
    """The size of the images: as given, or the model's, or that of an image at hand.

    Raises:
        InputError: It can't be told, is no (channel, height, width), or contradicts an image.
    """
    known = [tuple(example.shape[-3:]) for example in examples if example is not None]
    if shape is None:
        shape = spec.image_shape if spec else known[0] if known else None
    if shape is None:
        raise InputError("expected shape=(channel, height, width): this model doesn't say its own")
    sizes = tuple(shape) if isinstance(shape, tuple | list | torch.Size) else ()
    if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise InputError(f"expected shape=(channel, height, width), got {shape!r}")
    for other in known:
        if other != sizes:
            raise InputError(f"expected images {list(sizes)}, as shape says, got {list(other)}")
    return sizes


def check_image(name: str, image: object, dims: int) -> Tensor | None:
    """A caller's image or images, detached; None stays None.

    Raises:
        InputError: It isn't a finite floating tensor of so many axes.
    """
    if image is None:
        return None
    if isinstance(image, Tensor) and image.dim() == dims + 1 and len(image) == 1 and dims == 3:
        image = image[0]
    axes = "[channel, height, width]" if dims == 3 else "[n, channel, height, width]"
    if not isinstance(image, Tensor) or image.dim() != dims or not image.numel():
        shape = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"{name}: expected floating images {axes}, got {shape}")
    if not image.is_floating_point() or not bool(torch.isfinite(image).all()):
        raise InputError(f"{name}: expected finite floating images {axes} in model-input space")
    return image.detach()
