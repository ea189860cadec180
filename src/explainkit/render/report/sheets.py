"""What a report carries: images as contact sheets, maps as packed numbers, in base64."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOM = 500_000
"""Bytes of numbers up to which all maps of a report are kept in single precision."""

_SIDE, _ROW = 2048, 4


@dataclass(frozen=True)
class SheetGrid:
    """How images of one size stand on contact sheets.

    Attributes:
        columns: Cells in a row of a sheet.
        rows: Rows of a full sheet.
        width: Of a cell in pixels.
        height: Of a cell in pixels.
    """

    columns: int
    rows: int
    width: int
    height: int

    @classmethod
    def of(cls, count: int, width: int, height: int) -> "SheetGrid":
        """A grid near a square, of sheets that any browser can decode."""
        wanted = count if count <= _ROW else math.ceil(math.sqrt(count))
        columns = max(1, min(wanted, _SIDE // width))
        rows = max(1, min(math.ceil(count / columns), _SIDE // height))
        return cls(columns, rows, width, height)

    def sheets(self, images: Sequence[NDArray[np.uint8]]) -> Iterable[Image.Image]:
        """Contact sheets of gray ``[height, width]`` or RGB ``[height, width, 3]`` images."""
        full = self.columns * self.rows
        for start in range(0, len(images), full):
            cells = images[start : start + full]
            rows = math.ceil(len(cells) / self.columns)
            columns = min(self.columns, len(cells))
            shape = (rows * self.height, columns * self.width, *cells[0].shape[2:])
            sheet = np.full(shape, 128, np.uint8)
            for place, cell in enumerate(cells):
                row, column = divmod(place, self.columns)
                top, left = row * self.height, column * self.width
                sheet[top : top + self.height, left : left + self.width] = cell
            yield Image.fromarray(sheet)


def data_uri(image: Image.Image, *, exact: bool = True) -> str:
    """An image as a ``data:`` address: PNG, or JPEG where it need not be exact."""
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        # every pixel keeps its own color: next to each other stand different images
        image.save(buffer, "JPEG", quality=85, subsampling=0)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass(frozen=True)
class Packed:
    """Maps as text, a piece of equal length for each image.

    Attributes:
        text: The pieces, one after the other, base64.
        length: Of a piece.
        kind: ``"f4"``: little-endian single precision; ``"i2"``: steps of 1 / 32767.
        units: A value is the number times its image's unit, the largest size of that map.
    """

    text: str
    length: int
    kind: str
    units: list[float]


def pack(maps: NDArray[np.float64], kind: str) -> Packed:
    """Packs maps ``[batch, height, width]`` of any finite size; f4 keeps seven digits."""
    units = np.abs(maps).max(axis=(1, 2), initial=0.0)
    shares = maps / np.where(units > 0, units, 1.0)[:, None, None]
    numbers = shares.astype("<f4") if kind == "f4" else np.rint(shares * 32767).astype("<i2")
    rows = np.ascontiguousarray(numbers).reshape(len(maps), -1).view(np.uint8)
    # three bytes are four letters: pieces of whole triples can be read alone
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 3)))
    text = base64.b64encode(rows.tobytes()).decode("ascii")
    return Packed(text, rows.shape[1] // 3 * 4, kind, units.tolist())
