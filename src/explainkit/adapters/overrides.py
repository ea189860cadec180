"""A preprocessing with what the caller knows better than the model."""

from dataclasses import replace
from math import floor

from explainkit.adapters.preprocessing import (
    CenterCrop,
    CenterSquare,
    Preprocessing,
    Resize,
    ReverseChannels,
    Step,
    checked_size,
    compact,
    pair,
)
from explainkit.errors import InputError

Size = int | tuple[int, int]
"""Height and width in pixels; an integer is both."""

Numbers = float | tuple[float, ...] | list[float]
"""One number per channel, or one for all."""


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
        size: Of the model's inputs. The steps that are known, such as a resize and a crop, are
            scaled with it; without any, images are scaled to cover it and their center is cropped.
        crop: The part of the shorter side that a center crop keeps, up to 1: images are resized at
            their aspect ratio until the smaller side is size / crop.

    Raises:
        InputError: A value is out of range, or half of the normalization is missing.

    Examples:
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


def covering(size: Size) -> tuple[Resize, CenterCrop]:
    """The steps that scale an image to cover a size and crop its center."""
    return Resize(size), CenterCrop(size)


def final_size(steps: tuple[Step, ...]) -> tuple[int, int] | None:
    """Height and width of inputs after all steps; None if they depend on the image.

    Examples:
        >>> final_size((Resize(256), CenterCrop(224))), final_size((Resize(256),))
        ((224, 224), None)
    """
    last = steps[-1] if steps else None
    if last is None or isinstance(last, CenterSquare | ReverseChannels):
        return None
    if isinstance(last, Resize) and last.mode != "exact":
        return None
    return pair(last.size)


def _sized(steps: tuple[Step, ...], size: Size) -> tuple[Step, ...]:
    goal = pair(checked_size(size))
    own = final_size(steps)
    if own is None:
        return covering(size)

    def scaled(step: Step) -> Step:
        if isinstance(step, CenterSquare | ReverseChannels):
            return step
        height, width = pair(step.size)
        ratio = goal[0] / own[0], goal[1] / own[1]
        new = compact((round(height * ratio[0]), round(width * ratio[1])))
        if isinstance(step, Resize) and step.longest_edge is not None:
            return replace(step, size=new, longest_edge=round(step.longest_edge * ratio[0]))
        return replace(step, size=new)

    return tuple(map(scaled, steps))


def _cropped(steps: tuple[Step, ...], crop: float) -> tuple[Step, ...]:
    if not 0 < crop <= 1:
        raise InputError(f"crop: expected the part that is kept, above 0 and up to 1, got {crop}")
    size = final_size(steps)
    if size is None:
        raise InputError("crop: expected size= with it, the size of the model's inputs")
    resize, center = covering(compact(size))
    height, width = (floor(side / crop) for side in size)
    like = next((step for step in steps if isinstance(step, Resize)), resize)
    larger = compact((height, width))
    return replace(like, size=larger, mode="shortest", longest_edge=None, multiple_of=1), center


def _per_channel(values: Numbers, channels: int) -> tuple[float, ...]:
    numbers = tuple(values) if isinstance(values, tuple | list) else (values,)
    return numbers * channels if len(numbers) == 1 else numbers
