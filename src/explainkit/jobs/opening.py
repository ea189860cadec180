"""The source that a caller's data stand for, and that of a store."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from explainkit.adapters.decoding import suffixes
from explainkit.errors import DatasetError
from explainkit.jobs.sources import Folder, ListFile, Memory, Registered, Source, ZipFile, numbered

Data: TypeAlias = "Source | str | Path | Mapping[str, Any] | Iterable[tuple[str, Any]] | Any"
"""What `explainkit.batch` takes: a folder, a list file or a zip file; a mapping of ids to images;
pairs of an id and an image; or a data set whose items are ``(image, label)``. An image may be a
dict or tuple of several inputs."""


def source_of(data: Data, *, without: Path | None = None) -> Source:
    """The source that a path, a mapping, pairs or a data set stand for.

    Args:
        data: See `Data`.
        without: A folder whose images are left out, if they are in a folder.

    Raises:
        DatasetError: Nothing is there, or it is of no such kind.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        path = Path(data)
        if path.is_dir():
            return Folder(path, without)
        if not path.is_file():
            raise DatasetError(f"expected a folder, a list file or a zip file, got {path}")
        if zipfile.is_zipfile(path):
            return ZipFile(path)
        if path.suffix.lower() in suffixes():
            raise DatasetError(
                f"expected a folder, a list of paths or a zip file, got one image, {path}"
            )
        return ListFile(path)
    if isinstance(data, Mapping):
        return Memory(data)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, list):
        return Memory(numbered(data))
    images: dict[str, Any] = {}
    for pair in cast(Iterable[Any], data):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise DatasetError(f"expected pairs (id, image) with text as id, got {pair!r:.60}")
        if pair[0] in images:
            raise DatasetError(f"expected each id once, got {pair[0]!r} twice")
        images[pair[0]] = pair[1]
    return Memory(images)


def reopened(record: Mapping[str, str]) -> Source | None:
    """The source with this record; None if it was in memory."""
    match record["kind"]:
        case "folder":
            return Folder(Path(record["path"]))
        case "list":
            return ListFile(Path(record["path"]))
        case "zip":
            return ZipFile(Path(record["path"]))
        case "registered":
            path = Path(record["path"]) if record["path"] else None
            return Registered(record["name"], path, record["split"], int(record["seed"]))
    return None
