"""The process around a command: its streams, its signals, and how an error ends it."""

import codecs
import errno
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.markup import escape

from explainkit.cli.printing import complain, discard
from explainkit.errors import ExplainkitError, line

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

LONGEST = 2000
"""Characters of an error message; a value given on the command line may be longer."""

_PLAIN = {"×": "x", "−": "-", "–": "-", "→": "->", "·": "*", "≤": "<=", "≥": ">=", "≈": "~"}


def prepare_streams() -> None:
    """Makes stdout and stderr accept any text, and exist."""
    codecs.register_error("explainkit", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as in `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="explainkit")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for text that a terminal can't show; bytes of file names stay as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    char = error.object[error.start]
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return bytes([ord(char) - 0xDC00]), error.start + 1
    base = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return _PLAIN.get(char, base or "?"), error.start + 1


@contextmanager
def ending_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, unless they are ignored, as by nohup."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Does what Ctrl-C does now: code that must not be interrupted holds it for a while."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


def was_interrupted(end: SystemExit) -> bool:
    """Whether Typer has turned an interrupt into this exit."""
    cause = getattr(end.__context__, "__cause__", None)
    return isinstance(cause, KeyboardInterrupt)


def report(error: BaseException) -> int:
    """Prints one line about an error, and returns the exit code: 2 if what was given is wrong."""
    if isinstance(error, BrokenPipeError):
        discard("stdout")  # the reader has closed the pipe
        return 1
    if isinstance(error, ExplainkitError):
        complain(f"[red]error:[/red] {_one_line(str(error))}")
        return 2 if isinstance(error, ValueError | LookupError) else 1
    if isinstance(error, OSError) and error.filename is None and error.errno in _FULL:
        discard("stdout")
        complain(f"[red]error:[/red] can't write to stdout: {error.strerror}")
    elif isinstance(error, OSError) and error.filename is not None:
        complain(f"[red]error:[/red] {_one_line(f'{error.filename}: {error.strerror}')}")
    else:
        complain(
            f"[red]internal error:[/red] {_one_line(line(error))}; --traceback shows where; "
            "please report it"
        )
    return 1


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""Why a stream can't be written."""


def _one_line(text: str) -> str:
    text = " ".join(text.splitlines())
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return escape("".join(char if char.isprintable() else "�" for char in text))
