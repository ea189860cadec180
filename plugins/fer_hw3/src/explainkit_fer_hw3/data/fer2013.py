"""FER2013 from a table, a folder of images, or a zip of either, recognized by content."""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

import torch

from explainkit.errors import DatasetError
from explainkit_fer_hw3.data import cache as cached
from explainkit_fer_hw3.data.dataset import FaceDataset
from explainkit_fer_hw3.data.source import Source
from explainkit_fer_hw3.data.splits import rows_of, splits_of
from explainkit_fer_hw3.data.table import read_table, table_columns
from explainkit_fer_hw3.data.tree import Entry, folder_entries, is_image, printable, read_tree

LARGEST_FILE = 4 << 30
"""Maximum size in bytes; FER2013 has at most 300 MB."""

_LARGEST_DIRECTORY = 32 << 20
"""Maximum size in bytes of a zip's list of members, which is read completely."""

_HEADER = 4096


def load_fer2013(
    path: Path | str | None, split: str = "train", *, seed: int = 0, cache: bool = True
) -> FaceDataset:
    """Reads FER2013.

    Supported formats: Kaggle's ``fer2013.csv`` (``emotion,pixels,Usage``) and
    ``icml_face_data.csv`` (other column order, spaces in the header), tables with
    ``label,feature`` or ``id,feature``, a folder tree ``train/<class>/*.jpg``, and a zip of any of
    these, which is never unpacked to disk.

    Splits come from the column ``Usage``, from file names (``PublicTest_…``), or from folders. If
    there are no validation images, a seeded tenth of the training images of every class is used.
    A table without labels is all ``public_test``.

    Args:
        path: The file or folder.
        split: ``train``, ``validation``, ``public_test``, ``private_test``, or ``all``: every
            image in file order (for a tree: in sorted path order).
        seed: Random seed of the validation split, if it is sampled.
        cache: Whether to cache the parsed images, keyed by the file's hash.

    Raises:
        DatasetError: The data can't be read; the message names file, row and reason.
    """
    if path is None:
        raise DatasetError("expected the path of FER2013: a CSV, a folder, or a zip of either")
    if seed < 0:
        raise DatasetError(f"seed: expected at least 0, got {seed}")
    path = Path(path)
    source = _source(path, cache)
    rows = rows_of(split, source.labels, source.splits, seed, str(path))
    if not len(rows):
        raise DatasetError(f"{path}: expected images in split {split!r}, found none")
    return FaceDataset(
        pixels=torch.from_numpy(source.pixels[rows])[:, None],
        labels=torch.from_numpy(source.labels[rows]),
        indices=torch.from_numpy(rows),
        names=tuple(source.names[row] for row in rows),
    )


def known_splits(path: Path) -> list[str]:
    """The splits of a file, without ``all``."""
    return splits_of(_source(path, cache=True).splits)


def _source(path: Path, cache: bool) -> Source:
    """All images, from the cache if possible."""
    try:
        if path.is_dir():
            entries = folder_entries(path)
            key = cached.key_of_tree(path, [path / entry.path for entry in entries])
        else:
            _check_file(path)
            key = cached.key_of_file(path)
        if cache and (found := cached.recall(key)):
            return found
        found = _read_folder(path, entries) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise DatasetError(f"{path}: can't be read: {error.strerror or error}") from error
    if cache:
        cached.keep(key, found)
    return found


def _check_file(path: Path) -> None:
    """Refuses special files and files that are too large, before reading them."""
    if not path.exists():
        raise DatasetError(f"expected a file or folder at {path}, found nothing")
    if not path.is_file():
        raise DatasetError(f"{path}: expected a regular file or a folder")
    if path.stat().st_size > LARGEST_FILE:
        raise DatasetError(f"{path}: expected at most {LARGEST_FILE >> 30} GiB")


def _read_folder(path: Path, entries: list[Entry]) -> Source:
    tables = [] if entries else [file.name for file in path.glob("*.csv")]
    if tables:
        raise DatasetError(
            f"{path}: expected images in folders <class>/*.jpg, found the table {tables[0]}: "
            "pass the path of the table"
        )
    return read_tree(entries, str(path))


def _read_file(path: Path) -> Source:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return read_table(file, str(path))
        _check_directory(file, path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive, path)
    except (DatasetError, OSError):
        raise
    except Exception as error:
        # damaged archives make zipfile raise nearly everything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{path}: the zip can't be read: {reason[:120]}") from error


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuses a zip whose list of members would exhaust memory.

    The last record has the list's size. At most a comment of 64 KiB follows it.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 65_557, 0))
    tail = file.read()
    for signature, start, width in ((b"PK\5\6", 12, 4), (b"PK\6\6", 40, 8)):  # plain, zip64
        place = tail.rfind(signature)
        size = int.from_bytes(tail[place + start : place + start + width], "little")
        if place >= 0 and _LARGEST_DIRECTORY < size != 2 ** (8 * width) - 1:
            raise DatasetError(f"{path}: expected a zip with fewer members")


def _read_zip(archive: zipfile.ZipFile, path: Path) -> Source:
    members = [member for member in archive.infolist() if not member.is_dir()]
    tables = _tables(archive, members)
    if not tables and len(members) == 1 and _path(members[0]).suffix.lower() == ".csv":
        tables = members  # read_table explains what is wrong with its header
    if tables:
        with _open(archive, tables[0], path) as file:
            return read_table(file, f"{path}, {printable(PurePosixPath(tables[0].filename))}")
    images = [m for m in members if is_image(_path(m))]
    if not images:
        raise DatasetError(
            f"{path}: expected images or a table of images in the zip, found neither among "
            f"{len(members)} members"
        )
    return read_tree([_entry(archive, member, path) for member in images], str(path))


def _tables(archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The tables of images: those with splits first, then those with labels."""
    found = []
    for member in members:
        if not is_image(_path(member)):
            with _open(archive, member, Path(archive.filename or "")) as file:
                if columns := table_columns(file.read(_HEADER)):
                    found.append(("usage" not in columns, "label" not in columns, member))
    return [member for *_, member in sorted(found, key=lambda row: row[:2])]


def _path(member: zipfile.ZipInfo) -> PurePosixPath:
    """A member's name as a path, which is never used to access the disk."""
    return PurePosixPath(member.filename.replace("\\", "/"))


def _open(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    """Opens a member; only compression methods whose decoder respects the read size are allowed."""
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise DatasetError(
            f"{path}, {printable(_path(member))}: expected a stored or deflated member: "
            "recreate the zip"
        )
    if member.flag_bits & 1:
        raise DatasetError(f"{path}, {printable(_path(member))}: the member is encrypted")
    return archive.open(member)


def _entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Entry:
    def read(most: int) -> bytes:
        with _open(archive, member, path) as file:
            return file.read(most)

    return Entry(_path(member), read)
