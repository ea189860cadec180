"""What commands print to stderr."""

from rich.console import Console
from rich.markup import escape

from explainkit.catalog import discovery

errors = Console(stderr=True, highlight=False, emoji=False)


def mention_broken() -> None:
    """Prints a warning for each broken plugin."""
    for report in discovery.default().broken():
        errors.print(
            f"warning: plugin {escape(str(report))}: {escape(report.error)}; "
            "see 'explainkit plugins'",
            soft_wrap=True,
        )
