"""Copies the code that pages show from the files that run it.

A page marks a code block with a comment above it, ``<!-- snippet: FILE -->`` or
``<!-- snippet: FILE:SECTION -->``. A section is the lines of the file between
``# --8<-- [start:SECTION]`` and ``# --8<-- [end:SECTION]``.

Usage: ``python docs/write_snippets.py`` updates all pages and prints those that changed.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(<!-- snippet: (?P<file>[^\s:]+)(?::(?P<section>\w+))? -->\n```[^\n]*\n).*?\n?(```\n)",
    re.DOTALL,
)


def code_of(file: str, section: str | None) -> str:
    """The text of a file or of one of its sections."""
    text = (ROOT / file).read_text()
    if section is None:
        return text.strip("\n")
    start, end = f"# --8<-- [start:{section}]\n", f"# --8<-- [end:{section}]"
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"expected one section {section!r} in {file}")
    return text.partition(start)[2].partition(end)[0].strip("\n")


def updated(page: str) -> str:
    """A page's text with the current code in its marked blocks."""
    return BLOCK.sub(lambda m: f"{m[1]}{code_of(m['file'], m['section'])}\n{m[4]}", page)


def pages() -> list[Path]:
    """All pages with code; the gallery's are made from scripts."""
    found = [path for path in (ROOT / "docs").rglob("*.md") if "gallery" not in path.parts]
    return [*sorted(found), ROOT / "README.md"]


def main() -> None:
    for page in pages():
        text = page.read_text()
        if (new := updated(text)) != text:
            page.write_text(new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
