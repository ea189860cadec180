"""What is known about a model of another library: its inputs, its outputs, its classes."""

from dataclasses import dataclass, replace
from math import floor
from typing import Any

from torch import Tensor, nn

from explainkit.adapters.preprocessing import CenterCrop, CenterSquare, Preprocessing, Resize, Step
from explainkit.errors import InputError
from explainkit.interfaces import ModelSpec

Size = int | tuple[int, int]
"""Height and width in pixels; an integer is both."""

Numbers = float | tuple[float, ...] | list[float]
"""One number per channel, or one for all."""


@dataclass(frozen=True)
class Wanted:
    """A model that `load_model` was asked for, without its package.

    Attributes:
        name: As its package calls it.
        state: Weights in place of the package's own; None: those.
        pretrained: Whether to load the package's weights.
        allow_pickle: Whether weights may come from a pickled file of the package.
        size: The size of its inputs; None: the package's.
    """

    name: str
    state: dict[str, Tensor] | None = None
    pretrained: bool = True
    allow_pickle: bool = False
    size: Size | None = None


def spec_for(preprocessing: Preprocessing | None, **fields: Any) -> ModelSpec:
    """A specification whose normalization is that of the preprocessing, if it is known."""
    mean = std = None
    if preprocessing is not None and preprocessing.known:
        mean = preprocessing.mean or (0.0,) * preprocessing.channels
        std = preprocessing.std or (1.0,) * preprocessing.channels
    return ModelSpec(mean=mean, std=std, preprocessing=preprocessing, **fields)


def preprocessing_of(module: nn.Module, spec: ModelSpec | None) -> Preprocessing:
    """How images become a model's inputs: as its specification says, or else a guess.

    Without a declared preprocessing, images are resized to the model's ``image_shape`` if it has
    one, whatever their aspect ratio. Without a normalization, values are pixel / 255.

    Args:
        module: The model.
        spec: Its specification; None: unknown.
    """
    spec = spec or ModelSpec()
    if spec.preprocessing is not None:
        return spec.preprocessing
    shape = spec.image_shape
    return Preprocessing(
        steps=(Resize(shape[1:], "exact"),) if shape else (),
        mean=spec.mean,
        std=spec.std,
        channels=shape[0] if shape else _channels(module),
        known=spec.mean is not None and spec.std is not None,
    )


def changed(
    preprocessing: Preprocessing,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: Size | None = None,
    crop: float | None = None,
) -> Preprocessing:
    """A preprocessing with what the caller knows better.

    Args:
        preprocessing: What is known without the caller, or a guess.
        mean: Per channel, in units of pixel / 255.
        std: Per channel, in units of pixel / 255.
        size: Of the model's inputs. What comes before, such as a resize and a crop, is scaled with
            it; without any step, images are resized to it, whatever their aspect ratio.
        crop: The part of the shorter side that a center crop keeps, up to 1: images are resized at
            their aspect ratio until the smaller side is size / crop.

    Raises:
        InputError: A value is out of range, or half of the normalization is missing.

    Examples:
        >>> from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
        >>> imagenet = Preprocessing((Resize(256), CenterCrop(224)))
        >>> [step.size for step in changed(imagenet, size=448).steps]
        [512, 448]
        >>> [step.size for step in changed(imagenet, crop=1.0).steps]
        [224, 224]
    """
    channels = preprocessing.channels
    known = preprocessing.known
    if mean is not None or std is not None:
        if not known and (mean is None or std is None):
            raise InputError("expected mean= and std= together, got one: the other is not known")
        known = True
    steps = preprocessing.steps
    if size is not None:
        steps = _sized(steps, size)
    if crop is not None:
        steps = _cropped(steps, crop)
    return replace(
        preprocessing,
        steps=steps,
        mean=preprocessing.mean if mean is None else _per_channel(mean, channels),
        std=preprocessing.std if std is None else _per_channel(std, channels),
        known=known,
    )


def _channels(module: nn.Module) -> int:
    """The channels of a model's images: 1 if its first convolution takes one, otherwise 3."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _sized(steps: tuple[Step, ...], size: Size) -> tuple[Step, ...]:
    goal = _pair(size, "size")
    own = _final(steps)
    if own is None:
        return (*steps, Resize(goal, "exact"))

    def scaled(step: Step) -> Step:
        if isinstance(step, CenterSquare):
            return step
        height, width = _pair(step.size, "size")
        ratio = goal[0] / own[0], goal[1] / own[1]
        new = round(height * ratio[0]), round(width * ratio[1])
        return replace(step, size=new[0] if new[0] == new[1] else new)

    return tuple(map(scaled, steps))


def _cropped(steps: tuple[Step, ...], crop: float) -> tuple[Step, ...]:
    if not 0 < crop <= 1:
        raise InputError(f"crop: expected the part that is kept, above 0 and up to 1, got {crop}")
    size = _final(steps)
    if size is None:
        raise InputError("crop: expected size= with it, the size of the model's inputs")
    like = next((step for step in steps if isinstance(step, Resize)), Resize(1))
    height, width = (floor(side / crop) for side in size)
    resize = replace(like, size=height if height == width else (height, width), mode="shortest")
    return resize, CenterCrop(size[0] if size[0] == size[1] else size)


def _final(steps: tuple[Step, ...]) -> tuple[int, int] | None:
    """The size of inputs after all steps; None if it depends on the image."""
    last = steps[-1] if steps else None
    if last is None or isinstance(last, CenterSquare):
        return None
    if isinstance(last, Resize) and last.mode != "exact":
        return None
    return _pair(last.size, "size")


def _pair(size: Size, name: str) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(f"{name}: expected pixels or (height, width), got {size!r:.40}")
    return sides


def _per_channel(values: Numbers, channels: int) -> tuple[float, ...]:
    numbers = tuple(values) if isinstance(values, tuple | list) else (values,)
    return numbers * channels if len(numbers) == 1 else numbers
