"""``explainkit verify``: whether results are unchanged, and can be reproduced."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from explainkit.cli import model_options, options

if TYPE_CHECKING:
    from torch import nn


def verify(
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
    weights: model_options.Weights = None,
    pretrained: model_options.Pretrained = True,
    allow_pickle: model_options.AllowPickle = False,
    classes: model_options.Classes = None,
    mean: model_options.Mean = None,
    std: model_options.Std = None,
    size: model_options.Size = None,
    crop: model_options.Crop = None,
    output: model_options.Output = None,
    task: model_options.TaskName = None,
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

    known = model_options.arguments(
        weights=weights, pretrained=pretrained, allow_pickle=allow_pickle, classes=classes,
        mean=mean, std=std, size=size, crop=crop, output=output, task=task,
    )  # fmt: skip
    load = None if model is None else partial(_load, model, known, device)
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


def _load(source: str, known: dict[str, object], device: str) -> "nn.Module":
    from explainkit.catalog.models import load_model

    return load_model(source, **known).to(options.find_device(device))  # type: ignore[arg-type]
