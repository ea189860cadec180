"""The report's languages: one file of sentences each, with placeholders for numbers."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from explainkit_fer_hw3.study.parts import Share

LANGUAGES = ("en", "zh-TW")


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: Language code, as in HTML's ``lang``.
        words: Contents of its file: ``text``, ``classes``, ``parts``, and separators.
    """

    code: str
    words: dict[str, Any]

    def __call__(self, key: str, **values: object) -> str:
        """A sentence, filled with numbers."""
        text: str = self.words["text"][key]
        return text.format(**values)

    def paragraph(self, *sentences: str) -> str:
        """Sentences joined to a paragraph."""
        return str(self.words["space"]).join(sentences)

    def items(self, texts: Iterable[str]) -> str:
        """Texts joined by semicolons."""
        return str(self.words["semicolon"]).join(texts)

    def class_name(self, name: str) -> str:
        """The name of a class."""
        return str(self.words["classes"][name])

    def row_name(self, name: str) -> str:
        """The name of a class as a row header, with the name used in figures."""
        own = self.class_name(name)
        return own if own.lower() == name else f"{own} ({name})"

    def classes(self, names: Iterable[str]) -> str:
        """A list of class names."""
        return self._list([self.class_name(name) for name in names])

    def parts(self, names: Iterable[str]) -> str:
        """A list of face parts."""
        return self._list([str(self.words["parts"][name]) for name in names])

    def share(self, share: Share, *, form: str = "interval") -> str:
        """A number with its interval."""
        return self(form, value=share.value, low=share.interval[0], high=share.interval[1])

    def difference(self, share: Share) -> str:
        """A difference with its interval, always signed."""
        return self.share(share, form="signed_interval").replace("-", "−")

    def _list(self, names: list[str]) -> str:
        if len(names) < 2:
            return "".join(names)
        comma, last = str(self.words["comma"]), str(self.words["and"])
        return comma.join(names[:-1]) + last + names[-1]


@cache
def language(code: str) -> Language:
    """A language by its code, one of `LANGUAGES`."""
    file = files("explainkit_fer_hw3.study.report") / "languages" / f"{code}.toml"
    return Language(code, tomllib.loads(file.read_text(encoding="utf-8")))
