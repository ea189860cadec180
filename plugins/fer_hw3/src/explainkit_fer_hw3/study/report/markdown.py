"""The report as Markdown, with a folder of images."""

import re

from explainkit_fer_hw3.study.report.document import Document, Section, Table

IMAGES = "images"
"""The folder of the images, next to the file."""


def to_markdown(document: Document) -> str:
    """The report as Markdown; all text is escaped."""
    parts = [f"# {_text(document.title)}", _text(document.lead)]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join([*parts, "---", _text(document.foot)]) + "\n"


def _section(section: Section) -> list[str]:
    return [
        f"## {_text(section.heading)}",
        *map(_text, section.text),
        *map(_table, section.tables),
        *(
            f"![{_text(one.caption)}]({IMAGES}/{one.name}.png)\n\n*{_text(one.caption)}*"
            for one in section.images
        ),
    ]


def _table(table: Table) -> str:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    lines = [
        "| " + " | ".join(cell if cell == "---" else _text(cell) for cell in row) + " |"
        for row in rows
    ]
    return "\n".join([*([_text(table.caption), ""] if table.caption else []), *lines])


def _text(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|&#~!])", r"\\\1", " ".join(text.split()))
