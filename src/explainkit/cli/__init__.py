"""What people type."""

from explainkit.cli.app import main as main
