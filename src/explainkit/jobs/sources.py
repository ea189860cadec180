"""Where the images of a job come from: a folder, a list, a zip file, a data set, or memory."""

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from explainkit.adapters.decoding import LARGEST_FILE, decode, read_bytes, suffixes
from explainkit.adapters.images import ImageSource, open_image
from explainkit.catalog.factories import load_dataset
from explainkit.errors import DatasetError, InputError
from explainkit.files import reason
from explainkit.hashes import pixels_hash
from explainkit.jobs.inputs import Inputs, checked, inputs_hash


@dataclass(frozen=True)
class Loaded:
    """One image, and the hash of its bytes.

    Attributes:
        value: An upright Pillow image; or a tensor ``[channel, height, width]`` as the model takes
            it, or a dict or tuple of several inputs.
        sha256: Of the file, or of the pixels or tensors of an item in memory.
    """

    value: Image.Image | Inputs
    sha256: str


class Source(ABC):
    """The images of a job. It is pickled for each worker, and loads its data there.

    Attributes:
        lasting: Whether the images can be read again later; otherwise the store keeps the inputs.
    """

    lasting: ClassVar[bool] = True

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, str]]:
        """Each image's id, and what tells that its content changed, or "" if that takes reading."""

    @abstractmethod
    def read(self, item: str) -> Loaded:
        """One image.

        Raises:
            ExplainkitError: It can't be read, or is not an image.
        """

    def path_of(self, item: str) -> str | None:  # noqa: ARG002 - of sources with files
        """The file of an image; None if it has no file of its own."""
        return None

    @abstractmethod
    def record(self) -> dict[str, str]:
        """What `reopened` needs."""


@dataclass(frozen=True)
class Folder(Source):
    """The image files in a folder and its subfolders, hidden ones left out; ids are paths.

    Attributes:
        path: The folder.
        without: A folder in it that is left out.
    """

    path: Path
    without: Path | None = None

    def entries(self) -> Iterator[tuple[str, str]]:
        """Paths relative to the folder, with slashes."""
        ends = tuple(suffixes())
        without = str(self.without.resolve()) if self.without else None
        # a stack of folders instead of recursion: trees may be deep
        waiting = [(str(self.path.resolve()), "")]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.path == without:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append((entry.path, f"{prefix}{entry.name}/"))
                        elif entry.name.lower().endswith(ends):
                            yield prefix + entry.name, ""
            except OSError as error:
                raise DatasetError(f"can't list {folder}: {reason(error)}") from error

    def read(self, item: str) -> Loaded:
        """A file of the folder."""
        if PurePosixPath(item).is_absolute() or ".." in PurePosixPath(item).parts:
            raise InputError(f"{item}: expected a file inside {self.path}")
        return _from_file(self.path / item)

    def path_of(self, item: str) -> str | None:
        """The path of a file of the folder."""
        return str(self.path.resolve() / item)

    def record(self) -> dict[str, str]:
        """Kind and path."""
        return {"kind": "folder", "path": str(self.path.resolve())}


@dataclass(frozen=True)
class ListFile(Source):
    """The image files that a text file names, one per line; relative paths start at its folder."""

    path: Path

    def entries(self) -> Iterator[tuple[str, str]]:
        """The lines that are not empty."""
        try:
            with self.path.open(encoding="utf-8", errors="surrogateescape") as lines:
                for line in lines:
                    if name := line.strip():
                        yield name, ""
        except OSError as error:
            raise DatasetError(f"can't read {self.path}: {reason(error)}") from error

    def read(self, item: str) -> Loaded:
        """A file that is in the list."""
        return _from_file(self.path.parent / item)

    def path_of(self, item: str) -> str | None:
        """The path of a file that is in the list."""
        return str(self.path.resolve().parent / item)

    def record(self) -> dict[str, str]:
        """Kind and path."""
        return {"kind": "list", "path": str(self.path.resolve())}


@dataclass(frozen=True)
class ZipFile(Source):
    """The image files in a zip file; ids are the names of its members."""

    path: Path

    def entries(self) -> Iterator[tuple[str, str]]:
        """Names and checksums of the members that are images."""
        ends = tuple(suffixes())
        for member in self._archive.infolist():
            parts = PurePosixPath(member.filename).parts
            hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
            if member.filename.lower().endswith(ends) and not hidden:
                yield member.filename, f"{member.CRC:08x}"

    def read(self, item: str) -> Loaded:
        """A member; no more of it is unpacked than the largest file that is read."""
        where = f"{self.path}:{item}"
        try:
            with self._archive.open(item) as file:
                data = file.read(LARGEST_FILE + 1)
        except (KeyError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            # RuntimeError: encrypted; NotImplementedError: compressed in an unknown way
            raise InputError(f"{where}: can't be read: {error}") from error
        if len(data) > LARGEST_FILE:
            raise InputError(f"{where}: expected at most {LARGEST_FILE:,} bytes")
        return _from_bytes(data, where)

    def record(self) -> dict[str, str]:
        """Kind and path."""
        return {"kind": "zip", "path": str(self.path.resolve())}

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DatasetError(f"expected a zip file at {self.path}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file."""
        return {"path": self.path}


@dataclass(frozen=True)
class Registered(Source):
    """A registered data set, loaded by each process; ids are its names, or else numbers."""

    name: str
    path: Path | None = None
    split: str = "train"
    seed: int = 0
    lasting = False

    def entries(self) -> Iterator[tuple[str, str]]:
        """Ids and hashes of the images."""
        return self._items.entries()

    def read(self, item: str) -> Loaded:
        """An image as the model takes it."""
        return self._items.read(item)

    def record(self) -> dict[str, str]:
        """Kind, name, path, split and seed."""
        return {
            "kind": "registered",
            "name": self.name,
            "path": "" if self.path is None else str(self.path.resolve()),
            "split": self.split,
            "seed": str(self.seed),
        }

    @cached_property
    def _items(self) -> "Memory":
        return Memory(numbered(load_dataset(self.name, self.path, self.split, self.seed)))

    def __getstate__(self) -> dict[str, Any]:
        """Without the images."""
        return {name: value for name, value in vars(self).items() if name != "_items"}


@dataclass(frozen=True)
class Memory(Source):
    """What a mapping holds or loads: paths, Pillow images, arrays, tensors, or several inputs."""

    images: Mapping[str, "ImageSource | Inputs"]
    lasting = False

    def entries(self) -> Iterator[tuple[str, str]]:
        """Ids and hashes of the images; a file that can't be read has none."""
        for item in self.images:
            try:
                yield item, self.read(item).sha256[:16]
            except InputError:
                yield item, ""

    def read(self, item: str) -> Loaded:
        """The image of an id."""
        value = self.images[item]
        if isinstance(value, str | Path):
            return _from_file(Path(value))
        if isinstance(value, Tensor):
            return Loaded(value, pixels_hash(value.detach().cpu().contiguous().numpy()))
        if isinstance(value, Mapping | tuple):
            several = checked(value)
            return Loaded(several, inputs_hash(several))
        image, _, _ = open_image(value, 0)
        return Loaded(image, pixels_hash(np.asarray(image)))

    def record(self) -> dict[str, str]:
        """The kind alone: the images are not found again."""
        return {"kind": "memory"}


class numbered(Mapping[str, Inputs]):  # noqa: N801 - used as a function
    """A data set of ``(inputs, label)`` as a mapping from names, or else numbers, to inputs."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        count = len(dataset)
        names = [str(name) for name in getattr(dataset, "names", ())]
        if len(set(names)) != count:
            width = len(str(count - 1))
            names = [f"{number:0{width}}" for number in range(count)]
        self.rows = {name: number for number, name in enumerate(names)}

    def __getitem__(self, item: str) -> Inputs:
        found = self.dataset[self.rows[item]]
        inputs: Inputs = found[0] if isinstance(found, tuple | list) else found
        return inputs

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def _from_file(path: Path) -> Loaded:
    return _from_bytes(read_bytes(path), str(path))


def _from_bytes(data: bytes, where: str) -> Loaded:
    return Loaded(decode(data, where), hashlib.sha256(data).hexdigest())
