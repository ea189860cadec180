"""A progress bar on stderr, for work that takes longer than a moment."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

PATIENCE = 1.0
"""Seconds of work before a bar appears."""


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Shows how far a block has come; nothing where stderr is no terminal.

    Args:
        what: The name of the work.
        total: Its length.

    Yields:
        A function of the steps done since the last call, and a remark to show beside the bar.

    Examples:
        >>> with progress("forwards", 100) as advance:
        ...     advance(25, "error 3 %")
    """
    if not sys.stderr.isatty():
        yield lambda _count, _remark: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        "{task.fields[remark]}", console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task(what, total=total, remark="")
    begin = time.monotonic()
    with ExitStack() as stack:

        def advance(count: int, remark: str) -> None:
            bar.update(task, advance=count, remark=remark)
            if not bar.live.is_started and time.monotonic() - begin > PATIENCE:
                stack.enter_context(bar)

        yield advance
