"""Progress on stderr for long work: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 1.0
"""Seconds of work before a bar appears."""

INTERVAL = 10.0
"""Seconds between two lines where stderr is not a terminal."""

Advance = Callable[[int, str], None]
"""Takes the number of steps done since the last call, and a note to show beside the count."""


@contextmanager
def progress(name: str, total: int) -> Iterator[Advance]:
    """Shows the progress of a block, unless it ends soon.

    On a terminal a bar appears after `DELAY` seconds; a block inside another gets a bar below it.
    Elsewhere a line with the steps done and the time left is printed every `INTERVAL` seconds.

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
    with ExitStack() as stack:
        inside = bool(_open)
        display = _open[-1] if inside else stack.enter_context(_opened())
        task = display.bars.add_task(name, total=total, note="")
        if inside:
            stack.callback(display.bars.remove_task, task)

        def advance(count: int, note: str) -> None:
            display.bars.update(task, advance=count, note=note)
            display.appear()

        yield advance


@dataclass(eq=False)
class _Display:
    """The bars of a block and of those inside it."""

    bars: "Progress"
    stack: ExitStack
    begin: float

    def appear(self) -> None:
        """Shows the bars once the work has taken `DELAY` seconds."""
        if not self.bars.live.is_started and time.monotonic() - self.begin > DELAY:
            self.stack.enter_context(self.bars)


_open: list[_Display] = []


@contextmanager
def _opened() -> Iterator[_Display]:
    """A display that blocks inside this one share."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bars = Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        "{task.fields[note]}", console=Console(stderr=True), transient=True,
        redirect_stdout=sys.stdout.isatty(),  # a pipe or a file gets what is printed meanwhile
    )  # fmt: skip
    with ExitStack() as stack:
        display = _Display(bars, stack, time.monotonic())
        _open.append(display)
        stack.callback(_open.remove, display)
        yield display


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
