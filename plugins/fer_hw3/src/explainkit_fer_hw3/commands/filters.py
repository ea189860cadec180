"""``filters``: what the units of a layer look for, and whether the images can be trusted."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options
from explainkit_fer_hw3.commands.saliency import file_name

if TYPE_CHECKING:
    from explainkit.results.visualization import Visualization
    from explainkit_fer_hw3.study.filters import Evidence

PAGES = 12
"""Units that get a page of their own where none were named."""

Maximizer = Annotated[
    str,
    typer.Option("--maximizer", help="How; `explainkit list maximizers` shows all."),
]
MaximizerParam = Annotated[
    list[str] | None,
    typer.Option("--param", help="A field of the maximizer, `name=value`. May be repeated."),
]
Animate = Annotated[
    bool, typer.Option("--animate", help="Write how the images came to be, as a GIF, too.")
]
Quality = Annotated[
    bool,
    typer.Option(
        "--quality", help="Measure against real images how far each image can be trusted."
    ),
]


def filters(
    data: options.Data = None,
    split: options.Split = None,
    model: options.Model = "cnn",
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            help="Dotted path of a layer; `summary` lists them. By default the first convolution "
            "behind its ReLU.",
        ),
    ] = "1",
    units: Annotated[
        str | None,
        typer.Option("--units", help="Only these, such as 3,26,40-42; all without it."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="What to maximize instead, as an expression, such as "
            '`channel("7", 20) - 0.5 * tv()`.',
        ),
    ] = None,
    maximizer: Maximizer = "explainkit/plain",
    param: MaximizerParam = None,
    exemplars: Annotated[
        bool,
        typer.Option(
            "--exemplars",
            help="Show the real images that each unit answers to most, and the part of a face "
            "that it detects.",
        ),
    ] = False,
    quality: Quality = False,
    animate: Animate = False,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """What filters look for: images that they answer to most, found by gradient ascent.

    By default as the study did it: from random images, in 180 steps of plain ascent. Each unit's
    image is drawn, its objective over the steps is a curve, and the units are ranked by what they
    reach. A unit that answers to no image is listed as dead, not drawn. Before its ReLU a
    convolution's mean grows without end in brightness alone: take the layer behind it.

    With `--exemplars` or `--quality`, units also get pages of their own: those named, or the
    twelve that reach most. Real images are those of `--data`, or synthetic faces; the part of a face
    that a unit detects is always measured on synthetic faces, whose parts are known.

    For example:

        explainkit run fer_hw3 filters --units 0-15

        explainkit run fer_hw3 filters --layer 7 --units 93 --maximizer fourier --exemplars

        explainkit run fer_hw3 filters --objective 'channel("7", 20) - channel("7", 3)' --json
    """
    import explainkit as ek
    from explainkit.activation_maximization.quality import measure
    from explainkit.cli.parameters import parse_params
    from explainkit.expressions import parse
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.study.filters import gather, parse_units, ranked

    if objective and units:
        raise typer.BadParameter("--objective says which units itself: leave out --units")
    if objective and exemplars:
        raise typer.BadParameter("--exemplars are those of a layer's units: leave out --objective")
    params = parse_params(maximizer, param or [], "maximizers")
    numbers = parse_units(units) if units else None
    text = objective or (f'channels("{layer}", {numbers})' if numbers else f'channels("{layer}")')
    network = options.load_model(model, device)
    faces = None
    compared = parse(text).z_scored or maximizer.rpartition("/")[2] == "maco"
    if exemplars or quality or data or compared:
        faces = options.load_data(data, split or options.test_split(data), seed)
    found = ek.maximize(
        network,
        text,
        maximizer=maximizer,
        seed=seed,
        dataset=faces.images if faces else None,
        frames=24 if animate else 0,
        **params,
    )
    if quality and faces:
        other = options.load_model("cnn" if model == "dnn" else "dnn", device)
        images = faces.images.to(found.images)
        found = measure(found, network, images, other=other, features=other[:-1], seed=seed)  # type: ignore[index]
    evidence = gather(network, layer, faces, seed=seed) if exemplars and faces else None
    what = file_name(objective) if objective else layer
    named = "".join(units.split()).replace("-", "to").split(",") if units else []
    name = maximizer.rpartition("/")[2]
    stem = "-".join(["filters", name, options.model_tag(model), what, *named])
    files = {
        "figure": str(save_figure(found.grid(), out / f"{stem}.png")),
        "curves": str(save_figure(found.traces(), out / f"{stem}-curves.png")),
    }
    if animate:
        files["animation"] = str(found.animate(out / f"{stem}.gif"))
    rows = ranked(found)
    for row in rows:
        if evidence:
            row |= evidence.facts(row["channel"])
    if evidence or quality:
        _pages(found, rows, evidence, out / f"{stem}-unit", len(rows) if numbers else PAGES)
    if as_json:
        facts = {
            "schema_version": 1,
            "model": model,
            "layer": found.layer,
            "objective": text,
            "maximizer": found.maximizer,
            "params": dict(found.params),
            "units": rows,
            **files,
        }
        typer.echo(json.dumps(facts, allow_nan=False))
        return
    _tell(found, rows)
    for kind, path in files.items():
        typer.echo(f"{kind}: {path}")
    pages = [row["page"] for row in rows if "page" in row]
    if pages:
        typer.echo(f"pages: {pages[0]}" + (f" and {len(pages) - 1} more" if pages[1:] else ""))


def _pages(
    found: "Visualization",
    rows: list[dict[str, Any]],
    evidence: "Evidence | None",
    stem: Path,
    most: int,
) -> None:
    """Draws the pages of the first rows, and notes in each where its page is."""
    from explainkit.render.figure import save_figure
    from explainkit.render.unit import unit_card

    with options.progress(min(most, len(rows)), "pages") as advance:
        for row in rows[:most]:
            unit, number = row["unit"], row["channel"]
            page = evidence.page(found, unit, number) if evidence else unit_card(found, unit)
            tag = unit if number is None else number
            row["page"] = str(save_figure(page, stem.with_name(f"{stem.name}-{tag}.png")))
            advance(1)


def _tell(found: "Visualization", rows: list[dict[str, Any]]) -> None:
    """The ten units that reach most, and what holds for all."""
    shown = [key for key in ("gain", "robust_gain", "selectivity") if key in found.quality]
    parts = any("part" in row for row in rows)
    table = Table("rank", "unit", box=None)
    for head in ("at the start", "reached", *(key.replace("_", " ") for key in shown)):
        table.add_column(head, justify="right")
    if parts:
        table.add_column("detects")
    for row in rows[:10]:
        name = row["objective"] if row["channel"] is None else str(row["channel"])
        reached = "dead" if row["score"] is None else f"{row['score']:.3f}"
        values = [row["quality"][key] for key in shown]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        cells += [row["part"] or "no part"] if parts else []
        table.add_row(str(row["rank"] + 1), name, f"{row['trace'][0]:.3f}", reached, *cells)
    options.show(table)
    dead = sum(row["dead"] for row in rows)
    typer.echo(f"{len(rows)} units, {dead} of them dead, {len(found.trace)} steps")
