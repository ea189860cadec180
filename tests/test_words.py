"""Replaced terms stay replaced: tracked text files use the field's standard terms."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPLACED = {
    r"pictures?": "image",
    r"(read|reads|reading) rightly|rightly read": "predicted, correct",
    r"(answer|answers|answered|answering) to": "respond to, activate for",
    r"leads?\(": "log_odds(), all_log_odds()",
    r"asleep": "dead",
    r"as_is": "keep_mode",
    r"uncovered(?=\s*=|[\"'`])": "unsupported",
    r"secants?": "multiplier",
    r"drawn faces?": "synthetic faces",
}
EXCEPTIONS = {
    "src/explainkit/catalog/synonyms.py": {"as_is"},  # hints for names of other releases
    "tests/test_api.py": {"as_is"},  # tests such a hint
    "src/explainkit/results/storage.py": {"uncovered"},  # translates files of version 1
    "tests/results/test_storage.py": {"uncovered", "lead("},  # tests the translation
    "tests/results/version_1/visualization.json": {"lead("},  # a file of version 1
    "tests/test_words.py": None,  # this list
}
"""Files that must name a replaced term, and which; None means all."""

PATTERNS = {
    term: re.compile(
        rf"(?<![A-Za-z]){term}" + ("" if term.endswith(r"\(") else r"(?![A-Za-z])"), re.I
    )
    for term in REPLACED
}


def texts():
    """Tracked files that decode as UTF-8, with their text."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("needs a git checkout")
    for name in done.stdout.strip("\0").split("\0"):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def test_replaced_terms_do_not_come_back():
    found = []
    for name, text in texts():
        allowed = EXCEPTIONS.get(name, set())
        if allowed is None:
            continue
        for term, pattern in PATTERNS.items():
            for match in pattern.finditer(text):
                if match[0].lower() not in allowed:
                    line = text.count("\n", 0, match.start()) + 1
                    found.append(f"{name}:{line}: {match[0]!r}, use {REPLACED[term]}")
    assert not found, "\n".join(found)


def test_every_exception_is_needed():
    tracked = dict(texts())
    for name, words in EXCEPTIONS.items():
        for word in words or ():
            assert word in tracked[name], f"{name} no longer needs {word!r}"
