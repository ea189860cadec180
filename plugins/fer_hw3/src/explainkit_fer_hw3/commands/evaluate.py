"""``evaluate`` and ``confusion``: how often a network is right, and what it mistakes for what."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from torch import Tensor

    from explainkit_fer_hw3.data import FaceDataset


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
    from explainkit_fer_hw3.scores import class_scores, wilson

    start = time.perf_counter()
    faces, split, counts = _counts(data, split, model, seed, device)
    right, n = int(counts.trace()), int(counts.sum())
    found = {
        "schema_version": 1,
        "model": model,
        "data": options.describe_data(data),
        "split": split,
        "n": n,
        "accuracy": right / n,
        "interval": wilson(right, n),
        "classes": class_scores(counts, faces.class_names),
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    low, high = wilson(right, n)
    typer.echo(
        f"{model} on {n:,} pictures of {options.describe_data(data)} ({split}): "
        f"accuracy {right / n:.4f} (95 %: {low:.4f} to {high:.4f})"
    )
    table = Table("class", "pictures", "recall", "95 %", "precision", "95 %", box=None)
    for name, scores in class_scores(counts, faces.class_names).items():
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


def confusion(
    data: options.Data = None,
    split: options.Split = None,
    model: options.Model = "cnn",
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """What is mistaken for what: the matrix drawn and as numbers, the worst mistakes in words.

    Rows are true classes and add up to one. Without `--split`: public_test where the file has it,
    else validation.

    For example:

        explainkit run fer_hw3 confusion

        explainkit run fer_hw3 confusion --data fer2013.zip --model dnn
    """
    from explainkit.render.figure import matrix_figure, save_figure
    from explainkit_fer_hw3.scores import most_confused

    faces, split, counts = _counts(data, split, model, seed, device)
    accuracy = float(counts.trace() / counts.sum())
    name = options.model_tag(model)
    title = f"{name} on {int(counts.sum()):,} pictures ({split}): accuracy {accuracy:.3f}"
    figure = save_figure(
        matrix_figure(counts.numpy(), faces.class_names, title),
        out / f"confusion-{name}-{split}.png",
    )
    mistakes = most_confused(counts, faces.class_names)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    if as_json:
        found = {
            "schema_version": 1,
            "model": model,
            "data": options.describe_data(data),
            "split": split,
            "n": int(counts.sum()),
            "accuracy": accuracy,
            "class_names": list(faces.class_names),
            "counts": counts.tolist(),
            "shares": shares.tolist(),
            "confusions": [
                {"true": m.true, "predicted": m.predicted, "count": m.count, "of": m.of,
                 "share": m.share, "words": str(m)}
                for m in mistakes
            ],
            "figure": str(figure),
        }  # fmt: skip
        typer.echo(json.dumps(found))
        return
    typer.echo(title)
    table = Table("true \\ read as", *faces.class_names, "pictures", box=None)
    for i, row in enumerate(shares.tolist()):
        table.add_row(faces.class_names[i], *(f"{v:.2f}" for v in row), str(int(counts[i].sum())))
    options.show(table)
    for mistake in mistakes:
        typer.echo(f"{mistake}.")
    typer.echo(f"drawn: {figure}")


def _counts(
    data: Path | None, split: str | None, model: str, seed: int, device: str
) -> tuple["FaceDataset", str, "Tensor"]:
    """The labelled pictures, their split, and the counts ``[true, predicted]``.

    Raises:
        DatasetError: The data can't be read, or its pictures have no labels.
    """
    import torch

    from explainkit.errors import DatasetError
    from explainkit_fer_hw3.scores import confusion_matrix

    # the layout in which convolutions run fastest; one channel can't carry it, the weights can
    module = options.load_model(model, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    split = split or options.test_split(data)
    if split in ({"train"} if data is None else {"train", "validation", "all"}):
        options.notes.print(
            f"note: {split} may hold pictures that the weights were trained on (the shipped ones "
            "were, on FER2013's training pictures and drawn ones): this is no test"
        )
    faces = options.load_data(data, split, seed)
    known = (faces.labels >= 0).nonzero().flatten()
    if not len(known):
        raise DatasetError(f"expected pictures with labels, {options.describe_data(data)} has none")
    faces = faces.subset(known)
    predicted = options.predict(module, faces).argmax(1)
    return faces, split, confusion_matrix(faces.labels, predicted, len(faces.class_names))
