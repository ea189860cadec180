"""``activations``: the outputs of a layer for one image, beside its filters."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options


def activations(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    index: Annotated[int | None, typer.Option(help="Index of the image within the split.")] = None,
    image: Annotated[Path | None, typer.Option(help="A photo of a face.")] = None,
    model: options.Model = "cnn",
    layer: Annotated[
        str, typer.Option(help="Dotted path of a layer that outputs feature maps; see `summary`.")
    ] = "0",
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Show a layer's output channels for one image, beside their filters.

    By default the first convolution, whose filters are the 3×3 kernels themselves. For deeper
    layers a filter is shown as the root mean square over its input channels.

    For example:

        explainkit run fer_hw3 activations

        explainkit run fer_hw3 activations --data train.csv --index 38 --layer 7

        explainkit run fer_hw3 activations --image me.jpg --json
    """
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.study.activations import activations as run
    from explainkit_fer_hw3.study.grids import activations_figure

    images = options.load_image(data, split, index, image, seed, device)
    network = options.load_model(model, device)
    one = images.images[0]
    tag, name = options.model_tag(model), images.tags[0]
    title = f"layer {layer} of {tag}, image {name}"
    stem = "-".join(["activations", tag, layer, *options.data_tags(data, split), name])
    options.claim(context, out, stem)
    found = run(network, one, layer)
    figure = save_figure(activations_figure(found, one.cpu(), title), out / f"{stem}.png")
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
    typer.echo(f"{title}: {shape}; the ten channels with the largest activations:")
    options.show(table)
    inactive = sum(not row["active"] for row in channels)
    if inactive:
        typer.echo(f"{inactive} of {len(channels)} channels are nowhere above zero")
    typer.echo(f"figure: {figure}")
