"""The image files that a command is given, and a name for the files made from each."""

import glob
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from explainkit.adapters.decoding import suffixes
from explainkit.cli.names import distinct, file_name


@dataclass(frozen=True)
class Photo:
    """An image file.

    Attributes:
        path: Where it is.
        name: What the files made from it start with; different for each.
    """

    path: Path
    name: str


def find_photos(given: Sequence[str], out: Path, endings: Collection[str] = ("",)) -> list[Photo]:
    """The image files in files, folders and patterns, each once, in the order given.

    A folder stands for the images in it and in its subfolders, in sorted order, without hidden ones
    and without those below ``out``, which earlier runs have written.

    Args:
        given: Paths and patterns.
        out: The output folder.
        endings: What will be appended to a photo's name.

    Raises:
        typer.BadParameter: A folder or a pattern has no images.
    """
    named: dict[Path, tuple[Path, str]] = {}
    for text in given:
        found = list(_expanded(text, out.resolve()))
        if not found:
            raise typer.BadParameter(f"expected images, found none in {text}")
        for path, parts in found:
            named.setdefault(path.resolve(), (path, "-".join(map(file_name, parts))))
    paths, names = zip(*named.values(), strict=True)
    unique = distinct(names, endings)
    return [Photo(path, name) for path, name in zip(paths, unique, strict=True)]


def _expanded(text: str, out: Path) -> Iterator[tuple[Path, Sequence[str]]]:
    """The files that an argument stands for, each with the parts of its name."""
    path = Path(text)
    if path.is_dir():
        ends = suffixes()
        for file in sorted(path.rglob("*")):
            inner = file.relative_to(path)
            hidden = any(part.startswith(".") for part in inner.parts)
            if file.suffix.lower() not in ends or hidden or not file.is_file():
                continue
            if not file.resolve().is_relative_to(out):
                yield file, (*inner.parent.parts, file.stem)
    elif glob.has_magic(text) and not path.exists():
        for match in sorted(glob.glob(text, recursive=True)):  # noqa: PTH207 - takes any pattern
            if Path(match).is_file():
                yield Path(match), (Path(match).stem,)
    else:
        yield path, (path.stem,)  # one that is missing is reported when it is read
