"""The report as one HTML file with its images inside, without scripts or network access."""

from base64 import b64encode

from explainkit.render.templates import fill, inline
from explainkit_fer_hw3.study.report.document import Document, Image

_PACKAGE = "explainkit_fer_hw3.study.report"


def to_html(document: Document) -> str:
    """The whole page; all text is escaped."""
    return fill(
        _PACKAGE, "report.html",
        document=document, style=inline(_PACKAGE, "report.css"), page_width=_width, base64=_base64,
    )  # fmt: skip


def _base64(image: Image) -> str:
    return b64encode(image.data).decode("ascii")


def _width(image: Image) -> int:
    """Width in CSS pixels, 96 per inch, of a PNG drawn at 150 per inch."""
    return round(int.from_bytes(image.data[16:20], "big") * 96 / 150)
