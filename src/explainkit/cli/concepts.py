"""``explainkit concepts``: what a layer of a model has learned, from many images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from explainkit.cli import model_options, options
from explainkit.cli.printing import short_warnings

if TYPE_CHECKING:
    from torch import nn

    from explainkit.results.concepts import Concepts
    from explainkit.results.visualization import Visualization

Number = Annotated[
    int,
    typer.Option("--n", min=1, help="Number of concepts; more than 32 are hard to look through."),
]
Steps = Annotated[
    int,
    typer.Option(
        min=0,
        help="Optimization steps for the image that maximizes each concept, in a report; 0 leaves "
        "these images out.",
    ),
]


@model_options.with_model_options
def concepts(
    *,
    context: typer.Context,
    source: options.ImageSet,
    model: model_options.Source,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Dotted path of a layer with spatial positions or patch tokens; see `explainkit "
            "describe`. By default: that of class activation maps.",
            show_default=False,
        ),
    ] = None,
    n: Number = 10,
    seed: options.Seed = 0,
    data: options.Data = None,
    split: options.Split = "train",
    limit: options.Sample = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file to write: .html, a report with a card for each concept; .png, a figure; "
            ".json, all numbers. Or a folder for `Concepts.load`. Repeatable."
        ),
    ] = None,
    steps: Steps = 64,
    device: options.Device = "auto",
    known: model_options.ModelOptions,
    as_json: options.Json = False,
) -> None:
    """Find the concepts of a layer, and what each of them does to the scores.

    The layer's outputs on at least 200 images are factorized into concepts. The table has the class
    that each concept changes most, and what its score loses without the concept. A concept fails
    if random directions have as large an effect, or if it is no more stable between halves of the
    images than the concepts of a network with random weights.

    For example:

        explainkit concepts photos --model timm:resnet50 --out report.html --out concepts

        explainkit concepts photos --model timm:vit_base_patch16_224 --layer blocks.10 --n 16

        explainkit concepts fer_hw3/synthetic --model fer_hw3/cnn --limit 512 --json
    """
    from explainkit.concept_discovery.discover import concepts as run

    options.check_files(out, folders=True)
    images = options.find_images(source, data, split)
    place = options.find_device(device)
    module = known.load(model).to(place)
    with short_warnings():
        found = run(module, images, layer, n, seed=seed, limit=limit)
        reported = any(path.suffix.lower() == ".html" for path in out or [])
        maximized = maximize(module, found, steps, seed) if reported else None
    for path in out or []:
        options.write_result(found, path, options.command_line(context), maximized=maximized)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), allow_nan=False))
        return
    print_concepts(found)
    for path in out or []:
        typer.echo(path)


def maximize(
    module: "nn.Module", found: "Concepts", steps: int, seed: int
) -> "Visualization | None":
    """The images that maximize concepts; None without steps."""
    import explainkit as ek

    if not steps:
        return None
    shape = found.images.shape[1:]
    return ek.maximize(
        module, list(found), shape=(shape[0], shape[1], shape[2]), steps=steps, seed=seed
    )


def print_concepts(found: "Concepts", **columns: list[str]) -> None:
    """A row for each concept, and how far to trust them.

    Args:
        found: The concepts.
        **columns: More columns by their heads, with a text for each concept.
    """
    from explainkit.render.concept_captions import amount, stability

    table = Table(
        "concept", "class", "importance", "stability", "p", *columns, "verdict",
        title=f"{len(found)} concepts of layer {found.layer}, {found.count} images",
        title_justify="left", box=None,
    )  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for k in range(len(found)):
        best, failures = found.strongest(k), found.failures(k)
        value, error = amount(found, k, best)
        more = (escape(texts[k]) for texts in columns.values())
        table.add_row(
            str(k), escape(found.class_name(best)), f"{value} ± {error}",
            stability(found, k) or "–", f"{float(found.p[k]):.2g}", *more,
            "fails" if failures else "passes",
        )  # fmt: skip
        for reason in failures:
            reasons.setdefault(reason, []).append(str(k))
    options.show(table)
    typer.echo()
    for reason, failing in reasons.items():
        typer.echo(f"{reason[0].upper()}{reason[1:]}: {', '.join(failing)}.")
    for note in found.notes:
        typer.echo(note)
