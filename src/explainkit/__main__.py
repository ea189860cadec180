"""``python -m explainkit`` runs the command line."""

from explainkit.cli.app import main

main()
