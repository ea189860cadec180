"""From image files, Pillow images and arrays to a batch for a model."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from explainkit.adapters.decoding import decode, flat, read_bytes, upright
from explainkit.adapters.geometry import Geometry, Size
from explainkit.adapters.overrides import changed, covering
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.errors import ExplainkitWarning, InputError
from explainkit.interfaces import spec_of
from explainkit.layers import floating_tensor

ImageSource = str | Path | Image.Image | NDArray[Any]
"""A path, a Pillow image, or a uint8 array ``[height, width]``, ``[height, width, channel]`` or
``[channel, height, width]``."""

_CHANNELS = {1, 3, 4}


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """A model's inputs, with the original images and the mapping between them.

    Attributes:
        inputs: ``[batch, channel, height, width]``, on the model's device and in its dtype.
        originals: Each image as it came, upright, uint8 RGB ``[height, width, 3]``; transparent
            parts are composited on middle gray.
        geometries: Where the pixels of each input lie in its original.
        names: File names, or "image 0" where there is none.
        preprocessing: What was done to the images.
        warnings: What is not known about that, one line each.
        files: For each image, its path as it was given and the sha256 of its bytes; None of an
            image that came in memory.
    """

    inputs: Tensor
    originals: tuple[NDArray[np.uint8], ...] = field(repr=False)
    geometries: tuple[Geometry, ...] = field(repr=False)
    names: tuple[str, ...]
    preprocessing: Preprocessing
    warnings: tuple[str, ...] = ()
    files: tuple[tuple[str, str] | None, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.inputs)


def load_images(
    sources: ImageSource | Sequence[ImageSource], model: nn.Module, size: int | Size | None = None
) -> ImageBatch:
    """Turns image files, Pillow images and arrays into a model's inputs.

    Files are JPEG, PNG, BMP, WebP, GIF or TIFF. Images are turned upright by their EXIF
    orientation; of an animation, the first frame is used; 16 bits per channel become 8.

    Args:
        sources: A path, a Pillow image or a uint8 array, or a list of them.
        model: Its specification says what happens to an image (`explainkit.adapt` declares it).
            Without one, inputs are pixel / 255, gray if its first convolution takes one channel
            and RGB otherwise, at the image's own size.
        size: Height and width, or both in one number, instead of the model's own, whose steps are
            scaled with it. Where none are known, the image is scaled to cover it, and its center
            is cropped.

    Returns:
        The inputs with their originals, for `explainkit.explain`.

    Raises:
        InputError: A file can't be read or isn't an image, an array is not uint8 or its channels
            can't be told from its rows, or the inputs have different sizes.

    Warns:
        ExplainkitWarning: The model's normalization is not known.

    Examples:
        >>> import numpy as np, torch, explainkit as ek
        >>> from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten()).eval()
        >>> known = Preprocessing((Resize(32), CenterCrop(32)), (0.5,) * 3, (0.5,) * 3)
        >>> net = ek.adapt(net, preprocessing=known)
        >>> batch = ek.load_images(np.zeros((40, 60, 3), np.uint8), net)
        >>> batch.inputs.shape, batch.originals[0].shape, batch.names
        (torch.Size([1, 3, 32, 32]), (40, 60, 3), ('image 0',))
    """
    batch = make_batch(sources, model, size)
    for text in batch.warnings:
        warnings.warn(text, ExplainkitWarning, stacklevel=2)
    return batch


def make_batch(
    sources: ImageSource | Sequence[ImageSource], model: nn.Module, size: int | Size | None = None
) -> ImageBatch:
    """As `load_images`, without issuing the warnings."""
    listed = _listed(sources)
    if not listed:
        raise InputError("expected at least one image, got none")
    preprocessing = preprocessing_of(model, size)
    inputs: list[Tensor] = []
    originals: list[NDArray[np.uint8]] = []
    geometries: list[Geometry] = []
    names: list[str] = []
    files: list[tuple[str, str] | None] = []
    for number, source in enumerate(listed):
        image, name, digest = open_image(source, number)
        files.append((str(source), digest) if digest else None)
        values, geometry = preprocessing(image)
        if inputs and values.shape != inputs[0].shape:
            raise InputError(
                f"expected inputs of one size, got {_size(inputs[0])} from {names[0]} and "
                f"{_size(values)} from {name}: load_images(…, size=224) gives them one"
            )
        inputs.append(values)
        originals.append(np.array(flat(image, "RGB")))
        geometries.append(geometry)
        names.append(name)
    like = floating_tensor(model)
    batch = torch.stack(inputs).to(like.device, like.dtype)
    own = "" if preprocessing.steps else " at the image's own size"
    guess = (
        "the model's normalization is not known: its inputs are "
        f"{'gray' if preprocessing.channels == 1 else 'RGB'}, pixel / 255{own}: "
        "ek.adapt(model, preprocessing=…) declares it"
    )
    return ImageBatch(
        batch, tuple(originals), tuple(geometries), tuple(names), preprocessing,
        () if preprocessing.known else (guess,), tuple(files),
    )  # fmt: skip


def preprocessing_of(model: nn.Module, size: int | Size | None = None) -> Preprocessing:
    """What happens to an image before a model sees it, as its specification says, or a guess.

    Args:
        model: Any module.
        size: Height and width instead of the model's own.

    Raises:
        InputError: The model takes neither gray nor RGB images.
    """
    spec = spec_of(model)
    found = spec.preprocessing if spec else None
    if found is None:
        shape, mean, std = (spec.image_shape, spec.mean, spec.std) if spec else (None, None, None)
        channels = shape[0] if shape else len(mean) if mean else _channels(model)
        if channels not in {1, 3}:
            raise InputError(
                f"expected a model of gray or RGB images, got one of {channels} channels: pass its "
                "inputs as a tensor"
            )
        found = Preprocessing(
            covering(shape[1:]) if shape else (),
            mean, std, channels=channels, known=mean is not None and std is not None,
        )  # fmt: skip
    return changed(found, size=size)


def _channels(model: nn.Module) -> int:
    """The channels that a model's first convolution takes, or three."""
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _listed(sources: object) -> list[Any]:
    if isinstance(sources, list | tuple):
        return list(sources)
    if isinstance(sources, np.ndarray) and sources.ndim == 4:
        return list(sources)
    return [sources]


def open_image(source: object, number: int) -> tuple[Image.Image, str, str]:
    """An image upright, its name, and the sha256 of its file; "" if it came in memory."""
    name = f"image {number}"
    if isinstance(source, str | Path):
        data = read_bytes(Path(source))
        digest = hashlib.sha256(data).hexdigest()
        return decode(data, str(source)), Path(source).name, digest
    if isinstance(source, Image.Image):
        name = Path(getattr(source, "filename", "") or name).name
        return upright(source, name), name, ""
    if isinstance(source, np.ndarray):
        return Image.fromarray(_rows_columns_channels(source, name)), name, ""
    raise InputError(
        f"{name}: expected a path, a Pillow image or a uint8 array, got {type(source).__name__}; "
        "a batch ready for the model is one torch.Tensor [batch, channel, height, width]"
    )


def _rows_columns_channels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """An array as ``[height, width]`` or ``[height, width, 3 or 4]``."""
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise InputError(
            f"{name}: expected a uint8 array of pixels from 0 to 255, got {array.dtype}: an input "
            "that is already normalized is passed as torch.as_tensor(array)"
        )
    if array.ndim not in {2, 3} or not array.size:
        raise InputError(
            f"{name}: expected an array [height, width], [height, width, channel] or "
            f"[channel, height, width], got {shape}"
        )
    if array.ndim == 3:
        last, first = shape[2] in _CHANNELS, shape[0] in _CHANNELS
        if last == first:
            why = "which could be either" if last else "which has neither 1, 3 nor 4 channels"
            raise InputError(
                f"{name}: expected an array [height, width, channel] or [channel, height, width], "
                f"got {shape}, {why}: pass Image.fromarray(array)"
            )
        array = array if last else np.moveaxis(array, 0, 2)
        array = array[..., 0] if array.shape[2] == 1 else array
    return np.ascontiguousarray(array)


def _size(values: Tensor) -> str:
    return f"{values.shape[1]} × {values.shape[2]}"
