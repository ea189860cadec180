"""The study's commands, mounted at ``explainkit run fer_hw3``. Importing them imports no torch."""

import typer

from explainkit_fer_hw3.commands.evaluate import confusion, evaluate
from explainkit_fer_hw3.commands.saliency import saliency
from explainkit_fer_hw3.commands.summary import summary

app = typer.Typer(
    help="Facial expressions (FER2013): a CNN, a DNN, and where they look.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
for command in (summary, evaluate, confusion, saliency):
    app.command()(command)
