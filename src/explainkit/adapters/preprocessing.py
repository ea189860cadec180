"""What happens to an image before the model sees it: declared, run, and undone for maps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from explainkit.adapters.geometry import Geometry, Size
from explainkit.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["shortest", "exact", "longest"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Resampler = Literal["pillow", "torch"]
Rounding = Literal["floor", "nearest"]
Align = Literal["center", "top left"]
Fill = int | tuple[int, ...]


@dataclass(frozen=True)
class _Checked:
    """A step that checks its size, its fill and its choices."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "size":
                object.__setattr__(self, "size", checked_size(value))
            elif one.name == "fill":
                object.__setattr__(self, "fill", _filled(value))
            elif get_origin(one.type) is Literal and value not in get_args(one.type):
                choices = ", ".join(get_args(one.type))
                raise InputError(f"{one.name}: expected {choices}, got {value!r:.40}")


@dataclass(frozen=True)
class Resize(_Checked):
    """Resizes an image.

    Attributes:
        size: Height and width in pixels; an integer is both.
        mode: ``"shortest"``: the smallest size of the same aspect ratio that covers ``size``;
            ``"longest"``: the largest one inside it; ``"exact"``: ``size``, whatever the ratio.
        interpolation: Pillow's name of the filter.
        antialias: Whether the filter widens where the image shrinks. Pillow always does that; False
            is for models of tensors that were resized without.
        resampler: What computes it: ``"pillow"``, as for Pillow images in torchvision and timm, or
            ``"torch"`` on a uint8 tensor, as in transformers on torchvision. Their bicubic
            and Lanczos filters differ by several pixel values at sharp edges.
        rounding: What happens to the fraction of a pixel in the other side of ``"shortest"`` and
            ``"longest"``: torchvision and transformers drop it, timm's ``ResizeKeepRatio`` rounds.
        longest_edge: Largest longer side of ``"shortest"``, as in DETR: where it would be longer,
            it is at most that, and the shorter side is smaller. None: any.
        multiple_of: Both sides are cut down to a multiple of this many pixels, as in YOLOS.
    """

    size: int | Size
    mode: Mode = "shortest"
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    resampler: Resampler = "pillow"
    rounding: Rounding = "floor"
    longest_edge: int | None = None
    multiple_of: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("longest_edge", "multiple_of"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value > 0):
                raise InputError(f"{name}: expected pixels, got {value!r:.40}")
        if self.longest_edge is not None and (self.mode, type(self.size)) != ("shortest", int):
            raise InputError(
                "longest_edge: expected it with mode 'shortest' and one number as size, got "
                f"mode {self.mode!r} and size {self.size}"
            )
        known = ("nearest", "bilinear", "bicubic", "lanczos")[: 4 if self.antialias else 3]
        if self._by_torch and self.interpolation not in known:
            raise InputError(
                f"resizing by torch{'' if self.antialias else ' without antialiasing'}: expected "
                f"{', '.join(known)} interpolation, got {self.interpolation}"
            )

    def target(self, size: Size) -> Size:
        """Height and width that an image of a height and width is resized to."""
        if isinstance(self.size, int) and self.longest_edge is not None:
            height, width = _limited(size, self.size, self.longest_edge)
        else:
            height, width = self._fitted(size)
        step = self.multiple_of
        return max(height - height % step, step), max(width - width % step, step)

    def _fitted(self, size: Size) -> Size:
        """The target without a limit."""
        goal = pair(self.size)
        if self.mode == "exact":
            return goal
        choose = min if self.mode == "shortest" else max
        ratios = [old / new for old, new in zip(size, goal, strict=True)]
        fitting = ratios.index(choose(ratios))
        other = 1 - fitting
        if self.rounding == "floor":
            free = int(goal[fitting] * size[other] / size[fitting])
        else:
            free = round(size[other] / ratios[fitting])
        found = [max(free, 1)] * 2
        found[fitting] = goal[fitting]
        return found[0], found[1]

    def __call__(self, image: "Image", geometry: Geometry) -> tuple["Image", Geometry]:
        """The resized image, and where it lies now."""
        from PIL import Image

        size = self.target((image.height, image.width))
        if size != (image.height, image.width):
            if self._by_torch:
                image = self._interpolated(image, size)
            else:
                how = Image.Resampling[self.interpolation.upper()]
                image = image.resize((size[1], size[0]), how)
        return image, geometry.resized(size)

    @property
    def _by_torch(self) -> bool:
        return self.resampler == "torch" or not self.antialias

    def _interpolated(self, image: "Image", size: Size) -> "Image":
        from PIL import Image

        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)
        tensor = pixels.permute(2, 0, 1)[None].contiguous()
        if self.interpolation == "nearest":
            values = torch.nn.functional.interpolate(tensor, size, mode="nearest-exact")
        else:
            values = torch.nn.functional.interpolate(
                tensor, size, mode=self.interpolation, align_corners=False, antialias=self.antialias
            )
        return Image.fromarray(values[0].permute(1, 2, 0).squeeze(2).contiguous().numpy())


@dataclass(frozen=True)
class CenterCrop(_Checked):
    """Cuts the center out of an image; an image that is too small is padded, as in torchvision.

    Attributes:
        size: Height and width in pixels; an integer is both.
        fill: Pixel values of the padding, 0 to 255, for each channel or all.
        rounding: What happens to half a pixel in the position of the crop: torchvision and timm
            round to the nearest even pixel, transformers drops it.
    """

    size: int | Size
    fill: Fill = 0
    rounding: Rounding = "nearest"

    def __call__(self, image: "Image", geometry: Geometry) -> tuple["Image", Geometry]:
        """The crop, and where it lies."""
        size = pair(self.size)
        top, left = (
            self._start(have, want)
            for have, want in zip((image.height, image.width), size, strict=True)
        )
        return _window(image, geometry, top, left, size, self.fill)

    def _start(self, have: int, want: int) -> int:
        if want > have:
            return -((want - have) // 2)
        half = (have - want) / 2
        return round(half) if self.rounding == "nearest" else int(half)


@dataclass(frozen=True)
class CenterSquare:
    """Cuts out the largest square at the center."""

    def __call__(self, image: "Image", geometry: Geometry) -> tuple["Image", Geometry]:
        """The square, and where it lies."""
        side = min(image.size)
        top, left = (image.height - side) // 2, (image.width - side) // 2
        return _window(image, geometry, top, left, (side, side), 0)


@dataclass(frozen=True)
class Pad(_Checked):
    """Pads an image that is smaller than a size; a larger side is left as it is.

    Attributes:
        size: Height and width in pixels; an integer is both.
        fill: Pixel values of the padding, 0 to 255, for each channel or all.
        align: Where the image goes: ``"center"`` or ``"top left"``.
    """

    size: int | Size
    fill: Fill = 0
    align: Align = "center"

    def __call__(self, image: "Image", geometry: Geometry) -> tuple["Image", Geometry]:
        """The padded image, and where the image lies in it."""
        goal = pair(self.size)
        height, width = max(goal[0], image.height), max(goal[1], image.width)
        top, left = (height - image.height) // 2, (width - image.width) // 2
        if self.align == "top left":
            top = left = 0
        return _window(image, geometry, -top, -left, (height, width), self.fill)


@dataclass(frozen=True)
class Letterbox(_Checked):
    """Fits an image into a size at its own aspect ratio, and pads the rest, as in YOLO.

    Attributes:
        size: Height and width in pixels; an integer is both.
        fill: Pixel values of the padding, 0 to 255, for each channel or all.
        interpolation: Pillow's name of the filter.
    """

    size: int | Size
    fill: Fill = 114
    interpolation: Interpolation = "bilinear"

    def __call__(self, image: "Image", geometry: Geometry) -> tuple["Image", Geometry]:
        """The image with its borders, and where it lies between them."""
        fit = Resize(self.size, "longest", self.interpolation, rounding="nearest")
        return Pad(self.size, self.fill)(*fit(image, geometry))


@dataclass(frozen=True)
class ReverseChannels:
    """Reverses the order of the channels: from RGB to BGR."""

    def __call__(self, image: "Image", geometry: Geometry) -> tuple["Image", Geometry]:
        """The image in BGR, where it was."""
        from PIL import Image

        return Image.merge(image.mode, image.split()[::-1]), geometry


Step = Resize | CenterCrop | CenterSquare | Pad | Letterbox | ReverseChannels

_STEPS: dict[str, type[Step]] = {kind.__name__: kind for kind in get_args(Step)}


@dataclass(frozen=True)
class Preprocessing:
    """From an image to a model's input: ``(pixel / 255 - mean) / std`` after some steps.

    Attributes:
        steps: What happens to the image first, in this order.
        mean: Per channel, in units of pixel / 255; None: 0.
        std: Per channel; None: 1.
        channels: 3 for RGB, 1 for gray.
        known: Whether this is what the model was trained with; False: it is a guess.

    Examples:
        >>> from PIL import Image
        >>> imagenet = Preprocessing((Resize(256), CenterCrop(224)), (0.5,) * 3, (0.25,) * 3)
        >>> pixels, geometry = imagenet(Image.new("RGB", (640, 480), (255, 0, 0)))
        >>> pixels.shape, pixels[0, 0, 0].item(), int(geometry.seen().sum())
        (torch.Size([3, 224, 224]), 2.0, 176400)
        >>> Preprocessing.from_dict(imagenet.to_dict()) == imagenet
        True
    """

    steps: tuple[Step, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int = 3
    known: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for step in self.steps:
            if not isinstance(step, Step):
                raise InputError(f"steps: expected {', '.join(_STEPS)}, got {step!r:.80}")
        if self.channels not in {1, 3}:
            raise InputError(f"channels: expected 1 (gray) or 3 (RGB), got {self.channels!r:.40}")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is None:
                continue
            numbers = tuple(map(float, given))
            if len(numbers) != self.channels or not np.isfinite(numbers).all():
                raise InputError(
                    f"{name}: expected {self.channels} finite numbers, one per channel, got "
                    f"{given!r:.80}"
                )
            if name == "std" and min(numbers) <= 0:
                raise InputError(f"std: expected numbers above 0, got {given!r:.80}")
            object.__setattr__(self, name, numbers)

    def __call__(self, image: "Image") -> tuple[Tensor, Geometry]:
        """The model's input, and where its pixels lie in the image.

        Args:
            image: Of any mode; transparent parts are composited on middle gray.

        Returns:
            float32 ``[channel, height, width]``, and the geometry.
        """
        from explainkit.adapters.decoding import flat

        image = flat(image, "RGB" if self.channels == 3 else "L")
        size = image.height, image.width
        geometry = Geometry(size, size)
        for step in self.steps:
            image, geometry = step(image, geometry)
        pixels = torch.from_numpy(np.array(image)).reshape(*geometry.size, self.channels)
        mean, std = (torch.tensor(one)[:, None, None] for one in self.normalization)
        values = (pixels.permute(2, 0, 1).to(torch.float32) / 255 - mean) / std
        return values.contiguous(), geometry

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of each channel."""
        return self.mean or (0.0,) * self.channels, self.std or (1.0,) * self.channels

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it."""
        steps = [{"step": type(step).__name__, **asdict(step)} for step in self.steps]
        return {**vars(self), "steps": steps}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Preprocessing":
        """What `to_dict` wrote, also after a round trip through JSON.

        Raises:
            InputError: An unknown step or field, or an invalid value.
        """
        try:
            return cls(**{**record, "steps": tuple(map(_step, record["steps"]))})
        except (KeyError, TypeError) as error:
            raise InputError(f"expected a saved preprocessing, got {record!r:.80}") from error


def _step(record: Mapping[str, Any]) -> Step:
    kind = _STEPS.get(record["step"])
    if kind is None:
        raise InputError(f"step: expected {', '.join(_STEPS)}, got {record['step']!r:.40}")
    values = {name: value for name, value in record.items() if name != "step"}
    if unknown := values.keys() - {field.name for field in fields(kind)}:
        raise InputError(f"{record['step']}: unknown {', '.join(sorted(unknown))}")
    return kind(**values)


def _window(
    image: "Image", geometry: Geometry, top: int, left: int, size: Size, fill: Fill
) -> tuple["Image", Geometry]:
    """A window of an image; what lies outside the image is filled."""
    from PIL import Image

    height, width = size
    inside = image.crop((
        max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height),
    ))  # fmt: skip
    if inside.size != (width, height):
        bands = len(image.getbands())
        values = (fill,) * bands if isinstance(fill, int) else fill
        if len(values) != bands:
            raise InputError(f"fill: expected one value for {bands} channels, got {fill!r:.80}")
        canvas = Image.new(image.mode, (width, height), values if bands > 1 else values[0])
        canvas.paste(inside, (max(-left, 0), max(-top, 0)))
        inside = canvas
    return inside, geometry.windowed(top, left, size)


def _limited(size: Size, edge: int, longest: int) -> Size:
    """The size of an aspect ratio whose shorter side is a number, and whose longer has a limit.

    Roundings are those of transformers, by which the longer side may exceed the limit by a pixel.

    Examples:
        >>> _limited((480, 640), 800, 1333), _limited((1000, 400), 800, 1333)
        ((800, 1066), (1333, 533))
    """
    short, long = min(size), max(size)
    exact: float = edge
    if long / short * exact > longest:
        exact = longest * short / long
    if round(exact) == short:
        return size
    found = round(exact), int(exact * long / short)
    return found if size[0] < size[1] else (found[1], found[0])


def checked_size(size: Any) -> int | Size:
    """A size as an integer or a pair of integers, both above 0.

    Raises:
        InputError: It is something else.
    """
    values = [size] if isinstance(size, int) else list(size) if _is_sequence(size) else []
    if len(values) not in {1, 2} or not all(type(v) is int and v > 0 for v in values):
        raise InputError(f"size: expected pixels or (height, width), got {size!r:.40}")
    return values[0] if len(values) == 1 else (values[0], values[1])


def _filled(fill: Any) -> Fill:
    """A fill as an integer or a tuple of integers from 0 to 255."""
    values = list(fill) if _is_sequence(fill) else [fill]
    if not values or not all(type(v) is int and 0 <= v <= 255 for v in values):
        raise InputError(f"fill: expected pixel values from 0 to 255, got {fill!r:.40}")
    return tuple(values) if _is_sequence(fill) else values[0]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)


def pair(size: int | Size) -> Size:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else size


def compact(size: Size) -> int | Size:
    """A size as one number, if height and width are equal."""
    return size[0] if size[0] == size[1] else size
