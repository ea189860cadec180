"""What commands print to stderr."""

import os
import sys
from contextlib import suppress

from rich.console import Console
from rich.markup import escape

from explainkit.catalog import discovery

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


def mention_broken() -> None:
    """Prints a warning for each broken plugin."""
    for report in discovery.default().broken():
        complain(
            f"warning: plugin {escape(str(report))}: {escape(report.error)}; "
            "see 'explainkit plugins'"
        )
