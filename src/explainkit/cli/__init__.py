"""The command line."""

from explainkit.cli.app import main as main
