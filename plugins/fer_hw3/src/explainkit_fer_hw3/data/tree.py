"""Images in one folder per class, on disk or in a zip that is never unpacked."""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from explainkit.adapters.decoding import decode, flat
from explainkit.errors import DatasetError
from explainkit_fer_hw3.data.source import MOST_IMAGES, SIDE, Source, short
from explainkit_fer_hw3.data.splits import SPLITS
from explainkit_fer_hw3.faces import CLASS_NAMES

LARGEST_IMAGE = 1 << 20
"""Maximum file size of an image, in bytes."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}

_SYNONYMS = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy",
    "sadness": "sad", "surprised": "surprise",
}  # fmt: skip

_PREFIXES = {
    "training_": "train", "publictest_": "public_test", "privatetest_": "private_test",
}  # fmt: skip

_FOLDERS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "public_test", "publictest": "public_test",
    "public_test": "public_test", "privatetest": "private_test", "private_test": "private_test",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An image: its path in the tree, and a reader of at most so many bytes."""

    path: PurePosixPath
    read: Callable[[int], bytes]


def printable(path: PurePosixPath) -> str:
    """A path as printable text on one line, for any file name."""
    text = str(path).encode("utf-8", "replace").decode()
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= 120 else f"…{shown[-119:]}"


def is_image(path: PurePosixPath) -> bool:
    """Whether a file of a tree is an image, by its name."""
    hidden = any(part.startswith(("._", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def folder_entries(folder: Path) -> list[Entry]:
    """The images below a folder; links are not followed."""

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: can't be read: {error.strerror}") from error

    entries = []
    for base, _, files in os.walk(folder, onerror=refuse):
        for file in files:
            path = Path(base) / file
            relative = PurePosixPath(path.relative_to(folder).as_posix())
            # a link may point anywhere, and reading a pipe may block
            if is_image(relative) and stat.S_ISREG(path.lstat().st_mode):
                entries.append(Entry(relative, _reader(path)))
    return entries


def _reader(path: Path) -> Callable[[int], bytes]:
    def read(most: int) -> bytes:
        with path.open("rb") as file:
            return file.read(most)

    return read


def read_tree(entries: Iterable[Entry], where: str) -> Source:
    """Reads all images, in the order of their sorted paths."""
    ordered = sorted(entries, key=lambda entry: str(entry.path))
    if not ordered:
        raise DatasetError(f"{where}: expected images in folders <class>/*.jpg, found none")
    if len(ordered) > MOST_IMAGES:
        raise DatasetError(f"{where}: expected at most {MOST_IMAGES:,} images")
    labels = [_label(entry.path, where) for entry in ordered]
    splits = [_split(entry.path) for entry in ordered]
    pixels = np.empty((len(ordered), SIDE, SIDE), dtype=np.uint8)
    for i, entry in enumerate(ordered):
        pixels[i] = _pixels(entry, f"{where}, {printable(entry.path)}")
    return Source(
        pixels,
        np.array(labels, dtype=np.int64),
        np.array(splits, dtype=np.int8),
        tuple(printable(entry.path) for entry in ordered),
    )


def _pixels(entry: Entry, place: str) -> NDArray[np.uint8]:
    try:
        data = entry.read(LARGEST_IMAGE + 1)
    except OSError as error:
        raise DatasetError(f"{place}: can't be read: {error.strerror or error}") from error
    if len(data) > LARGEST_IMAGE:
        raise DatasetError(f"{place}: expected at most {LARGEST_IMAGE:,} bytes")
    image = decode(data, place, 4_000_000, DatasetError)
    if image.size != (SIDE, SIDE):
        raise DatasetError(
            f"{place}: expected {SIDE} × {SIDE} pixels, got {image.width} × {image.height}; "
            "use --image for photos of other sizes"
        )
    return np.asarray(flat(image, "L"))


def _label(path: PurePosixPath, where: str) -> int:
    folder = path.parent.name.casefold()
    name = _SYNONYMS.get(folder, folder)
    if name in CLASS_NAMES:
        return CLASS_NAMES.index(name)
    if name.isdigit() and len(name) == 1 and int(name) < len(CLASS_NAMES):
        return int(name)
    raise DatasetError(
        f"{where}, {printable(path)}: expected a folder named after a class "
        f"({', '.join(CLASS_NAMES)}), got "
        f"{short(path.parent.name)}"
    )


def _split(path: PurePosixPath) -> int:
    """The split from the image's name, else from the nearest folder, else train."""
    name = path.name.casefold()
    found = [split for prefix, split in _PREFIXES.items() if name.startswith(prefix)]
    if found[:1] == ["train"]:
        found = []  # validation folders keep the file names of training images
    folders = [part.casefold() for part in path.parts[-3::-1]]
    found += [_FOLDERS[part] for part in folders if part in _FOLDERS]
    return SPLITS.index(found[0] if found else "train")
