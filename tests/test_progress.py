"""The progress bar: on a terminal, after a moment, and nowhere else."""

import io

import pytest

from explainkit import progress as module
from explainkit.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def install(stream):
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return install


def work():
    with progress("masks", 10) as advance:
        advance(4, "error 3 %")
        advance(6, "error 2 %")


def test_nothing_where_there_is_no_terminal(stderr, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1)
    stream = stderr(io.StringIO())
    work()
    assert stream.getvalue() == ""


def test_nothing_for_quick_work(stderr):
    stream = stderr(Terminal())
    work()
    assert stream.getvalue() == ""


def test_a_bar_with_its_remark(stderr, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1)
    stream = stderr(Terminal())
    work()
    assert "masks" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "error 2 %" in stream.getvalue()


def test_an_error_ends_the_bar(stderr, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1)
    stderr(Terminal())

    def stopped():
        with progress("masks", 10) as advance:
            advance(1, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    work()  # only one bar may be alive at once
