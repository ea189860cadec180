"""``confusion``: the confusion matrix of a network, and its worst mistakes explained."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from explainkit_fer_hw3.data import FaceDataset
    from explainkit_fer_hw3.study.confusions import Examples


def confusion(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    model: options.Model = "cnn",
    pairs: Annotated[
        int, typer.Option(min=0, help="Number of confusions to list, most frequent first.")
    ] = 5,
    examples: Annotated[
        int, typer.Option(min=0, help="Images per confusion, most confident mistakes first.")
    ] = 3,
    method: options.MethodName = None,
    param: options.Param = None,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Show the confusion matrix and explain the most frequent mistakes.

    Rows of the matrix are true classes; each row sums to one. For each listed confusion, the most
    confident mistakes are explained for both classes; the difference of the two maps shows why
    the network predicted one rather than the other. By default, the gradient is shown, and beside
    it the method named in the model card; the figure says why. The default split is public_test
    if the file has it, else validation.

    For example:

        explainkit run fer_hw3 confusion

        explainkit run fer_hw3 confusion --data fer2013.zip --model dnn --pairs 2 --examples 5

        explainkit run fer_hw3 confusion --method smoothgrad --param base=input_x_gradient
    """
    from explainkit.cli.parameters import parse_params
    from explainkit.render.figure import save_figure
    from explainkit.render.matrix import matrix_figure
    from explainkit_fer_hw3.calibration import calibration
    from explainkit_fer_hw3.scores import most_confused
    from explainkit_fer_hw3.study.confusions import explain_confusion
    from explainkit_fer_hw3.study.maps import confusion_figure
    from explainkit_fer_hw3.tables import write_table

    chosen = method or "explainkit/saliency"
    params = parse_params(chosen, param or [])
    card = calibration(model) if method is None else None
    run = options.evaluation([model], data, split, seed, device)
    faces, (predictions,) = run.faces, run.predictions
    tag = options.model_tag(model)
    title = f"{tag} on {len(faces):,} images ({run.split}): accuracy {predictions.accuracy:.3f}"
    stem = "-".join(["confusion", tag, *options.data_tags(data, run.split)])
    options.claim(context, out, stem)
    figure = save_figure(
        matrix_figure(predictions.counts.numpy(), faces.class_names, title), out / f"{stem}.png"
    )
    counts = zip(faces.class_names, predictions.counts.tolist(), strict=True)
    numbers = write_table(
        out / f"{stem}.csv", ["true", *faces.class_names], ([name, *row] for name, row in counts)
    )
    rows = []
    for mistake in most_confused(predictions.counts, faces.class_names, pairs):
        row = asdict(mistake) | {"share": mistake.share, "words": str(mistake)}
        if examples:
            found = explain_confusion(
                mistake, run.networks[0], faces, predictions,
                most=examples, method=chosen, params=params, seed=seed,
            )  # fmt: skip
            beside = None if card is None else explain_confusion(
                mistake, run.networks[0], faces, predictions,
                most=examples, method=card.method, seed=seed,
            )  # fmt: skip
            drawn = confusion_figure(found, beside, card.reason if card else "")
            row |= _write(found, drawn, faces, out, f"{stem}-{chosen.rpartition('/')[2]}")
        rows.append(row)
    shares = predictions.shares.tolist()
    if as_json:
        facts = {
            "schema_version": 1,
            "model": model,
            "data": options.describe_data(data),
            "split": run.split,
            "n": len(predictions),
            "accuracy": predictions.accuracy,
            "interval": predictions.interval,
            "class_names": list(faces.class_names),
            "counts": predictions.counts.tolist(),
            "shares": shares,
            "confusions": rows,
            "beside": card and card.method,
            "figure": str(figure),
            "csv": str(numbers),
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(title)
    table = Table("true \\ predicted", *faces.class_names, "images", box=None)
    for name, row, support in zip(
        faces.class_names, shares, predictions.counts.sum(1).tolist(), strict=True
    ):
        table.add_row(name, *(f"{v:.2f}" for v in row), str(support))
    options.show(table)
    for row in rows:
        typer.echo(f"{row['words']}" + (f"; figure: {row['figure']}" if examples else ""))
    if card and examples and rows:
        typer.echo(f"{card.reason}.")
    typer.echo(f"figure: {figure}")
    typer.echo(f"csv: {numbers}")


def _write(
    found: "Examples", figure: "Figure", faces: "FaceDataset", out: Path, stem: str
) -> dict[str, Any]:
    """Saves the figure and the explanations of one confusion; its facts for JSON."""
    from explainkit.render.figure import save_figure

    confusion = found.confusion
    name = f"{stem}-{confusion.true}-as-{confusion.predicted}"
    probabilities = found.true.logits.softmax(1)
    images = [
        {
            "index": index,
            "name": faces.names[row],
            "probabilities": dict(zip(faces.class_names, values, strict=True)),
        }
        for index, row, values in zip(
            found.indices.tolist(), found.rows.tolist(), probabilities.tolist(), strict=True
        )
    ]
    both = ((confusion.true, found.true), (confusion.predicted, found.predicted))
    return {
        "examples": images,
        "figure": str(save_figure(figure, out / f"{name}.png")),
        "explanations": {label: str(one.save(out / name / label)) for label, one in both},
    }
