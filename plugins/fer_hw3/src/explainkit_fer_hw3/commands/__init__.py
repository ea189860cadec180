"""The study's commands, mounted at ``explainkit run fer_hw3``. Importing them imports no torch."""

import typer

from explainkit_fer_hw3.commands.activations import activations
from explainkit_fer_hw3.commands.classes import classes
from explainkit_fer_hw3.commands.compare import compare
from explainkit_fer_hw3.commands.concepts import concepts
from explainkit_fer_hw3.commands.confusion import confusion
from explainkit_fer_hw3.commands.evaluate import evaluate
from explainkit_fer_hw3.commands.filters import filters
from explainkit_fer_hw3.commands.report import report
from explainkit_fer_hw3.commands.saliency import saliency
from explainkit_fer_hw3.commands.summary import summary
from explainkit_fer_hw3.commands.train import train

app = typer.Typer(
    help="Facial expressions (FER2013): a CNN, a DNN, and where they look.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
for command in (
    summary,
    evaluate,
    compare,
    confusion,
    saliency,
    filters,
    classes,
    activations,
    concepts,
    train,
    report,
):
    app.command()(command)
