"""Decoding image files: few formats, bounded size, one error type."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from explainkit.errors import ExplainkitError, InputError
from explainkit.files import reason

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")

MOST_PIXELS = 64_000_000
"""Maximum of an image; larger ones are refused before decoding."""

LARGEST_FILE = 64 << 20
"""Maximum file size in bytes."""

_GRAY = 128


def suffixes() -> frozenset[str]:
    """Endings of the names of files in `FORMATS`, in lower case.

    Examples:
        >>> sorted(suffixes() & {".jpg", ".png", ".pdf"})
        ['.jpg', '.png']
    """
    from PIL import Image

    found = Image.registered_extensions()
    return frozenset(end for end, kind in found.items() if kind in FORMATS)


def read(path: Path, error: type[ExplainkitError] = InputError) -> "Image":
    """Reads and decodes an image file, upright.

    Args:
        path: The file.
        error: What is raised if it can't be read, is too large, damaged, or not an image.
    """
    return decode(read_bytes(path, error), str(path), error=error)


def read_bytes(path: Path, error: type[ExplainkitError] = InputError) -> bytes:
    """The content of an image file, whose size is limited.

    Args:
        path: The file.
        error: What is raised if it can't be read or is too large.
    """
    try:
        special = not path.is_file() and path.exists()
        data = b""
        if not special:
            with path.open("rb") as file:
                data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as refused:  # ValueError: a path with a null character
        raise error(f"{path}: can't be read: {reason(refused)}") from refused
    if special:  # a pipe would be waited for
        raise error(f"{path}: expected a regular file")
    if len(data) > LARGEST_FILE:
        raise error(f"{path}: expected at most {LARGEST_FILE:,} bytes")
    return data


def decode(
    data: bytes,
    where: str,
    most_pixels: int = MOST_PIXELS,
    error: type[ExplainkitError] = InputError,
) -> "Image":
    """Decodes an image upright, by its EXIF orientation; of an animation, the first frame.

    Args:
        data: The file's content.
        where: What errors call it.
        most_pixels: An image with more of them is refused before it is decoded.
        error: What is raised if the image is too large, damaged, or none.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; sizes are checked here
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise error(f"{where}: expected an image ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as reason:
        raise error(f"{where}: expected at most {most_pixels:,} pixels: {reason}") from reason
    except Exception as reason:
        raise error(_damaged(where, reason)) from reason
    width, height = image.size
    if width * height > most_pixels:
        raise error(f"{where}: expected at most {most_pixels:,} pixels, got {width} × {height}")
    return upright(image, where, error)


def upright(image: "Image", where: str, error: type[ExplainkitError] = InputError) -> "Image":
    """An image, decoded and turned by its EXIF orientation; the given one is not turned.

    Args:
        image: May still have to be read.
        where: What errors call it.
        error: What is raised if it is damaged.
    """
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata
            image.load()
            return _eight_bits(ImageOps.exif_transpose(image))
    except Exception as reason:
        # on damaged files Pillow's decoders raise almost any exception
        raise error(_damaged(where, reason)) from reason


def _damaged(where: str, reason: Exception) -> str:
    text = (str(reason) or type(reason).__name__).splitlines()[0]
    return f"{where}: the image is damaged: {text[:120]}"


def flat(image: "Image", mode: Literal["RGB", "L"]) -> "Image":
    """An image as 8-bit RGB or gray; transparent parts are composited on middle gray.

    Raises:
        InputError: Its pixels are real numbers of unknown range, or in a color space that Pillow
            can't convert.
    """
    from PIL import Image

    if image.mode in {"F", "LAB"}:
        raise InputError(
            f"expected 8 or 16 bits per pixel, gray or color, got an image of mode {image.mode}: "
            "convert it to a uint8 array"
        )
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
