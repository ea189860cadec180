"""FER2013, told by content and not by name: a table, a folder of pictures, or a zip of either."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch

from explainkit.errors import DatasetError
from explainkit_fer_hw3.data import cache as cached
from explainkit_fer_hw3.data.dataset import FaceDataset
from explainkit_fer_hw3.data.source import Source
from explainkit_fer_hw3.data.splits import rows_of, splits_of
from explainkit_fer_hw3.data.table import is_table, read_table
from explainkit_fer_hw3.data.tree import Entry, folder_entries, is_picture, read_tree

_MOST_MEMBERS = 500_000


def load_fer2013(
    path: Path | str | None, split: str = "train", *, seed: int = 0, cache: bool = True
) -> FaceDataset:
    """Reads FER2013.

    Understood are Kaggle's ``fer2013.csv`` (``emotion,pixels,Usage``) and ``icml_face_data.csv``
    (other order, spaces in the header), tables with ``label,feature`` or ``id,feature``, a folder
    tree ``train/<class>/*.jpg``, and a zip of any of these, which is never unpacked to disk.

    Splits are told by the column ``Usage``, by the pictures' names (``PublicTest_…``), or by
    folders. Where the file has no pictures for validation, a seeded tenth of every class of the
    training pictures is taken. A table without labels is all ``public_test``.

    Args:
        path: The file or folder.
        split: ``train``, ``validation``, ``public_test``, ``private_test``, or ``all``: every
            picture in file order (a tree: in sorted path order).
        seed: Of the validation split, where it is drawn.
        cache: Keep the pictures as an array, under the file's hash, for the next time.

    Raises:
        DatasetError: It can't be read; one line with file, row and reason.
    """
    if path is None:
        raise DatasetError("expected the path of FER2013: a CSV, a folder, or a zip of either")
    path = Path(path)
    source = _source(path, cache)
    rows = rows_of(split, source.labels, source.splits, seed, str(path))
    if not len(rows):
        raise DatasetError(f"{path}: expected pictures in split {split!r}, found none")
    return FaceDataset(
        pixels=torch.from_numpy(source.pixels[rows])[:, None],
        labels=torch.from_numpy(source.labels[rows]),
        indices=torch.from_numpy(rows),
        names=tuple(source.names[row] for row in rows),
    )


def known_splits(path: Path) -> list[str]:
    """The splits that a file has, without ``all``.

    Raises:
        DatasetError: It can't be read.
    """
    return splits_of(_source(path, cache=True).splits)


def _source(path: Path, cache: bool) -> Source:
    """All pictures, from the cache where it has them."""
    with _one_error(path):
        if path.is_dir():
            entries = folder_entries(path)
            key = cached.key_of_tree(path, [path / entry.path for entry in entries])
        else:
            entries = []
            key = cached.key_of_file(path)
        found = cached.recall(key) if cache else None
        if found is None:
            found = read_tree(entries, str(path)) if path.is_dir() else _read_file(path)
            if cache:
                cached.keep(key, found)
        return found


def _read_file(path: Path) -> Source:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive, path)
    with path.open("rb") as file:
        return read_table(file, str(path))


def _read_zip(archive: zipfile.ZipFile, path: Path) -> Source:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > _MOST_MEMBERS:
        raise DatasetError(f"{path}: expected at most {_MOST_MEMBERS:,} members")
    pictures = [m for m in members if is_picture(PurePosixPath(m.filename))]
    if pictures:
        return read_tree((_entry(archive, member) for member in pictures), str(path))
    tables = []
    for member in members:
        with archive.open(member) as file:
            if is_table(file.read(4096)):
                tables.append(member)
    if len(tables) != 1:
        raise DatasetError(
            f"{path}: expected pictures or one table of pictures in the zip, found "
            f"{len(tables)} tables among {len(members)} members"
        )
    with archive.open(tables[0]) as file:
        return read_table(file, f"{path}, {tables[0].filename}")


def _entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
    def read(most: int) -> bytes:
        with archive.open(member) as file:
            return file.read(most)

    return Entry(PurePosixPath(member.filename), read)


@contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """Turns what reading raises into one line that names the file."""
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"expected a file or folder at {path}, found nothing") from error
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too soon"
        raise DatasetError(f"{path}: can't be read: {reason}") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, LookupError) as error:
        # an encrypted member is a RuntimeError, a rare compression a NotImplementedError, a member
        # without a name an IndexError
        raise DatasetError(f"{path}: the zip can't be read: {error}") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise DatasetError(f"{path}: damaged: {error}") from error
