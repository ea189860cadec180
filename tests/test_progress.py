"""Progress: a bar on a terminal, lines elsewhere, nothing for quick work."""

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


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("explainkit.progress.time.monotonic", lambda: self.now)


def test_a_line_every_ten_seconds_where_there_is_no_terminal(stderr, monkeypatch):
    stream, clock = stderr(io.StringIO()), Clock(monkeypatch)
    with progress("masks", 100) as advance:
        for _ in range(20):
            clock.now += 2.5
            advance(5, "")
    assert stream.getvalue().splitlines() == [
        "masks: 20/100, 0:00:40 left",
        "masks: 40/100, 0:00:30 left",
        "masks: 60/100, 0:00:20 left",
        "masks: 80/100, 0:00:10 left",
    ]


def test_a_line_shows_the_note_and_needs_a_first_step(stderr, monkeypatch):
    stream, clock = stderr(io.StringIO()), Clock(monkeypatch)
    with progress("masks", 3) as advance:
        clock.now += 3600
        advance(0, "")
        advance(1, "error 3 %")
    assert stream.getvalue() == "masks: 1/3, 2:00:00 left, error 3 %\n"


def test_no_line_for_work_of_less_than_ten_seconds(stderr, monkeypatch):
    stream, clock = stderr(io.StringIO()), Clock(monkeypatch)
    with progress("masks", 10) as advance:
        clock.now += 9.9
        advance(4, "error 3 %")
        clock.now += 100
        advance(6, "")
    assert stream.getvalue() == ""


def test_nothing_for_quick_work(stderr):
    stream = stderr(Terminal())
    work()
    assert stream.getvalue() == ""


def test_a_bar_with_its_note(stderr, monkeypatch):
    monkeypatch.setattr(module, "DELAY", -1)
    stream = stderr(Terminal())
    work()
    assert "masks" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "error 2 %" in stream.getvalue()


def test_an_error_ends_the_bar(stderr, monkeypatch):
    monkeypatch.setattr(module, "DELAY", -1)
    stderr(Terminal())

    def stopped():
        with progress("masks", 10) as advance:
            advance(1, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    work()  # only one bar may be alive at once


def test_a_block_inside_another_gets_a_bar_below_it(stderr, monkeypatch):
    monkeypatch.setattr(module, "DELAY", -1)
    stream = stderr(Terminal())
    with progress("images", 3) as advance:
        work()
        advance(1, "")
        with progress("masks", 10) as inner:
            inner(1, "")
            (display,) = module._open
            assert [task.description for task in display.bars.tasks] == ["images", "masks"]
        assert [task.description for task in display.bars.tasks] == ["images"]
        advance(2, "")
    assert not module._open
    assert "images" in stream.getvalue()
    assert "masks" in stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_printed_meanwhile_reaches_stdout(stderr, monkeypatch, terminal):
    monkeypatch.setattr(module, "DELAY", -1)
    stream = stderr(Terminal())
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with progress("images", 2) as advance:
        advance(1, "")
        print("a.png: cat")  # above the bar on a terminal, which both streams share
        advance(1, "")
    assert ("a.png: cat" in out.getvalue()) is not terminal
    assert ("a.png: cat" in stream.getvalue()) is terminal
