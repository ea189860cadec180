"""How a result shows itself in a notebook: self-contained HTML, no script."""

import base64
from html import escape

from torch import Tensor

from explainkit.render.figure import parameters, plot, png
from explainkit.types import Explanation

MOST = 8
"""Rows that a notebook shows of a large batch."""

_STYLE = (
    "font:13px system-ui,sans-serif;border:1px solid #8884;border-radius:8px;padding:10px 14px;"
    "max-width:960px;color:inherit"
)
# said for each cell, as notebooks have rules of their own for cells
_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0"


def to_html(explanation: Explanation) -> str:
    """Picture, maps and provenance of an explanation; every text is escaped."""
    shown = explanation if len(explanation) <= MOST else explanation[:MOST]
    data = base64.b64encode(png(plot(shown))).decode("ascii")
    targets = ", ".join(explanation.target_name(i) for i in range(len(shown)))
    facts = {
        "method": explanation.method,
        "parameters": parameters(explanation.params) or "none",
        "model": explanation.model,
        "explained": targets,
        "score": ", ".join(f"{float(score):.4g}" for score in shown.score),
        "images": f"{len(explanation)}" + ("" if shown is explanation else f", {MOST} shown"),
        "versions": ", ".join(f"{k} {v}" for k, v in explanation.versions.items()),
    }
    gap = shown.diagnostics.get("completeness_gap")
    if isinstance(gap, Tensor):
        facts["completeness gap"] = ", ".join(f"{value:.2g}" for value in gap.flatten().tolist())
    rows = [_row(name, value) for name, value in facts.items()]
    rows += [_row("warning", text) for text in explanation.diagnostics.get("warnings", [])]
    alt = escape(f"{explanation.method} of {explanation.model}, explained: {targets}", quote=True)
    return (
        f'<div style="{_STYLE}">'
        f'<img alt="{alt}" src="data:image/png;base64,{data}" '
        'style="width:100%;background:white;border-radius:4px">'
        f'<table style="margin:8px 0 0">{"".join(rows)}</table></div>'
    )


def _row(name: str, value: str) -> str:
    return (
        f'<tr><th style="{_CELL};opacity:.65;font-weight:500">{escape(name)}</th>'
        f'<td style="{_CELL};overflow-wrap:anywhere">{escape(str(value))}</td></tr>'
    )
