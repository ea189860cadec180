"""A report's payload in base64: images as contact sheets, maps as packed numbers."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOM = 500_000
"""Bytes up to which all maps of a report are stored in single precision."""

_SIDE, _ROW = 2048, 4


@dataclass(frozen=True)
class SheetGrid:
    """The layout of contact sheets: cells in a full one, and the size of a cell in pixels."""

    columns: int
    rows: int
    width: int
    height: int

    @classmethod
    def of(cls, count: int, width: int, height: int) -> "SheetGrid":
        """A nearly square layout, within the sheet size that every browser can decode."""
        wanted = count if count <= _ROW else math.ceil(math.sqrt(count))
        columns = max(1, min(wanted, _SIDE // width))
        rows = max(1, min(math.ceil(count / columns), _SIDE // height))
        return cls(columns, rows, width, height)

    def sheets(self, images: Sequence[NDArray[np.uint8]]) -> Iterable[Image.Image]:
        """Contact sheets of gray ``[height, width]`` or RGB ``[height, width, 3]`` images.

        An image that is smaller than a cell lies in its upper left corner.
        """
        full = self.columns * self.rows
        for start in range(0, len(images), full):
            cells = images[start : start + full]
            rows = math.ceil(len(cells) / self.columns)
            columns = min(self.columns, len(cells))
            shape = (rows * self.height, columns * self.width, *cells[0].shape[2:])
            sheet = np.full(shape, 128, np.uint8)
            for index, cell in enumerate(cells):
                row, column = divmod(index, self.columns)
                top, left = row * self.height, column * self.width
                sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
            yield Image.fromarray(sheet)


def data_uri(image: Image.Image, *, exact: bool = True) -> str:
    """An image as a ``data:`` URI: PNG if exact, else JPEG."""
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        # no chroma subsampling: it would mix colors across the borders of cells
        image.save(buffer, "JPEG", quality=85, subsampling=0)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass(frozen=True)
class Packed:
    """Maps as base64 text, with the same number of characters for each image.

    Attributes:
        text: The maps, concatenated.
        length: Characters per map.
        kind: ``"f4"``: little-endian single precision; ``"i2"``: steps of 1 / 32767.
        units: One per map, its largest absolute value; a value is the stored number times it.
    """

    text: str
    length: int
    kind: str
    units: list[float]


def pack(maps: NDArray[np.float64], kind: str) -> Packed:
    """Packs maps ``[batch, height, width]`` of finite values; f4 keeps seven digits."""
    units = np.abs(maps).max(axis=(1, 2), initial=0.0)
    scaled = maps / np.where(units > 0, units, 1.0)[:, None, None]
    numbers = scaled.astype("<f4") if kind == "f4" else np.rint(scaled * 32767).astype("<i2")
    rows = np.ascontiguousarray(numbers).reshape(len(maps), -1).view(np.uint8)
    # three bytes are four characters: with whole triples each map can be decoded alone
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 3)))
    text = base64.b64encode(rows.tobytes()).decode("ascii")
    return Packed(text, rows.shape[1] // 3 * 4, kind, units.tolist())


def unpack(
    text: str, kind: str, units: Sequence[float], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The maps ``[batch, height, width]`` that `pack` packed, with what rounding has left of them.

    Raises:
        ValueError: The text is not that of maps of this shape.
    """
    rows = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(shape[0], -1)
    dtype = np.dtype("<f4" if kind == "f4" else "<i2")
    size = math.prod(shape[1:]) * dtype.itemsize
    values = np.ascontiguousarray(rows[:, :size]).view(dtype).astype(np.float64)
    found = values.reshape(shape) / (1 if kind == "f4" else 32767)
    result: NDArray[np.float64] = found * np.asarray(units)[:, None, None]
    return result
