"""The report as one HTML file: images inside, no script, nothing loaded."""

import base64
import hashlib
from html import escape
from importlib.resources import files

from explainkit_fer_hw3.study.report.document import Document, Image, Section, Table


def to_html(document: Document) -> str:
    """The whole page; every text is escaped."""
    style = (files("explainkit_fer_hw3.study.report") / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    title = escape(document.title)
    links = "".join(
        f'<li><a href="#s{i}">{escape(section.heading)}</a></li>'
        for i, section in enumerate(document.sections)
    )
    parts = [
        "<!doctype html>",
        f'<html lang="{escape(document.language)}"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{style}</style></head><body>",
        f'<header><h1>{title}</h1><p class="lead">{escape(document.lead)}</p>',
        f"<nav><ol>{links}</ol></nav></header><main>",
        *(_section(f"s{i}", section) for i, section in enumerate(document.sections)),
        f"</main><footer>{escape(document.foot)}</footer></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(anchor: str, section: Section) -> str:
    return "\n".join(
        [
            f'<section id="{anchor}"><h2>{escape(section.heading)}</h2>',
            *(f"<p>{escape(paragraph)}</p>" for paragraph in section.text),
            *map(_table, section.tables),
            *map(_image, section.images),
            "</section>",
        ]
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _image(image: Image) -> str:
    data = base64.b64encode(image.data).decode("ascii")
    caption = escape(image.caption)
    # 150 dots to the inch as drawn, 96 on a page: shown at its own size, sharp when enlarged
    width = round(int.from_bytes(image.data[16:20], "big") * 96 / 150)
    return (
        f'<figure><img width="{width}" alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
