"""``evaluate``: the accuracy of a network."""

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
    """Measure accuracy, and recall and precision per class, with 95 % Wilson intervals.

    The default split is public_test if the file has it, else validation.

    For example:

        explainkit run fer_hw3 evaluate

        explainkit run fer_hw3 evaluate --data fer2013.csv --split private_test --json
    """
    from explainkit_fer_hw3.scores import class_scores

    start = time.perf_counter()
    run = options.evaluation([model], data, split, seed, device)
    (predictions,) = run.predictions
    classes = class_scores(predictions.counts, run.faces.class_names)
    found = {
        "schema_version": 1,
        "model": model,
        "data": options.describe_data(data),
        "split": run.split,
        "n": len(predictions),
        "accuracy": predictions.accuracy,
        "interval": predictions.interval,
        "classes": classes,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    low, high = predictions.interval
    typer.echo(
        f"{model} on {len(predictions):,} images of {options.describe_data(data)} ({run.split}): "
        f"accuracy {predictions.accuracy:.4f} (95 %: {low:.4f} to {high:.4f})"
    )
    table = Table("class", "images", "recall", "95 %", "precision", "95 %", box=None)
    for name, scores in classes.items():
        cells = []
        for key in ("recall", "precision"):
            cells.append("–" if scores[key] is None else f"{scores[key]:.3f}")
            cells.append("{:.3f} to {:.3f}".format(*scores[f"{key}_interval"]))
        table.add_row(name, str(scores["support"]), *cells)
    options.show(table)
