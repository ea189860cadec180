"""HTML from Jinja2 templates beside the code: every value is escaped, and nothing is loaded."""

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any
from unicodedata import category

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def clean(text: str) -> str:
    """Replaces what is invisible, can't be encoded, or changes the reading direction."""
    if text.isprintable():  # megabytes of base64 are
        return text
    # Persian, Hindi and emoji need the two joiners
    return "".join(
        c if c.isprintable() or c in "\n\u200c\u200d" or category(c) == "Zs" else "�" for c in text
    )


def _printable(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment(package: str) -> Environment:
    made = Environment(
        loader=PackageLoader(package, ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=_printable,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def fill(package: str, template: str, **values: Any) -> str:
    """Renders a template of a package; text is cleaned and escaped, `Markup` is not."""
    return _environment(package).get_template(template).render(values)


def pieces(package: str, template: str, **values: Any) -> Iterator[str]:
    """As `fill`, a piece at a time: values may be iterators, which are read on the way."""
    return _environment(package).get_template(template).generate(values)


def inline(package: str, name: str) -> tuple[Markup, str]:
    """A style sheet or script, and the hash by which a content security policy admits it alone."""
    text = (files(package) / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return Markup(text), f"sha256-{digest}"  # noqa: S704 - a file of the package
