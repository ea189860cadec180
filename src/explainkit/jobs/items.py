"""The sorted list of a job's items, in a file: tens of millions of ids are never in memory at once.

Each line has an id as ASCII with JSON's escapes, a tab, and what tells that the image's content
changed. Lines are sorted, so that ids are in the order of their characters, and every process that
lists the same items writes the same file.
"""

import hashlib
import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import IO

from explainkit.errors import DatasetError

IN_MEMORY = 1_000_000
"""Ids that are sorted in memory; longer lists are sorted in parts, which are merged."""


@dataclass(frozen=True)
class Items:
    """What is known about a list of items that was written.

    Attributes:
        count: The number of items.
        sha256: Of the file.
        offsets: Where each shard begins in the file, in bytes, and where the last one ends.
    """

    count: int
    sha256: str
    offsets: tuple[int, ...]


def write_items(
    entries: Iterable[tuple[str, str]], file: IO[bytes], shard_size: int, limit: int | None = None
) -> Items:
    r"""Sorts items and writes them.

    Args:
        entries: Ids, each with what tells that its content changed.
        file: Where the lines are written.
        shard_size: Items of a shard.
        limit: Only the first of the sorted items are written, this many.

    Raises:
        DatasetError: There are no items, or an id occurs twice.

    Examples:
        >>> import io
        >>> file = io.BytesIO()
        >>> write_items([("b.png", ""), ("a.png", ""), ("c.png", "")], file, 2).offsets
        (0, 14, 21)
        >>> file.getvalue()
        b'a.png\t\nb.png\t\nc.png\t\n'
    """
    digest = hashlib.sha256()
    offsets, position, count = [0], 0, 0
    last = ""
    with ExitStack() as stack:
        lines = islice(_sorted(entries, stack), limit)
        while shard := list(islice(lines, shard_size)):
            ids = [line[: line.index("\t")] for line in shard]
            if ids[0] == last or len(set(ids)) < len(ids):
                twice = next(one for one, next_one in pairwise((last, *ids)) if one == next_one)
                raise DatasetError(f"expected each id once, got {_decoded(twice)!r} twice")
            last = ids[-1]
            data = "".join(shard).encode()
            file.write(data)
            digest.update(data)
            position += len(data)
            offsets.append(position)
            count += len(shard)
    if not count:
        raise DatasetError("expected at least one image, found none")
    return Items(count, digest.hexdigest(), tuple(offsets))


def read_items(path: Path, start: int, end: int) -> list[str]:
    """The ids between two offsets of a file that `write_items` wrote."""
    with path.open("rb") as file:
        file.seek(start)
        return ids_in(file.read(end - start))


def ids_in(lines: bytes) -> list[str]:
    """The ids in some lines of such a file."""
    return [_decoded(line.partition("\t")[0]) for line in lines.decode().splitlines()]


def _sorted(entries: Iterable[tuple[str, str]], stack: ExitStack) -> Iterator[str]:
    """The lines in order: an external merge sort."""
    lines = (f"{encode_basestring_ascii(item)[1:-1]}\t{mark}\n" for item, mark in entries)
    runs: list[Iterable[str]] = []
    while run := list(islice(lines, IN_MEMORY)):
        run.sort()
        if not runs and len(run) < IN_MEMORY:
            return iter(run)
        file = stack.enter_context(_temporary())
        file.writelines(run)
        file.seek(0)
        runs.append(file)
        del run[:]  # before the next one is read
    return heapq.merge(*runs)


def _temporary() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="ascii", newline="\n")


def _decoded(text: str) -> str:
    if "\\" not in text:
        return text
    found: str = json.loads(f'"{text}"')
    return found
