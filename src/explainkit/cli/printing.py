"""What commands print to stderr."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.markup import escape

from explainkit.catalog import discovery
from explainkit.errors import ExplainkitWarning, clipped

errors = Console(stderr=True, highlight=False, emoji=False)


def complain(text: str) -> None:
    """Prints a line of markup; a full or closed stream has no reader."""
    try:
        errors.print(text, soft_wrap=True)
    except OSError:
        discard("stderr")


def discard(name: str) -> None:
    """Sends what is still written to a stream nowhere, so that the flush at exit can't fail."""
    with suppress(OSError, ValueError):  # ValueError: a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())


@contextmanager
def short_warnings() -> Iterator[None]:
    """Prints each warning of another package once and in one line.

    Ours are recorded in results, and printed with them.
    """
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        text = f"warning: {category.__name__}: {' '.join(str(message).split())}"
        if text not in seen:
            seen.add(text)
            complain(escape(clipped(text)))

    with warnings.catch_warnings(action="ignore", category=ExplainkitWarning):
        warnings.showwarning = show  # type: ignore[assignment] # names of what is left out
        yield


def mention_broken() -> None:
    """Prints a warning for each broken plugin."""
    for report in discovery.default().broken():
        complain(
            f"warning: plugin {escape(str(report))}: {escape(report.error)}; "
            "see 'explainkit plugins'"
        )
