"""``explainkit verify``: whether results are unchanged, and can be reproduced."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from explainkit.cli import model_options, options


@model_options.with_model_options
def verify(
    *,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="The folder of a store or of a saved explanation, or the file of a report.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help=f"The model, to check and to run: {model_options.SOURCES}"),
    ] = None,
    recompute: Annotated[int, typer.Option(min=0, help="Number of images to explain again.")] = 0,
    seed: Annotated[int, typer.Option(help="Chooses the images that are explained again.")] = 0,
    device: options.Device = "cpu",
    known: model_options.ModelOptions,
    as_json: options.Json = False,
) -> None:
    """Check saved results: hash all files and images, and explain some images again.

    The table says what changed: files, images, the library, the model, or numbers. The exit code is
    0, 1 if something differs, or 4 if files are damaged. Results do not name code to run, so give
    the model as you gave it to the command that made them, unless a plugin provides it.

    For example:

        explainkit verify maps --model timm:resnet50 --recompute 20
    """
    from explainkit.jobs.checks import exit_code
    from explainkit.jobs.receipts import verify as examine

    load = None if model is None else lambda: known.load(model).to(options.find_device(device))
    checks = examine(path, load, recompute=recompute, seed=seed)
    if (
        recompute
        and model is None
        and any(check.name == "model" and check.verdict == "not checked" for check in checks)
    ):
        raise typer.BadParameter("--recompute: expected --model, which computes the maps again")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        table = Table("checked", "verdict", "found", box=None)
        for check in checks:
            table.add_row(check.name, check.verdict, escape(check.found))
        options.show(table)
    if code := exit_code(checks):
        raise typer.Exit(code)
