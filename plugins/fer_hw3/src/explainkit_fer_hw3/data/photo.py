"""Reading picture files: few formats, bounded size, one error."""

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
"""Of a photo; a picture that claims more is refused before it is decoded."""

LARGEST_FILE = 64 << 20
"""Bytes of a photo's file."""

_GREY = 128


def decode(data: bytes, where: str, most_pixels: int = MOST_PIXELS) -> "Image":
    """Decodes a picture.

    Args:
        data: The file's bytes.
        where: The file, for the error.
        most_pixels: Larger pictures are refused by their header.

    Raises:
        DatasetError: Not a picture of the formats allowed, too large, or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > most_pixels:
                raise DatasetError(
                    f"{where}: expected at most {most_pixels:,} pixels, got {width} × {height}"
                )
            image.load()
    except DatasetError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{where}: expected at most {most_pixels:,} pixels: {error}") from error
    except UnidentifiedImageError:
        raise DatasetError(f"{where}: expected a picture ({', '.join(FORMATS)})") from None
    except (
        OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError, IndexError,
        KeyError, TypeError, AttributeError, RuntimeError,
    ) as error:  # fmt: skip
        # Pillow's decoders raise all of these on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{where}: the picture is damaged: {reason[:120]}") from error
    return image


def read_image(path: Path, size: int = SIDE) -> Tensor:
    """Reads any photo as the networks want it: upright, grey, its central square, resized.

    Args:
        path: A JPEG, PNG, BMP or WebP file. Transparent parts lie on middle grey.
        size: Pixels per side of the result.

    Returns:
        uint8 ``[1, size, size]``.

    Raises:
        DatasetError: It can't be read or is no picture.
    """
    from PIL import Image, ImageOps

    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise DatasetError(f"{path}: expected at most {LARGEST_FILE:,} bytes")
    image = ImageOps.exif_transpose(decode(data, str(path)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (_GREY, _GREY, _GREY, 255))
        image = Image.alpha_composite(backdrop, image)
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    box = (left, top, left + square, top + square)
    # cropped first: a resampling box would blend in what lies outside it
    grey = image.convert("L").crop(box).resize((size, size), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).reshape(1, size, size)
