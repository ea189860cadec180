"""``python -m explainkit``: the command line."""

from explainkit.cli.app import main

main()
