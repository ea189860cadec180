"""Pages, notebooks and the index of the gallery."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from explainkit.gallery.script import Script

_THUMBNAIL = 640, 400
_HEADLINE = 93
"""Height of a figure's title and subtitle in pixels."""
_MARGIN = 12
_WHITE = 250
"""Gray values above it count as background."""
_GAP = 15
"""The background between two images in pixels; a title is closer to its image."""

BoolArray = npt.NDArray[np.bool_]


def markdown(script: Script, outputs: Sequence[Sequence[Mapping[str, str]]], foot: str) -> str:
    """A page as Markdown; its files are in the same folder."""
    return "\n\n".join(part for part in _parts(script, outputs, foot) if part) + "\n"


def _parts(
    script: Script, outputs: Sequence[Sequence[Mapping[str, str]]], foot: str
) -> Iterator[str]:
    # figures and code need the width of the table of contents
    yield "---\nhide: [toc]\n---"
    yield f"# {script.title}"
    yield script.lead
    for cell, shown in zip(script.cells, outputs, strict=True):
        yield f"## {cell.title}" if cell.title else ""
        yield cell.text
        yield _fenced("python", cell.code) if cell.code else ""
        for output in shown:
            yield _shown(output, cell.alt)
    yield "---"
    if script.command:
        yield "The same figure from the command line:"
        yield _fenced("sh", script.command)
    if script.packages:
        yield f"This page needs `pip install {' '.join(script.packages)}`."
    yield foot


def _shown(output: Mapping[str, str], alt: str) -> str:
    match output["kind"]:
        case "figure":
            text = alt.replace("[", "(").replace("]", ")")
            return f'![{text}]({output["file"]}){{ width="{output["width"]}" }}'
        case "page":
            return f"[Open the report]({output['file']}){{ .md-button }}"
        case "table":
            return output["text"]
        case "html":
            # on one line, so that Markdown treats it as one block of HTML
            return " ".join(output["text"].split("\n"))
    return _fenced("text", output["text"].rstrip())


def _fenced(kind: str, text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text}\n{fence}"


def notebook(script: Script, outputs: Sequence[Sequence[Mapping[str, str]]], folder: Path) -> str:
    """The script as a Jupyter notebook, format 4.5, with the outputs of its run.

    Args:
        script: The script.
        outputs: Those of each cell.
        folder: Where the figures are, which the notebook contains.
    """
    cells: list[dict[str, Any]] = []

    def add(kind: str, text: str, **own: Any) -> None:
        cells.append(
            {
                "cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {},
                "source": text.splitlines(keepends=True), **own,
            }
        )  # fmt: skip

    add("markdown", f"# {script.title}\n\n{script.lead}".strip())
    runs = 0
    for cell, shown in zip(script.cells, outputs, strict=True):
        text = "\n\n".join(part for part in (cell.title and f"## {cell.title}", cell.text) if part)
        if text:
            add("markdown", text)
        if cell.code:
            runs += 1
            found = [_notebook_output(output, cell.alt, runs, folder) for output in shown]
            add("code", cell.code, execution_count=runs, outputs=found)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def _notebook_output(output: Mapping[str, str], alt: str, run: int, folder: Path) -> dict[str, Any]:
    """An output as Jupyter stores it."""
    if output["kind"] == "printed":
        return {"output_type": "stream", "name": "stdout", "text": output["text"]}
    metadata: dict[str, Any] = {}
    match output["kind"]:
        case "figure":
            metadata = {"image/png": {"width": int(output["width"])}}
            image = b64encode((folder / output["file"]).read_bytes()).decode()
            data = {"image/png": image, "text/plain": alt}
        case "page":
            data = {"text/plain": f"{output['file']}, an HTML file"}
        case "table":
            data = {"text/markdown": output["text"], "text/plain": output["text"]}
        case "html":
            data = {"text/html": output["text"], "text/plain": "HTML"}
        case _:
            data = {"text/plain": output["text"]}
    return {
        "output_type": "execute_result", "execution_count": run, "metadata": metadata, "data": data,
    }  # fmt: skip


def thumbnail(figure: Path, path: Path) -> None:
    """Writes a thumbnail for the index: the right part of a figure below its titles.

    The crop follows gaps, so that no image is cut in two, and white margins are removed.
    """
    with Image.open(figure) as opened:
        image = opened.convert("RGB")
    blank: BoolArray = np.asarray(image.convert("L")) > _WHITE
    top = _HEADLINE if image.height > 3 * _HEADLINE else 0
    shape = _THUMBNAIL[0] / _THUMBNAIL[1]
    high = image.height - top
    high -= _gap(np.all(blank[top:][::-1], axis=1), high - round(image.width / shape))
    left = _gap(np.all(blank[top : top + high], axis=0), image.width - round(high * shape))
    content = ~blank[top : top + high, left:]
    rows, columns = np.flatnonzero(content.any(1)), np.flatnonzero(content.any(0))
    if len(rows):
        ends = left + int(columns[-1]) + 1, top + int(rows[-1]) + 1
        image = image.crop((left + int(columns[0]), top + int(rows[0]), *ends))
    inner = _THUMBNAIL[0] - 2 * _MARGIN, _THUMBNAIL[1] - 2 * _MARGIN
    found = ImageOps.pad(image, inner, Image.Resampling.LANCZOS, color="white")
    ImageOps.expand(found, _MARGIN, "white").save(path, optimize=True)


def _gap(blank: BoolArray, at: int) -> int:
    """The last gap before a position, so that the image there is kept whole; 0 without a gap."""
    wide = np.convolve(blank, np.ones(_GAP), "same") == _GAP
    gaps = np.flatnonzero(wide[: max(at, 0)])
    return int(gaps[-1]) if len(gaps) else 0


def index(pages: Sequence[Mapping[str, Any]]) -> str:
    """The index: thumbnails and titles by plugin and topic."""
    lead = (
        "Every page is a script, executed with the installed library; its figures, tables and text "
        "are the script's output. `explainkit gallery build` rebuilds them."
    )
    lines = ["# Gallery", lead]
    groups = sorted({(page["plugin"] != "explainkit", page["plugin"]) for page in pages})
    for _, plugin in groups:
        own = sorted(
            (page for page in pages if page["plugin"] == plugin),
            key=lambda page: (page["order"], page["name"]),
        )
        lines.append(f"## {plugin}")
        for topic in dict.fromkeys(page["topic"] for page in own):
            lines += [f"### {topic}", '<div class="grid cards" markdown>']
            lines += [_card(page) for page in own if page["topic"] == topic]
            lines.append("</div>")
    return "\n\n".join(lines) + "\n"


def _card(page: Mapping[str, Any]) -> str:
    address = f"{page['plugin']}/{page['name']}.md"
    image = (
        f"[![{page['title']}]({page['plugin']}/{page['thumbnail']})]({address})\n\n    "
        if page["thumbnail"]
        else ""
    )
    return f"-   {image}**[{page['title']}]({address})**\n\n    {page['summary']}"
