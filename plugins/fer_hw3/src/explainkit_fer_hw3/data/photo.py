"""Reading image files: few formats, bounded size, one error type."""

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
"""Maximum of a photo; larger images are refused before decoding."""

LARGEST_FILE = 64 << 20
"""Maximum file size of a photo, in bytes."""

_GRAY = 128


def decode(data: bytes, where: str, most_pixels: int = MOST_PIXELS) -> "Image":
    """Decodes an image upright, by its EXIF orientation; a too large one is refused undecoded."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; sizes are checked here
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
        # on damaged files Pillow's decoders raise almost any exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{where}: the image is damaged: {reason[:120]}") from error
    raise DatasetError(f"{where}: expected at most {most_pixels:,} pixels, got {width} × {height}")


def _eight_bits(image: "Image") -> "Image":
    """Scales a 16-bit gray image to 8 bits, which Pillow would clip; returns others unchanged."""
    if not image.mode.startswith("I"):
        return image
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def gray(image: "Image") -> "Image":
    """Converts an image to 8-bit gray; transparent parts are composited on middle gray."""
    from PIL import Image

    if image.has_transparency_data:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # palette transparency stored as bytes
            image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (_GRAY, _GRAY, _GRAY, 255))
        image = Image.alpha_composite(backdrop, image)
    return image.convert("L")


def read_image(path: Path | str, size: int = SIDE) -> Tensor:
    """Reads a photo for the networks: upright, gray, cropped to its central square, resized.

    Args:
        path: A JPEG, PNG, BMP or WebP file. Transparent parts become middle gray.
        size: Height and width of the result in pixels.

    Returns:
        uint8 ``[1, size, size]``.

    Raises:
        DatasetError: The file can't be read or isn't an image.
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
    # crop first: resampling with a box would blend in pixels outside it
    image = gray(image.crop((left, top, left + square, top + square)))
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, size, size)
