"""A gallery script: a docstring for title and lead, then cells that begin with ``# %%``."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from explainkit.errors import GalleryError

OUTPUTS = "outputs.json"
"""The file in which a run stores the outputs of its cells."""

OUT_OF_TIME = 75
"""The exit code of a run that exceeds its CPU time."""

_FIELD = re.compile(r"(Topic|Order|Needs|Packages|Command): (.+)")


@dataclass(frozen=True)
class Cell:
    """One cell: a heading, Markdown, the alt text of its figure, and Python from a line on."""

    title: str
    text: str
    alt: str
    code: str
    line: int


@dataclass(frozen=True)
class Script:
    """A parsed gallery script: title, lead and fields of its docstring, and its cells."""

    path: Path
    title: str
    lead: str
    topic: str
    order: int
    needs: tuple[str, ...]
    packages: tuple[str, ...]
    command: str
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The page's name."""
        return self.path.stem


def read(path: Path) -> Script:
    """Parses a script.

    The docstring may end in lines ``Topic: …``, ``Order: …``, ``Needs: …`` (plugins),
    ``Packages: …`` (distributions) and ``Command: …``.
    A cell is ``# %%`` with an optional title, comments (Markdown; from ``Alt:`` on, the alt text of
    the figure), then code.
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
        needs=_listed(fields.get("Needs", "")),
        packages=_listed(fields.get("Packages", "")),
        command=fields.get("Command", ""),
        cells=tuple(_cell(lines, start, end) for start, end in zip(starts, ends, strict=True)),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _cell(lines: list[str], start: int, end: int) -> Cell:
    title = lines[start].removeprefix("# %%").replace("[markdown]", "").strip()
    at = start + 1
    comments = []
    while at < end and lines[at].startswith("#"):
        comments.append(lines[at].removeprefix("#").removeprefix(" "))
        at += 1
    alt_at = next((i for i, line in enumerate(comments) if line.startswith("Alt: ")), len(comments))
    alt = " ".join(comments[alt_at:]).removeprefix("Alt: ")
    while at < end and not lines[at].strip():
        at += 1
    code = "\n".join(lines[at:end]).strip()
    return Cell(title, "\n".join(comments[:alt_at]).strip(), alt, code, at + 1)
