"""``evaluate``: how often a network is right."""

import json
import time

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options


def evaluate(
    data: options.Data = None,
    split: options.Split = None,
    model: options.Model = "cnn",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """How often the network is right: accuracy, and recall and precision of each class.

    Every share comes with its 95 % interval (Wilson, 1927). Without `--split`: public_test where
    the file has it, else validation.

    For example:

        explainkit run fer_hw3 evaluate

        explainkit run fer_hw3 evaluate --data fer2013.csv --split private_test --json
    """
    from explainkit_fer_hw3.scores import class_scores

    start = time.perf_counter()
    network = options.load_model(model, device)
    faces, split = options.labeled(data, split, seed)
    reading = options.read(network, faces)
    classes = class_scores(reading.counts, faces.class_names)
    found = {
        "schema_version": 1,
        "model": model,
        "data": options.describe_data(data),
        "split": split,
        "n": len(reading),
        "accuracy": reading.accuracy,
        "interval": reading.interval,
        "classes": classes,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    low, high = reading.interval
    typer.echo(
        f"{model} on {len(reading):,} images of {options.describe_data(data)} ({split}): "
        f"accuracy {reading.accuracy:.4f} (95 %: {low:.4f} to {high:.4f})"
    )
    table = Table("class", "images", "recall", "95 %", "precision", "95 %", box=None)
    for name, scores in classes.items():
        cells = [
            text
            for key in ("recall", "precision")
            for text in (_share(scores[key]), _interval(scores[f"{key}_interval"]))
        ]
        table.add_row(name, str(scores["support"]), *cells)
    options.show(table)


def _share(value: object) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: object) -> str:
    return "{:.3f} to {:.3f}".format(*value)  # type: ignore[misc]
