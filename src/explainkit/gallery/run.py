"""Runs the cells of one gallery script in this process, and keeps what they show.

It is started by `explainkit.gallery.builder` in a process of its own:
``python -m explainkit.gallery.run SCRIPT FOLDER SEED``.
"""

import ast
import contextlib
import io
import json
import random
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explainkit.errors import GalleryError
from explainkit.gallery.script import OUTPUTS, Cell, read

_INCH = 96
"""Of a web page in its own pixels: letters are of one size in all figures, and crisp at 2×."""


def run(path: Path, folder: Path, seed: int = 0) -> list[list[dict[str, str]]]:
    """Runs a script's cells in one namespace.

    Of each cell is kept what it printed, and the value of its last expression: a figure, a list
    of mappings (a table), the path of an HTML file, what shows itself in notebooks, or its text.

    Args:
        path: The script.
        folder: Where images go.
        seed: Of Python's, NumPy's and torch's generators.

    Returns:
        For each cell what it shows, each with its ``kind``.

    Raises:
        GalleryError: An image has no text for those who don't see it.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    script = read(path)
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    shown = []
    for number, cell in enumerate(script.cells, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = _evaluate(cell, path, names)
        outputs = [{"kind": "text", "text": printed.getvalue()}] if printed.getvalue() else []
        if value is not None:
            outputs.append(_output(value, cell, folder, f"{script.name}-{number}"))
        shown.append(outputs)
    return shown


def _evaluate(cell: Cell, path: Path, names: dict[str, Any]) -> Any:
    """Runs a cell; the value of its last line, if that is an expression."""
    # blank lines before it: a traceback then names the line of the script
    tree = ast.parse("\n" * (cell.line - 1) + cell.code, str(path))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(path), "exec"), names)  # noqa: S102 - this is what it is for
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(path), "eval"), names)  # noqa: S307


def _output(value: Any, cell: Cell, folder: Path, name: str) -> dict[str, str]:
    from matplotlib.figure import Figure

    from explainkit.render.figure import save_figure

    if isinstance(value, Figure):
        if not cell.alt:
            raise GalleryError(
                f"line {cell.line}: expected a comment '# Alt: …' that says what the figure shows"
            )
        width = str(round(_INCH * value.get_figwidth()))
        file = save_figure(value, folder / f"{name}.png").name
        return {"kind": "figure", "file": file, "width": width}
    if isinstance(value, Path) and value.suffix == ".html":
        return {"kind": "page", "file": Path(shutil.copy(value, folder / f"{name}.html")).name}
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return {"kind": "table", "text": _table(value)}
    if hasattr(value, "_repr_html_"):
        return {"kind": "html", "text": value._repr_html_()}
    return {"kind": "text", "text": value if isinstance(value, str) else repr(value)}


def _table(rows: list[Mapping[str, Any]]) -> str:
    """A Markdown table; numbers stand at the right, with four digits."""
    heads = list(rows[0])
    numeric = [isinstance(rows[0][head], int | float) for head in heads]
    columns = [_texts([row[head] for row in rows]) for head in heads]
    lines = [heads, ["---:" if number else "---" for number in numeric]]
    lines += [list(line) for line in zip(*columns, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _texts(column: list[Any]) -> list[str]:
    """The cells of a column; fractions without exponents have equally many decimals.

    The largest of them has four digits, so that small ones beside it don't widen the column.
    """
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in column]
    if all(
        isinstance(value, float) and "e" not in text
        for value, text in zip(column, texts, strict=True)
    ):
        whole = f"{max(map(abs, column)):.4g}".partition(".")[0].lstrip("0")
        decimals = min(max(len(text.partition(".")[2]) for text in texts), 4 - len(whole))
        texts = [f"{value:z.{decimals}f}" for value in column]
    return [
        text.replace("-", "−") if isinstance(value, float) else _escaped(text)
        for value, text in zip(column, texts, strict=True)
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """The process's own entry."""
    script, folder, seed = sys.argv[1:]
    outputs = run(Path(script), Path(folder), int(seed))
    (Path(folder) / OUTPUTS).write_text(json.dumps(outputs), encoding="utf-8")


if __name__ == "__main__":
    main()
