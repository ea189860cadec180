"""``saliency``: attribution maps of images, in the layout of the study."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explainkit.cli.names import distinct, file_name, joined
from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation, Explanations
    from explainkit.results.scorecard import Scorecard

Verdicts = Annotated[
    bool | None,
    typer.Option(
        "--scorecard/--no-scorecard",
        help="Test whether each map predicts what hiding parts of its image does. Default: for "
        "cnn and dnn, unless all classes are explained.",
        show_default=False,
    ),
]


def saliency(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    index: options.Index = None,
    image: options.Image = None,
    model: options.Model = "cnn",
    method: options.MethodName = None,
    param: options.Param = None,
    target: options.Target = None,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    report: options.Report = False,
    scorecard: Verdicts = None,
    as_json: options.Json = False,
) -> None:
    """Explain predictions: a figure with one row per image, and the saved explanation.

    Each row shows the image, the predicted probabilities, the attribution map under two
    scalings, and the image masked to its most relevant pixels. Several methods, separated by
    commas, share their passes and one figure.

    A verdict says whether a map predicts what hiding parts of the image does to the score. For cnn
    and dnn, the figure also has the map of the method named in the model card, and says why.

    `--target` takes a class, all classes (`all`), or an expression of logits and inner layers.

    The study's example is image 38 of its own file, an angry face: `--index 38` for a CSV in that
    order. A folder tree has another order. Without `--split`, `--index` counts all images of the
    file.

    For example:

        explainkit run fer_hw3 saliency

        explainkit run fer_hw3 saliency --data train.csv --index 38

        explainkit run fer_hw3 saliency --report

        explainkit run fer_hw3 saliency --image me.jpg --method smoothgrad --param samples=50

        explainkit run fer_hw3 saliency --method integrated_gradients --target sad --json

        explainkit run fer_hw3 saliency --method saliency,gradcam,deeplift

        explainkit run fer_hw3 saliency --target 'logit("fear") - logit("sad")'
    """
    import explainkit as ek
    from explainkit.catalog.synonyms import bare_name
    from explainkit.cli.parameters import parse_for
    from explainkit.render.figure import save_figure, study_figure
    from explainkit_fer_hw3.calibration import calibration
    from explainkit_fer_hw3.faces import CLASS_NAMES

    names = [name.strip() for name in (method or "explainkit/saliency").split(",") if name.strip()]
    params = parse_for(names, param or [])
    images = options.load_images(data, split, index, image, seed, device)
    network = options.load_model(model, device)
    tags = distinct([name.removeprefix("explainkit/").replace("/", "_") for name in names])
    chosen = [options.model_tag(model), *options.data_tags(data, split), joined(images.tags)]
    each: Sequence[str | None] = CLASS_NAMES if target == "all" else [target]
    stem = "-".join([joined(tags), *chosen, *_explained(target)])
    folders = ["-".join([tag, *chosen, *_explained(one)]) for tag in tags for one in each]
    options.claim(context, out, *{stem, *folders})
    start = time.perf_counter()
    wanted: dict[str, Any] = (
        {"targets": "all"} if target == "all" else {"target": options.find_target(target)}
    )
    explanations = ek.explain(network, images.images, method=names, seed=seed, **wanted, **params)
    seconds = time.perf_counter() - start
    known = calibration(model) if method is None and target != "all" else None
    beside = None
    if known is not None:
        beside = ek.explain(network, images.images, method=known.method, seed=seed, **wanted)
    cards = _scorecards(explanations, beside) if _tests(scorecard, model, target) else []
    panels = (
        study_figure(
            explanations[0],
            labels=images.labels,
            beside=beside,
            cards=cards,
            notes=[known.reason] if known else [],
        )
        if len(explanations) == 1
        else explanations.plot(labels=images.labels, cards=cards)
    )
    figure = save_figure(panels, out / f"{stem}.png")
    command = options.command_line(context)
    saved = [
        one.save(out / name, command=command)
        for name, one in zip(folders, explanations, strict=True)
    ]
    written: Path | None = None
    if report:
        written = explanations.report(
            out / f"{stem}.html",
            labels=images.labels,
            names=[f"image {tag}" for tag in images.tags],
            command=command,
            cards=cards[: len(explanations)],
        )
    if as_json:
        rows = []
        for one, folder in zip(explanations, saved, strict=True):
            files = {"figure": figure, "explanation": folder}
            files |= {"report": written} if written else {}
            rows += _rows(one, images, files, seconds / len(explanations))
        _add_verdicts(rows, cards)
        typer.echo(json.dumps({"schema_version": 1, "images": rows}))
        return
    for i in range(len(images.images)):
        typer.echo(_sentence(explanations[0], images, i, "every class" if target == "all" else ""))
        for card in cards:
            typer.echo(f"  {bare_name(card.method or '')}: {card.verdict[i]}. {card.sentence(i)}")
    if known:
        typer.echo(f"{known.reason}.")
    if cards:
        typer.echo(" ".join(cards[0].notes))
    for folder in saved:
        typer.echo(f"explanation: {folder}")
    typer.echo(f"figure: {figure}")
    if written:
        typer.echo(f"report: {written}")


def _tests(wanted: bool | None, model: str, target: str | None) -> bool:
    """Whether maps get verdicts: as asked for, or else where the network's power is known."""
    return wanted if wanted is not None else model in ("cnn", "dnn") and target != "all"


def _scorecards(explanations: "Explanations", beside: "Explanation | None") -> "list[Scorecard]":
    """The scorecard of each explanation, and that of the calibrated method."""
    cards = explanations.scorecards()
    # it was chosen beforehand, so it is not one of several that were tried
    return cards if beside is None else [*cards, beside.scorecard()]


def _add_verdicts(rows: list[dict[str, Any]], cards: "list[Scorecard]") -> None:
    """Adds its scorecard to each row, and that of the calibrated method to the rows of an image."""
    if not cards:
        return
    verdicts = [{"method": c.method} | c.facts(i) for c in cards for i in range(len(c))]
    for row, verdict in zip(rows, verdicts, strict=False):
        row["scorecard"] = verdict
    for i, verdict in enumerate(verdicts[len(rows) :]):
        rows[i]["beside"] = verdict


def _explained(target: str | None) -> list[str]:
    """The target's part of a file name."""
    return [f"as_{file_name(target)}"] if target else []


def _sentence(
    explanation: "Explanation", images: options.Images, i: int, explained: str = ""
) -> str:
    probabilities = explanation.logits[i].softmax(0)
    best = int(probabilities.argmax())
    label, names = images.labels[i], explanation.class_names
    truth = f" ({names[label]})" if label is not None else ""
    verdict = "" if label is None else " (correct)" if label == best else " (wrong)"
    return (
        f"image {images.tags[i]}{truth}: predicted {names[best]}{verdict}, "
        f"probability {float(probabilities[best]):.2f}; explained: "
        f"{explained or explanation.target_name(i)}"
    )


def _rows(
    explanation: "Explanation", images: options.Images, files: dict[str, Path], seconds: float
) -> list[dict[str, Any]]:
    rows = []
    for i, logits in enumerate(explanation.logits):
        probabilities = logits.softmax(0).tolist()
        label = images.labels[i]
        rows.append(
            {
                "index": images.indices[i],
                "label": None if label is None else explanation.class_names[label],
                "predicted": explanation.class_names[int(logits.argmax())],
                "target": explanation.target_name(i),
                "probabilities": dict(zip(explanation.class_names, probabilities, strict=True)),
                "method": explanation.method,
                "params": explanation.params,
                **{kind: str(path) for kind, path in files.items()},
                "seconds": round(seconds / len(explanation), 4),
            }
        )
    return rows
