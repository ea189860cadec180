"""Predictions image files: few formats, bounded size, one error."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explainkit.errors import DatasetError
from explainkit_fer_hw3.data.source import SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")

MOST_PIXELS = 64_000_000
"""Of a photo; an image that claims more is refused before it is decoded."""

LARGEST_FILE = 64 << 20
"""Bytes of a photo's file."""

_GRAY = 128


def decode(data: bytes, where: str, most_pixels: int = MOST_PIXELS) -> "Image":
    """Decodes an image and turns it upright.

    Args:
        data: The file's bytes.
        where: The file, for the error.
        most_pixels: Larger images are refused by their header.

    Raises:
        DatasetError: Not an image of the formats allowed, too large, or damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes checked here
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height <= most_pixels:
                image.load()
                return _eight_bits(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise DatasetError(f"{where}: expected an image ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{where}: expected at most {most_pixels:,} pixels: {error}") from error
    except Exception as error:
        # Pillow's decoders raise nearly everything on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{where}: the image is damaged: {reason[:120]}") from error
    raise DatasetError(f"{where}: expected at most {most_pixels:,} pixels, got {width} × {height}")


def _eight_bits(image: "Image") -> "Image":
    """The image itself, or a 16-bit gray one scaled to 8 bits, where Pillow would clip it."""
    if not image.mode.startswith("I"):
        return image
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def gray(image: "Image") -> "Image":
    """An image in 8-bit gray; its transparent parts lie on middle gray."""
    from PIL import Image

    if image.has_transparency_data:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a palette's transparency kept as bytes
            image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (_GRAY, _GRAY, _GRAY, 255))
        image = Image.alpha_composite(backdrop, image)
    return image.convert("L")


def read_image(path: Path | str, size: int = SIDE) -> Tensor:
    """Reads any photo as the networks want it: upright, gray, its central square, resized.

    Args:
        path: A JPEG, PNG, BMP or WebP file. Transparent parts lie on middle gray.
        size: Pixels per side of the result.

    Returns:
        uint8 ``[1, size, size]``.

    Raises:
        DatasetError: It can't be read or is no image.
    """
    from PIL import Image

    path = Path(path)
    try:
        if not path.is_file() and path.exists():
            raise DatasetError(f"{path}: expected a regular file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise DatasetError(f"{path}: expected at most {LARGEST_FILE:,} bytes")
    image = decode(data, str(path))
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    # cropped first: a resampling box would blend in what lies outside it
    image = gray(image.crop((left, top, left + square, top + square)))
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, size, size)
