"""Photos as the networks take them."""

from pathlib import Path

import torch
from torch import Tensor

from explainkit.adapters.decoding import read
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.errors import DatasetError
from explainkit_fer_hw3.models import PHOTO


def read_image(path: Path | str) -> Tensor:
    """Reads a photo for the networks: upright, gray, cropped to its central square, resized.

    Args:
        path: A JPEG, PNG, BMP, WebP, GIF or TIFF file. Transparent parts become middle gray.

    Returns:
        uint8 ``[1, 48, 48]``.

    Raises:
        DatasetError: The file can't be read or isn't an image.
    """
    values, _ = Preprocessing(PHOTO.steps, channels=1)(read(Path(path), DatasetError))
    return (255 * values).round().to(torch.uint8)
