"""Decoding image files: few formats, bounded size, one error type."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from explainkit.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")

MOST_PIXELS = 64_000_000
"""Maximum of an image; larger ones are refused before decoding."""

LARGEST_FILE = 64 << 20
"""Maximum file size in bytes."""

_GRAY = 128


def read(path: Path) -> "Image":
    """Reads and decodes an image file, upright.

    Raises:
        InputError: The file can't be read, is too large, damaged, or not an image.
    """
    try:
        if not path.is_file() and path.exists():
            raise InputError(f"{path}: expected a regular file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise InputError(f"{path}: expected at most {LARGEST_FILE:,} bytes")
    return decode(data, str(path))


def decode(data: bytes, where: str, most_pixels: int = MOST_PIXELS) -> "Image":
    """Decodes an image upright, by its EXIF orientation; of an animation, the first frame.

    Args:
        data: The file's content.
        where: What errors call it.
        most_pixels: An image with more of them is refused before it is decoded.

    Raises:
        InputError: The image is too large, damaged, or none.
    """
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
        raise InputError(f"{where}: expected an image ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{where}: expected at most {most_pixels:,} pixels: {error}") from error
    except Exception as error:
        # on damaged files Pillow's decoders raise almost any exception
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{where}: the image is damaged: {reason[:120]}") from error
    raise InputError(f"{where}: expected at most {most_pixels:,} pixels, got {width} × {height}")


def flat(image: "Image", mode: Literal["RGB", "L"]) -> "Image":
    """An image as 8-bit RGB or gray; transparent parts are composited on middle gray."""
    from PIL import Image

    image = _eight_bits(image)
    if image.has_transparency_data:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # palette transparency stored as bytes
            image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (_GRAY, _GRAY, _GRAY, 255))
        image = Image.alpha_composite(backdrop, image)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: "Image") -> "Image":
    """Scales a 16-bit gray image to 8 bits, which Pillow would clip; returns others unchanged."""
    if not image.mode.startswith("I"):
        return image
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
