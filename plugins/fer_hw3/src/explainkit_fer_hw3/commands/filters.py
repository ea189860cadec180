"""``filters``: what the filters of a layer look for, by gradient ascent from noise."""

import json
from typing import Annotated

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options


def filters(
    model: options.Model = "cnn",
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            help="Dotted path of a layer; `summary` lists them. By default the first convolution "
            "behind its ReLU.",
        ),
    ] = "1",
    channel: Annotated[
        list[int] | None,
        typer.Option("--channel", min=0, help="Only this filter. May be repeated; all without it."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of gradient ascent.")] = 180,
    maximizer: Annotated[
        str, typer.Option("--maximizer", help="Another way to maximise, such as fourier.")
    ] = "explainkit/study",
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """What filters look for: gradient ascent on random pictures, as the study did it.

    Each filter's picture is drawn, its mean activation over the steps is a curve, and the filters
    are ranked by what they reach. A filter that answers to no picture is listed as dead, not
    drawn. Before its ReLU a convolution's mean grows without end in brightness alone: take the
    layer behind it.

    For example:

        explainkit run fer_hw3 filters --channel 0 --channel 1

        explainkit run fer_hw3 filters --layer 15 --maximizer fourier --steps 256 --json
    """
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.study.filters import ascend, ranked

    network = options.load_model(model, device)
    found = ascend(network, layer, channel, steps=steps, maximizer=maximizer, seed=seed)
    chosen = [str(number) for number in (channel or [])[:8]]
    name = maximizer.rpartition("/")[2]
    stem = "-".join(["filters", name, options.model_tag(model), layer, *chosen])
    figure = save_figure(found.grid(), out / f"{stem}.png")
    curves = save_figure(found.traces(), out / f"{stem}-curves.png")
    rows = ranked(found, channel)
    if as_json:
        facts = {
            "schema_version": 1,
            "model": model,
            "layer": layer,
            "maximizer": found.maximizer,
            "steps": steps,
            "filters": rows,
            "figure": str(figure),
            "curves": str(curves),
        }
        typer.echo(json.dumps(facts, allow_nan=False))
        return
    table = Table("rank", "filter", box=None)
    for head in ("at the start", "reached"):
        table.add_column(head, justify="right")
    for row in rows[:10]:
        reached = "dead" if row["score"] is None else f"{row['score']:.3f}"
        table.add_row(str(row["rank"] + 1), str(row["channel"]), f"{row['trace'][0]:.3f}", reached)
    options.show(table)
    dead = sum(row["dead"] for row in rows)
    typer.echo(f"{len(rows)} filters, {dead} of them dead, {steps} steps")
    typer.echo(f"drawn: {figure}")
    typer.echo(f"curves: {curves}")
