"""Progress on stderr for long work: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

DELAY = 1.0
"""Seconds of work before a bar appears."""

INTERVAL = 10.0
"""Seconds between two lines where stderr is not a terminal."""

Advance = Callable[[int, str], None]
"""Takes the number of steps done since the last call, and a note to show beside the count."""


@contextmanager
def progress(name: str, total: int) -> Iterator[Advance]:
    """Shows the progress of a block, unless it ends soon.

    On a terminal a bar appears after `DELAY` seconds. Elsewhere a line with the steps done and the
    time left is printed every `INTERVAL` seconds.

    Args:
        name: What is counted.
        total: The number of steps.

    Yields:
        A function to call after each step or several.

    Examples:
        >>> with progress("forwards", 100) as advance:
        ...     advance(25, "error 3 %")
    """
    if not sys.stderr.isatty():
        yield _lines(name, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        "{task.fields[note]}", console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task(name, total=total, note="")
    begin = time.monotonic()
    with ExitStack() as stack:

        def advance(count: int, note: str) -> None:
            bar.update(task, advance=count, note=note)
            if not bar.live.is_started and time.monotonic() - begin > DELAY:
                stack.enter_context(bar)

        yield advance


def _lines(name: str, total: int) -> Advance:
    """Prints a line at most every `INTERVAL` seconds, and none for the last step."""
    begin = last = time.monotonic()
    done = 0

    def advance(count: int, note: str) -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        if now - last < INTERVAL or not 0 < done < total:
            return
        last = now
        left = timedelta(seconds=round((now - begin) / done * (total - done)))
        text = f"{name}: {done}/{total}, {left} left" + (f", {note}" if note else "")
        sys.stderr.write(text + "\n")

    return advance
