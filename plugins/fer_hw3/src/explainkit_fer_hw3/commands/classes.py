"""``classes``: what an ideal angry face is to the CNN and to the DNN."""

import json
from pathlib import Path
from typing import Annotated

import typer

from explainkit_fer_hw3.commands import options
from explainkit_fer_hw3.commands.filters import Animate, Maximizer, MaximizerParam
from explainkit_fer_hw3.commands.saliency import load_images

MODELS = ["cnn", "dnn"]


def classes(
    data: options.Data = None,
    split: options.Split = None,
    index: Annotated[
        int | None,
        typer.Option("--index", help="Start from this image of the data instead of noise."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Start from any photo of a face.")
    ] = None,
    model: Annotated[
        list[str],
        typer.Option("--model", help="cnn, dnn, or a file of weights. May be repeated."),
    ] = MODELS,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only this class, by name. May be repeated."),
    ] = None,
    maximizer: Maximizer = "explainkit/fourier",
    param: MaximizerParam = None,
    animate: Animate = False,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """The ideal face of each class to each network: what raises the class's score most.

    Both networks stand side by side, and each also reads the other's images: an image that only
    its own network believes shows more of that network than of the class. With `--index` or
    `--image` a real face is changed instead: what would make it angrier for the network.

    For example:

        explainkit run fer_hw3 classes

        explainkit run fer_hw3 classes --class angry --class happy --param steps=512 --animate

        explainkit run fer_hw3 classes --image me.jpg --json
    """
    from explainkit.cli.parameters import parse_params
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.faces import CLASS_NAMES
    from explainkit_fer_hw3.study.ideals import find_ideals, ideals_figure

    chosen = class_ or list(CLASS_NAMES)
    for name in chosen:
        if name not in CLASS_NAMES:
            raise typer.BadParameter(f"--class: expected {', '.join(CLASS_NAMES)}, got {name!r}")
    params = parse_params(maximizer, param or [], "maximizers")
    place = options.find_device(device)
    start, tag = None, []
    if index is not None or image is not None:
        images = load_images(
            data,
            split,
            None if index is None else [index],
            None if image is None else [image],
            seed,
        )
        start, tag = images.images[0].to(place), [images.tags[0]]
    dataset = None
    if start is None and (data or maximizer.rpartition("/")[2] == "maco"):
        faces = options.load_data(data, split or options.test_split(data), seed)
        dataset = faces.images
    networks = {options.model_tag(name): options.load_model(name, device) for name in model}
    found = find_ideals(
        networks,
        chosen,
        maximizer=maximizer,
        start=start,
        dataset=dataset,
        frames=24 if animate else 0,
        seed=seed,
        **params,
    )
    named = [] if class_ is None else chosen
    stem = "-".join(["classes", maximizer.rpartition("/")[2], *networks, *named, *tag])
    files = {"figure": str(save_figure(ideals_figure(found), out / f"{stem}.png"))}
    if animate:
        for one in found.by_network:
            moving = one.found.animate(out / f"{stem}-{one.name}.gif")
            files[f"animation {one.name}"] = str(moving)
    if as_json:
        facts = {
            "schema_version": 1,
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
        words = f"{row['model']}, {row['class']}: logit {row['score']:.1f}, {own:.0%}"
        typer.echo(words + (f"; to the {', '.join(others)}" if others else ""))
    for kind, path in files.items():
        typer.echo(f"{kind}: {path}")
