"""``filters``: the images that maximally activate the units of a layer, and their quality."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from explainkit.cli.names import file_name, joined
from explainkit.progress import progress
from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from explainkit.results.visualization import Visualization
    from explainkit_fer_hw3.study.filters import Evidence

UNITS = 32
"""Units that are maximized if none are named."""

STEPS = 64
"""Steps of the optimization, unless full quality is asked for."""

SHEET = 64
"""Units in one figure."""

CARDS = 12
"""Units that get a unit card if none are named."""

Maximizer = Annotated[str, typer.Option(help="A maximizer; see `explainkit list maximizers`.")]
MaximizerParam = Annotated[
    list[str] | None, typer.Option(help="A parameter of the maximizer, `name=value`. Repeatable.")
]
Animate = Annotated[bool, typer.Option("--animate", help="Also write a GIF of the optimization.")]
Full = Annotated[
    bool,
    typer.Option(
        "--full", help="Full quality: the maximizer's own number of steps, and every unit."
    ),
]
Quality = Annotated[
    bool, typer.Option("--quality", help="Measure the quality of each image against real images.")
]


def filters(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    model: options.Model = "cnn",
    layer: Annotated[
        str,
        typer.Option(
            help="Dotted path of a layer; see `summary`. By default: the ReLU after the first "
            "convolution."
        ),
    ] = "1",
    units: Annotated[
        str | None, typer.Option(help="Units such as 3,26,40-42. By default: the first 32.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help='An expression to maximize instead, such as `channel("7", 20) - 0.5 * tv()`.'
        ),
    ] = None,
    maximizer: Maximizer = "explainkit/plain",
    param: MaximizerParam = None,
    exemplars: Annotated[
        bool,
        typer.Option(
            "--exemplars",
            help="Show the real images that activate each unit most, and the part of the face "
            "that it detects.",
        ),
    ] = False,
    full: Full = False,
    quality: Quality = False,
    animate: Animate = False,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Find the images that maximally activate the filters of a layer, by gradient ascent.

    As in the study: plain gradient ascent from random images. By default it runs 64 steps for 32
    units, which takes under a minute on two cores; `--full` runs 180 steps for all units, as the
    study did. Units are ranked by their final activation; dead units, which no image activates, are
    listed but have no image. Choose the ReLU after a convolution: before it, the mean activation
    is linear in the image, and the maximum is a uniform image.

    With `--exemplars` or `--quality`, each of the named units (else of the twelve strongest) also
    gets a unit card. Real images are those of `--data`, else synthetic faces. The part of the face
    that a unit detects is always measured on synthetic faces, whose parts are known.

    For example:

        explainkit run fer_hw3 filters

        explainkit run fer_hw3 filters --full

        explainkit run fer_hw3 filters --layer 7 --units 93 --maximizer fourier --exemplars

        explainkit run fer_hw3 filters --objective 'channel("7", 20) - channel("7", 3)' --json
    """
    import explainkit as ek
    from explainkit.activation_maximization.quality import measure
    from explainkit.expressions import parse
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.study.filters import count_units, gather, parse_units, ranked

    if objective and units:
        raise typer.BadParameter("--objective names its own units: leave out --units")
    if objective and exemplars:
        raise typer.BadParameter("--exemplars needs units of a layer: leave out --objective")
    options.check_split(data, split)
    params = maximizer_params(maximizer, param or [], full)
    network = options.load_model(model, device)
    numbers = parse_units(units) if units else None
    if not (objective or numbers or full) and count_units(network, layer) > UNITS:
        numbers = list(range(UNITS))
    text = objective or (f'channels("{layer}", {numbers})' if numbers else f'channels("{layer}")')
    faces = None
    compared = parse(text).z_scored or maximizer.rpartition("/")[2] == "maco"
    if exemplars or quality or data or compared:
        faces = options.load_data(data, split or options.test_split(data), seed)
    what = file_name(objective) if objective else layer
    chosen = ["full"] if full else []
    if units:
        chosen.append(joined("".join(units.split()).replace("-", "to").split(",")))
    name = maximizer.rpartition("/")[2]
    tags = [options.model_tag(model), what, *options.data_tags(data, split), *chosen]
    stem = "-".join(["filters", name, *tags])
    options.claim(context, out, stem)
    found = ek.maximize(
        network, text, maximizer=maximizer, seed=seed, dataset=faces.images if faces else None,
        frames=24 if animate else 0, **params,
    )  # fmt: skip
    if quality and faces:
        other = options.load_model("cnn" if model == "dnn" else "dnn", device)
        images = faces.images.to(found.images)
        found = measure(found, network, images, other=other, features=other[:-1], seed=seed)  # type: ignore[index]
    evidence = gather(network, layer, faces, seed=seed) if exemplars and faces else None
    files = {}
    for start in range(0, len(found), SHEET):
        number = f"_{start // SHEET + 1}" if start else ""
        figure = found[start : start + SHEET].grid()
        files[f"figure{number}"] = str(save_figure(figure, out / f"{stem}{number}.png"))
    files["curves"] = str(save_figure(found.traces(), out / f"{stem}-curves.png"))
    if animate:
        files["animation"] = str(found.animate(out / f"{stem}.gif"))
    rows = ranked(found)
    for row in rows:
        if evidence:
            row |= evidence.facts(row["channel"])
    if evidence or quality:
        _cards(found, rows, evidence, out / f"{stem}-unit", len(rows) if units else CARDS)
    if as_json:
        facts = {
            "schema_version": 2,
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
    _print(found, rows)
    for kind, path in files.items():
        typer.echo(f"{kind.replace('_', ' ')}: {path}")
    cards = [row["card"] for row in rows if "card" in row]
    if cards:
        typer.echo(f"cards: {cards[0]}" + (f" and {len(cards) - 1} more" if cards[1:] else ""))


def maximizer_params(maximizer: str, texts: list[str], full: bool) -> dict[str, Any]:
    """The maximizer's parameters; unless ``full``, with few steps if none are given."""
    from explainkit.catalog import discovery
    from explainkit.catalog.factories import defaults
    from explainkit.cli.parameters import parse_params

    params = parse_params(maximizer, texts, "maximizers")
    known = defaults(discovery.registry("maximizers").get(maximizer))
    if full or "steps" not in known or "steps" in params:
        return params
    quick: dict[str, Any] = {"steps": STEPS}
    if known.get("optimizer") == "ascent":  # its steps have one length: as far with fewer
        quick["lr"] = known["lr"] * known["steps"] / STEPS
    return quick | params


def _cards(
    found: "Visualization", rows: list[dict[str, Any]], evidence: "Evidence | None", stem: Path,
    most: int,
) -> None:  # fmt: skip
    """Draws the unit cards of the first rows, and adds the path of each to its row."""
    from explainkit.render.figure import save_figure
    from explainkit.render.unit import unit_card

    with progress("unit cards", min(most, len(rows))) as advance:
        for row in rows[:most]:
            unit, number = row["unit"], row["channel"]
            card = evidence.card(found, unit, number) if evidence else unit_card(found, unit)
            tag = unit if number is None else number
            row["card"] = str(save_figure(card, stem.with_name(f"{stem.name}-{tag}.png")))
            advance(1, "")


def _print(found: "Visualization", rows: list[dict[str, Any]]) -> None:
    """Prints the ten strongest units, and a summary of all."""
    shown = [key for key in ("gain", "robust_gain", "selectivity") if key in found.quality]
    parts = any("part" in row for row in rows)
    table = Table("rank", "unit", box=None)
    for head in ("initial", "final", *(key.replace("_", " ") for key in shown)):
        table.add_column(head, justify="right")
    if parts:
        table.add_column("detects")
    for row in rows[:10]:
        name = row["objective"] if row["channel"] is None else str(row["channel"])
        final = "dead" if row["score"] is None else f"{row['score']:.3f}"
        values = [row["quality"][key] for key in shown]
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        cells += [row["part"] or "–"] if parts else []
        table.add_row(str(row["rank"] + 1), name, f"{row['trace'][0]:.3f}", final, *cells)
    options.show(table)
    dead = sum(row["dead"] for row in rows)
    plural = "s" if len(rows) > 1 else ""
    typer.echo(f"{len(rows)} unit{plural}, {dead} dead, {len(found.trace)} steps")
