"""``activations``: what a layer makes of one image, beside the filters that made it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options
from explainkit_fer_hw3.commands.saliency import load_images


def activations(
    data: options.Data = None,
    split: options.Split = None,
    index: Annotated[
        int | None, typer.Option("--index", help="Number of the image within the split.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Any photo of a face.")] = None,
    model: options.Model = "cnn",
    layer: Annotated[
        str,
        typer.Option("--layer", help="Dotted path of a layer with maps; `summary` lists them."),
    ] = "0",
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """What a layer puts out for one image: a grid of its channels beside their filters.

    By default the first convolution, whose filters are the 3×3 kernels themselves. Of deeper
    layers the filters are drawn as the root mean square over their input channels.

    For example:

        explainkit run fer_hw3 activations

        explainkit run fer_hw3 activations --data train.csv --index 38 --layer 7

        explainkit run fer_hw3 activations --image me.jpg --json
    """
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.study.activations import activations as run
    from explainkit_fer_hw3.study.grids import activations_figure

    chosen = None if index is None else [index]
    images = load_images(data, split, chosen, None if image is None else [image], seed)
    network = options.load_model(model, device)
    one = images.images[0]
    found = run(network, one.to(options.find_device(device)), layer)
    tag, name = options.model_tag(model), images.tags[0]
    title = f"layer {layer} of {tag}, image {name}"
    stem = "-".join(["activations", tag, layer, *([split] if split else []), name])
    figure = save_figure(activations_figure(found, one, title), out / f"{stem}.png")
    channels = found.statistics()
    if as_json:
        facts = {
            "schema_version": 1,
            "model": model,
            "layer": layer,
            "filters_of": found.filters_of,
            "index": images.indices[0],
            "shape": list(found.outputs.shape),
            "channels": channels,
            "figure": str(figure),
        }
        typer.echo(json.dumps(facts))
        return
    table = Table("channel", box=None)
    for name in ("mean", "std", "min", "max", "above zero"):
        table.add_column(name, justify="right")
    strongest = sorted(channels, key=lambda c: (-c["max"], c["channel"]))[:10]
    for row in strongest:
        numbers = (f"{row[key]:.3f}" for key in ("mean", "std", "min", "max"))
        table.add_row(str(row["channel"]), *numbers, f"{row['active']:.0%}")
    shape = " × ".join(map(str, found.outputs.shape))
    typer.echo(f"{title}: {shape}; the ten channels with the largest outputs:")
    options.show(table)
    silent = sum(not row["active"] for row in channels)
    if silent:
        typer.echo(f"{silent} of {len(channels)} channels are nowhere above zero")
    typer.echo(f"drawn: {figure}")
