"""``classes``: the image that maximizes each class score, for the CNN and for the DNN."""

import json
from pathlib import Path
from typing import Annotated

import typer

from explainkit_fer_hw3.commands import options
from explainkit_fer_hw3.commands.filters import (
    Animate,
    Full,
    Maximizer,
    MaximizerParam,
    maximizer_params,
)

MODELS = ["cnn", "dnn"]


def classes(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    index: Annotated[
        int | None, typer.Option(help="Start from the image with this index instead of noise.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Start from a photo of a face instead of noise.")
    ] = None,
    model: Annotated[
        list[str], typer.Option(help="cnn, dnn, or a .safetensors weights file. Repeatable.")
    ] = MODELS,
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="Only this class, by name. Repeatable.")
    ] = None,
    maximizer: Maximizer = "explainkit/fourier",
    param: MaximizerParam = None,
    full: Full = False,
    animate: Animate = False,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Find the image that maximizes each class score, for each network.

    Each network also classifies the other network's images. An image that convinces only its own
    network shows more of that network than of the class. With `--index` or `--image` the
    optimization starts from a real face and shows how to make it look, say, angrier to the network.

    The default of 64 steps takes under a minute on two cores; `--full` runs the maximizer's own
    number of steps.

    For example:

        explainkit run fer_hw3 classes

        explainkit run fer_hw3 classes --class angry --class happy --full --animate

        explainkit run fer_hw3 classes --image me.jpg --json
    """
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.faces import CLASS_NAMES
    from explainkit_fer_hw3.study.ideals import find_ideals, ideals_figure

    chosen = class_ or list(CLASS_NAMES)
    for name in chosen:
        if name not in CLASS_NAMES:
            raise typer.BadParameter(f"--class: expected {', '.join(CLASS_NAMES)}, got {name!r}")
    options.check_split(data, split)
    params = maximizer_params(maximizer, param or [], full)
    start, tag = None, []
    if index is not None or image is not None:
        images = options.load_image(data, split, index, image, seed, device)
        start, tag = images.images[0], [*options.data_tags(data, split), images.tags[0]]
    dataset = None
    if start is None and (data or maximizer.rpartition("/")[2] == "maco"):
        faces = options.load_data(data, split or options.test_split(data), seed)
        dataset = faces.images
    tags = options.model_tags(model)
    networks = dict(zip(tags, (options.load_model(m, device) for m in model), strict=True))
    named = [] if class_ is None else chosen
    parts = [maximizer.rpartition("/")[2], *networks, *(["full"] if full else []), *named, *tag]
    stem = "-".join(["classes", *parts])
    options.claim(context, out, stem)
    found = find_ideals(
        networks, chosen, maximizer=maximizer, start=start, dataset=dataset,
        frames=24 if animate else 0, seed=seed, **params,
    )  # fmt: skip
    files = {"figure": str(save_figure(ideals_figure(found), out / f"{stem}.png"))}
    if animate:
        for one in found.by_network:
            moving = one.found.animate(out / f"{stem}-{one.name}.gif")
            files[f"animation_{one.name}"] = str(moving)
    if as_json:
        facts = {
            "schema_version": 2,
            "maximizer": found.by_network[0].found.maximizer,
            "params": dict(found.by_network[0].found.params),
            "images": found.rows(),
            **files,
        }
        typer.echo(json.dumps(facts, allow_nan=False))
        return
    for row in found.rows():
        own = row["probabilities"][row["model"]][row["class"]]
        others = [
            f"{name} {values[row['class']]:.0%}"
            for name, values in row["probabilities"].items()
            if name != row["model"]
        ]
        text = f"{row['model']}, {row['class']}: logit {row['score']:.1f}, probability {own:.0%}"
        typer.echo(text + (f"; other networks: {', '.join(others)}" if others else ""))
    for kind, path in files.items():
        typer.echo(f"{kind.replace('_', ' ')}: {path}")
