"""``compare``: two networks on the same images."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from explainkit.cli.names import joined
from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from torch import nn

    from explainkit_fer_hw3.study.predictions import Predictions


def compare(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Two of: cnn, dnn, .safetensors weights files. By default: cnn and dnn."),
    ] = None,
    index: options.Index = None,
    method: options.MethodName = None,
    param: options.Param = None,
    history: options.Histories = None,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Compare two networks: size, operations, recalls, agreement, attribution maps, curves.

    Both classify the same images. McNemar's exact test tells whether one is more accurate; the
    difference is given with its 95 % interval. The maps explain each network's predicted class on
    the images of `--index`; by default, on the first image of each class that both classify
    correctly. The default methods are the gradient and, beside it, the one named in each
    network's model card; the figure says why. The default split is public_test if the file has it,
    else validation.

    For example:

        explainkit run fer_hw3 compare

        explainkit run fer_hw3 compare --data fer2013.zip --index 38 --method integrated_gradients

        explainkit run fer_hw3 compare --history cnn/history.csv --history dnn/history.csv --json
    """
    import explainkit as ek
    from explainkit.cli.parameters import parse_params
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.calibration import calibration
    from explainkit_fer_hw3.study.agreement import agreement
    from explainkit_fer_hw3.study.charts import curves_figure, recalls_figure
    from explainkit_fer_hw3.study.curves import curves_of
    from explainkit_fer_hw3.study.maps import comparison_figure

    names = model or ["cnn", "dnn"]
    if len(names) != 2:
        raise typer.BadParameter(f"--model: expected two networks to compare, got {len(names)}")
    chosen = method or "explainkit/saliency"
    params = parse_params(chosen, param or [])
    cards = [calibration(name) if method is None else None for name in names]
    tags = options.model_tags(names)
    curves = curves_of(names, history or [])
    run = options.evaluation(names, data, split, seed, device, index or [])
    faces, predictions = run.faces, run.predictions
    rows = index or _first_of_each(predictions)
    stem = "-".join(["compare", *tags, *options.data_tags(data, run.split)])
    options.claim(context, out, stem)
    about = joined([chosen.rpartition("/")[2], *map(str, index or [])])
    met, shown = agreement(*predictions), faces.subset(rows)
    images = shown.images.to(options.find_device(device))
    maps, shown_by = [], []
    for network, tag, card in zip(run.networks, tags, cards, strict=True):
        maps.append(ek.explain(network, images, None, chosen, seed=seed, **params))
        if card:
            maps.append(ek.explain(network, images, None, card.method, seed=seed))
        shown_by += [tag] * (1 + bool(card))
    reasons = [f"{tag}: {card.reason}" for tag, card in zip(tags, cards, strict=True) if card]
    figures = {
        "recalls": save_figure(recalls_figure(predictions, tags), out / f"{stem}-recalls.png"),
        "maps": save_figure(
            comparison_figure(maps, shown_by, shown.labels.tolist(), reasons),
            out / f"{stem}-{about}.png",
        ),
    }
    for what in ("accuracy", "loss"):
        if drawn := [curve for curve in curves if curve.has(what)]:
            path = out / f"{stem}-{what}-curves.png"
            figures[f"{what}_curves"] = save_figure(curves_figure(drawn, what), path)
    found = {
        "schema_version": 1,
        "data": options.describe_data(data),
        "split": run.split,
        "n": len(faces),
        "models": [
            _facts(name, network, predicted)
            for name, network, predicted in zip(names, run.networks, predictions, strict=True)
        ],
        "agreement": asdict(met),
        "curves": [asdict(curve) for curve in curves],
        "images": faces.indices[rows].tolist(),
        "methods": [one.method for one in maps],
        "reasons": reasons,
        "figures": {name: str(path) for name, path in figures.items()},
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    _print(found, tags)


def _facts(name: str, network: "nn.Module", predictions: "Predictions") -> dict[str, Any]:
    """A network's size, operations and scores."""
    from explainkit_fer_hw3.commands.summary import layers

    rows = layers(network)
    work = sum(row["multiply_adds"] for row in rows)
    return {
        "model": name,
        "parameters": sum(row["parameters"] for row in rows),
        "multiply_adds": work,
        "flops": 2 * work,
        **predictions.facts(),
    }


def _first_of_each(predictions: list["Predictions"]) -> list[int]:
    """The first image of each class that all networks classify correctly, else the first."""
    import torch

    correct = torch.stack([one.correct for one in predictions]).all(0)
    labels = predictions[0].labels
    found = []
    for label in sorted(set(labels.tolist())):
        of_class = labels == label
        pool = of_class & correct if bool((of_class & correct).any()) else of_class
        found.append(int(pool.nonzero()[0]))
    return found


def _print(found: dict[str, Any], tags: list[str]) -> None:
    first, second = found["models"]
    table = Table("", *tags, box=None)
    for key in ("parameters", "multiply_adds", "flops"):
        table.add_row(key.replace("_", "-"), f"{first[key]:,}", f"{second[key]:,}")
    table.add_row("accuracy", *(_share(m["accuracy"], m["interval"]) for m in (first, second)))
    for name in first["classes"]:
        cells = (m["classes"][name] for m in (first, second))
        table.add_row(
            f"recall, {name}", *(_share(c["recall"], c["recall_interval"]) for c in cells)
        )
    typer.echo(f"{found['n']:,} images of {found['data']} ({found['split']})")
    options.show(table)
    met = found["agreement"]
    typer.echo(
        f"correct: both {met['both']}, only {tags[0]} {met['only_first']}, only {tags[1]} "
        f"{met['only_second']}, neither {met['neither']}; same prediction: {met['same']:.1%}"
    )
    low, high = met["interval"]
    verdict = (
        "no significant difference"
        if met["p"] >= 0.05
        else f"{tags[met['difference'] < 0]} is more accurate"
    )
    typer.echo(
        f"McNemar's exact test: p = {met['p']:.3g}; difference {met['difference']:+.4f} "
        f"(95 %: {low:+.4f} to {high:+.4f}): {verdict}"
    )
    for reason in found["reasons"]:
        typer.echo(f"{reason}.")
    for name, path in found["figures"].items():
        typer.echo(f"{name.replace('_', ' ')}: {path}")


def _share(value: float | None, interval: tuple[float, float]) -> str:
    low, high = interval
    return "–" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
