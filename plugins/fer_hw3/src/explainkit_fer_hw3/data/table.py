"""Images in a CSV table: one image per row, its pixels as numbers in one column.

The formats in use differ in the names, order and number of columns, and are recognized by their
header. The table is streamed, and the length of a line is bounded.
"""

from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from explainkit.errors import DatasetError
from explainkit_fer_hw3.data.source import MOST_IMAGES, SIDE, Source, short
from explainkit_fer_hw3.data.splits import SPLITS
from explainkit_fer_hw3.faces import CLASS_NAMES

LONGEST_LINE = 64 * 1024
"""Maximum bytes per line; an image needs at most 9,300."""

_BLOCK = 1 << 20

_COLUMNS = {
    "emotion": "label", "label": "label", "pixels": "pixels", "feature": "pixels",
    "usage": "usage", "id": "id",
}  # fmt: skip

_USAGES = {"training": "train", "publictest": "public_test", "privatetest": "private_test"}

_DIGITS = b"0123456789 "


def table_columns(first: bytes) -> set[str]:
    """The columns of a table with these first bytes; empty if it isn't a table of images."""
    line = first.split(b"\n", 1)[0]
    columns = {_COLUMNS[name] for name in _header_names(line) if name in _COLUMNS}
    return columns if "pixels" in columns else set()


def read_table(stream: IO[bytes], where: str) -> Source:
    """Reads all rows."""
    lines = _lines(stream, where)
    columns = _columns(next(lines, b""), where)
    pixels = bytearray()  # a list of arrays would need a copy to be joined
    names: list[str] = []
    labels: list[int] = []
    splits: list[int] = []
    for row, line in enumerate(lines, 1):
        place = f"{where}, row {row}"
        if row > MOST_IMAGES:
            raise DatasetError(f"{place}: expected at most {MOST_IMAGES:,} rows")
        if not line.strip():
            continue
        fields = _fields(line, len(columns), place)
        values = dict(zip(columns, fields, strict=True))
        pixels += _pixels(values["pixels"], place)
        names.append(f"row {row}")
        labels.append(_label(values["label"], place) if "label" in values else -1)
        splits.append(_split(values, place))
    if not pixels:
        raise DatasetError(f"{where}: expected rows of images after the header, found none")
    return Source(
        np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE),
        np.array(labels, dtype=np.int64),
        np.array(splits, dtype=np.int8),
        tuple(names),
    )


def _lines(stream: IO[bytes], where: str) -> Iterator[bytes]:
    """Lines without line ends; one that is too long is refused before it is read completely."""
    rest = b""
    count = 0
    while block := stream.read(_BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            _check_length(line, count, where)
            count += 1
            yield line
        _check_length(rest, count, where)
    if rest:
        yield rest


def _check_length(line: bytes, row: int, where: str) -> None:
    if len(line) > LONGEST_LINE:
        raise DatasetError(
            f"{where}, row {row}: expected at most {LONGEST_LINE:,} bytes in a line, got more: "
            "the file is damaged or isn't a table of images"
        )


def _header_names(line: bytes) -> list[str]:
    text = line.decode("utf-8-sig", errors="replace")
    return [name.strip().strip('"').strip().casefold() for name in text.split(",")]


def _columns(line: bytes, where: str) -> list[str]:
    names = _header_names(line)
    columns = [_COLUMNS.get(name, f"other {i}") for i, name in enumerate(names)]
    if "pixels" not in columns:
        raise DatasetError(
            f"{where}: expected a header with a column 'pixels' or 'feature', "
            f"got {short(', '.join(names)[:200], 80)}"
        )
    double = [name for name in ("label", "pixels", "usage") if columns.count(name) > 1]
    if double:
        raise DatasetError(f"{where}: expected one column for {double[0]} in the header, got more")
    return columns


def _fields(line: bytes, count: int, place: str) -> list[bytes]:
    fields = [field.strip() for field in line.split(b",")]
    if len(fields) != count:
        raise DatasetError(f"{place}: expected {count} columns, got {len(fields)}")
    for i, field in enumerate(fields):
        if field.startswith(b'"') or field.endswith(b'"'):
            if len(field) < 2 or not (field.startswith(b'"') and field.endswith(b'"')):
                raise DatasetError(f"{place}: unclosed quotation mark")
            fields[i] = field[1:-1].strip()
    return fields


def _pixels(field: bytes, place: str) -> bytes:
    if field.translate(None, _DIGITS):
        wrong = next(word for word in field.split(b" ") if word and not word.isdigit())
        raise DatasetError(
            f"{place}, pixels: expected whole numbers from 0 to 255, got {short(wrong[:80])}"
        )
    values: NDArray[np.int64] = np.fromstring(field.decode("ascii"), dtype=np.int64, sep=" ")
    if len(values) != SIDE * SIDE:
        raise DatasetError(f"{place}, pixels: expected {SIDE * SIDE} values, got {len(values)}")
    if values.max() > 255 or values.min() < 0:
        largest = values[(values > 255) | (values < 0)][0]
        raise DatasetError(f"{place}, pixels: expected values from 0 to 255, got {largest}")
    return values.astype(np.uint8).tobytes()


def _label(field: bytes, place: str) -> int:
    if field.isdigit() and len(field) == 1 and int(field) < len(CLASS_NAMES):
        return int(field)
    raise DatasetError(f"{place}, label: expected 0 to {len(CLASS_NAMES) - 1}, got {short(field)}")


def _split(values: dict[str, bytes], place: str) -> int:
    if "usage" not in values:
        # a table without labels is a test set
        return SPLITS.index("train" if "label" in values else "public_test")
    name = values["usage"].decode("utf-8", errors="replace")
    split = _USAGES.get(name.casefold())
    if split is None:
        raise DatasetError(
            f"{place}, usage: expected Training, PublicTest or PrivateTest, got {short(name)}"
        )
    return SPLITS.index(split)
