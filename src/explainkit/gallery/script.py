"""A gallery script: a docstring for title and lead, then cells that begin with ``# %%``."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from explainkit.errors import GalleryError

OUTPUTS = "outputs.json"
"""The file in which a run leaves what its cells showed."""

_FIELD = re.compile(r"(Topic|Order|Needs|Command): (.+)")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        title: Its heading, or "".
        text: Markdown that stands before the code.
        alt: What its image shows, for readers who don't see it.
        code: Python, on the lines that it has in the script.
        line: Number of the code's first line, from 1.
    """

    title: str
    text: str
    alt: str
    code: str
    line: int


@dataclass(frozen=True)
class Script:
    """A script as a page needs it.

    Attributes:
        path: The file.
        title: The docstring's first line.
        lead: The rest of it, Markdown.
        topic: The group in which the index shows it.
        order: Its place there: small numbers first.
        needs: Plugins without which it can't run.
        command: The command that makes the same image, or "".
        cells: In their order.
    """

    path: Path
    title: str
    lead: str
    topic: str
    order: int
    needs: tuple[str, ...]
    command: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The page's name."""
        return self.path.stem


def read(path: Path) -> Script:
    """Reads a script.

    The docstring may end in lines ``Topic: …``, ``Order: …``, ``Needs: …`` and ``Command: …``.
    A cell is ``# %%`` with an optional title, comments (Markdown; from ``Alt:`` on, what the
    image shows), then code.

    Raises:
        GalleryError: No docstring, no cell, or no Python.
    """
    source = path.read_text(encoding="utf-8")
    try:
        docstring = ast.get_docstring(ast.parse(source))
    except SyntaxError as error:
        raise GalleryError(f"{path}: expected Python: {error}") from error
    lines = source.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    if not docstring or not starts:
        raise GalleryError(
            f"{path}: expected a gallery script: a docstring, then cells that begin with '# %%'"
        )
    title, _, rest = docstring.partition("\n")
    matches = [_FIELD.fullmatch(line) for line in rest.splitlines()]
    fields = {match[1]: match[2] for match in matches if match}
    lead = "\n".join(line for line in rest.splitlines() if not _FIELD.fullmatch(line)).strip()
    ends = [*starts[1:], len(lines)]
    return Script(
        path=path,
        title=title.rstrip("."),
        lead=lead,
        topic=fields.get("Topic", "Pages"),
        order=int(fields.get("Order", "100")),
        needs=tuple(fields.get("Needs", "").replace(",", " ").split()),
        command=fields.get("Command", ""),
        cells=tuple(_cell(lines, start, end) for start, end in zip(starts, ends, strict=True)),
    )


def _cell(lines: list[str], start: int, end: int) -> Cell:
    title = lines[start].removeprefix("# %%").replace("[markdown]", "").strip()
    place = start + 1
    words = []
    while place < end and lines[place].startswith("#"):
        words.append(lines[place].removeprefix("#").removeprefix(" "))
        place += 1
    alt_at = next((i for i, line in enumerate(words) if line.startswith("Alt: ")), len(words))
    alt = " ".join(words[alt_at:]).removeprefix("Alt: ")
    while place < end and not lines[place].strip():
        place += 1
    code = "\n".join(lines[place:end]).strip()
    return Cell(title, "\n".join(words[:alt_at]).strip(), alt, code, place + 1)
