"""Runs the cells of one gallery script in this process and collects their outputs.

`explainkit.gallery.builder` starts it in a new process:
``python -m explainkit.gallery.run SCRIPT FOLDER SEED MAX_SECONDS``.
"""

import ast
import contextlib
import io
import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explainkit.errors import GalleryError
from explainkit.gallery.script import OUT_OF_TIME, OUTPUTS, Cell, read

_INCH = 96
"""CSS pixels per inch of a figure: text has one size in all figures and is sharp at 2×."""


def run(path: Path, folder: Path, seed: int = 0) -> list[list[dict[str, str]]]:
    """Runs a script's cells in one namespace.

    The outputs of a cell are its printed text and the value of its last expression: a figure, a
    list of mappings (shown as a table), the path of an HTML file, an object with a notebook
    display, or anything else as text.
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
        text = printed.getvalue()
        outputs = [{"kind": "printed", "text": text}] if text else []
        if value is not None:
            outputs.append(_output(value, cell, folder, f"{script.name}-{number}"))
        shown.append(outputs)
    return shown


def _evaluate(cell: Cell, path: Path, names: dict[str, Any]) -> Any:
    """Runs a cell and returns the value of its last statement, if that is an expression."""
    # leading blank lines, so that a traceback has the script's line numbers
    tree = ast.parse("\n" * (cell.line - 1) + cell.code, str(path))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(path), "exec"), names)  # noqa: S102 - runs the script
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(path), "eval"), names)  # noqa: S307


def _output(value: Any, cell: Cell, folder: Path, name: str) -> dict[str, str]:
    from matplotlib.figure import Figure

    from explainkit.render.figure import save_figure

    if isinstance(value, Figure):
        if not cell.alt:
            raise GalleryError(
                f"line {cell.line}: expected a comment '# Alt: …' that describes the figure"
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
    """A Markdown table; numbers are right-aligned, with four significant digits."""
    heads = list(rows[0])
    numeric = [isinstance(rows[0][head], int | float) for head in heads]
    columns = [_texts([row[head] for row in rows]) for head in heads]
    lines = [heads, ["---:" if number else "---" for number in numeric]]
    lines += [list(line) for line in zip(*columns, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _texts(column: list[Any]) -> list[str]:
    """The cells of a column; numbers without exponents have the same number of decimals.

    The largest has four significant digits, so that small numbers do not widen the column.
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
        text.replace("-", "−")
        if isinstance(value, float)
        else text.replace("|", "\\|").replace("\n", " ")
        for value, text in zip(column, texts, strict=True)
    ]


def main() -> None:
    """Entry point of the process."""
    script, folder, seed, max_seconds = sys.argv[1:]
    threading.Thread(target=_limit, args=(float(max_seconds),), daemon=True).start()
    outputs = run(Path(script), Path(folder), int(seed))
    (Path(folder) / OUTPUTS).write_text(json.dumps(outputs), encoding="utf-8")


def _limit(max_seconds: float) -> None:
    """Ends the process once it has used this much CPU time, in all its threads together."""
    while time.process_time() < max_seconds:
        time.sleep(0.2)
    os._exit(OUT_OF_TIME)


if __name__ == "__main__":
    main()
