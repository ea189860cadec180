"""``python -m explainkit``: the command line."""

from explainkit.cli import main

main()
