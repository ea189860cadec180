"""``saliency``: where a network looks, drawn as the study draws it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from torch import Tensor

    from explainkit.interfaces import Method
    from explainkit.results.explanation import Explanation


def saliency(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    index: options.Index = None,
    image: options.Image = None,
    model: options.Model = "cnn",
    method: options.MethodName = "explainkit/saliency",
    param: options.Param = None,
    target: options.Target = None,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    report: options.Report = False,
    as_json: options.Json = False,
) -> None:
    """Where the network looks: one row per image, and the explanation saved beside it.

    Each row shows the image with its class and the network's probabilities, the heatmap under
    two named scalings, and the image masked to its most relevant pixels. Several methods,
    separated by commas, share their passes and are drawn side by side.

    `--target` takes a class, or an expression of logits and inner layers.

    The study's example is image 38 of its own file, an angry face: `--index 38` on a CSV of that
    layout. A folder tree has another order. Without `--split` the numbers count all images of
    the file.

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
    from explainkit.render.figure import save_figure, study_figure

    names = [name.strip() for name in method.split(",") if name.strip()]
    methods = _methods(names, param or [])
    images = load_images(data, split, index, image, seed)
    network = options.load_model(model, device)
    start = time.perf_counter()
    explanations = ek.explain(
        network,
        images.images.to(options.find_device(device)),
        _target(target),
        methods,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    chosen = [
        options.model_tag(model),
        *([split] if split else []),
        *images.tags[:8],
        *([file_name(f"as_{target}")] if target else []),
    ]
    titles = [name.rpartition("/")[2] for name in names]
    stem = "-".join([*titles[:4], *chosen])
    drawn = (
        study_figure(explanations[0], labels=images.labels)
        if len(explanations) == 1
        else explanations.plot(labels=images.labels)
    )
    figure = save_figure(drawn, out / f"{stem}.png")
    saved = [
        one.save(out / "-".join([title, *chosen]))
        for title, one in zip(titles, explanations, strict=True)
    ]
    written: Path | None = None
    if report:
        written = explanations.report(
            out / f"{stem}.html",
            labels=images.labels,
            names=[f"image {tag}" for tag in images.tags],
            command=options.command_line(context),
        )
    if as_json:
        rows = []
        for one, folder in zip(explanations, saved, strict=True):
            files = {"figure": figure, "explanation": folder}
            files |= {"report": written} if written else {}
            rows += _rows(one, images, files, seconds / len(explanations))
        typer.echo(json.dumps({"schema_version": 1, "images": rows}))
        return
    for i in range(len(images.images)):
        typer.echo(_sentence(explanations[0], images, i))
    for folder in saved:
        typer.echo(f"explanation: {folder}")
    typer.echo(f"image: {figure}")
    if written:
        typer.echo(f"report: {written}")


def _methods(names: list[str], texts: list[str]) -> "list[Method | str | type[Method]]":
    """Methods by name, each with those of the parameters that it has.

    Raises:
        MethodError: A parameter that none of them has, or a value that it refuses.
    """
    from dataclasses import fields

    from explainkit.catalog import discovery
    from explainkit.catalog.factories import load_method
    from explainkit.cli.parameters import parse_params

    if len(names) < 2:
        return [load_method(name, **parse_params(name, texts)) for name in names]
    registry = discovery.registry("methods")
    own = {name: {f.name for f in fields(registry.get(name)) if f.init} for name in names}  # type: ignore[arg-type]
    for text in texts:
        if not any(text.partition("=")[0] in known for known in own.values()):
            parse_params(names[0], [text])  # says what that one takes
    return [
        load_method(
            name, **parse_params(name, [t for t in texts if t.partition("=")[0] in own[name]])
        )
        for name in names
    ]


def file_name(text: str) -> str:
    """A text as a part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in text)[:40].strip("_")


@dataclass(frozen=True, eq=False)
class Images:
    """What is to be explained.

    Attributes:
        images: Normalized, ``[n, 1, 48, 48]``.
        labels: True class of each, or None where it isn't known.
        indices: Number of each in its split, or None for a photo.
        tags: A short name of each, for file names.
    """

    images: "Tensor"
    labels: list[int | None]
    indices: list[int | None]
    tags: list[str]


STUDY_ROW = (14, 10, 12)
"""Without any choice: an angry, a happy and a surprised face of the drawn ones."""


def load_images(
    data: Path | None,
    split: str | None,
    index: list[int] | None,
    image: list[Path] | None,
    seed: int,
) -> Images:
    """Reads what the options name.

    Raises:
        DatasetError: A file can't be read.
        typer.BadParameter: A number that the data doesn't have, or options that exclude each other.
    """
    if image:
        if index or data or split:
            raise typer.BadParameter("--image stands alone: leave out --data, --split and --index")
        return _photos(image)
    faces = options.load_data(data, split or "all", seed)
    chosen = index or (list(STUDY_ROW) if data is None else [0])
    for number in chosen:
        if not 0 <= number < len(faces):
            raise typer.BadParameter(
                f"--index {number}: {options.describe_data(data)} ({split or 'all'}) has images "
                f"0 to {len(faces) - 1}"
            )
    subset = faces.subset(chosen)
    labels = [None if label < 0 else label for label in subset.labels.tolist()]
    return Images(subset.images, labels, [*chosen], [str(number) for number in chosen])


def _photos(paths: list[Path]) -> Images:
    import torch

    from explainkit_fer_hw3.data import read_image
    from explainkit_fer_hw3.models import MEAN, STD

    pixels = torch.stack([read_image(path) for path in paths])
    unknown = [None] * len(paths)
    tags = ["".join(c if c.isalnum() else "_" for c in path.stem)[:40] for path in paths]
    return Images((pixels / 255 - MEAN) / STD, [*unknown], [*unknown], tags)


def _target(text: str | None) -> str | int | None:
    try:
        return text if text is None else int(text)
    except ValueError:
        return text


def _sentence(explanation: "Explanation", images: Images, i: int) -> str:
    probabilities = explanation.logits[i].softmax(0)
    best = int(probabilities.argmax())
    name = "image " + images.tags[i]
    label = images.labels[i]
    truth = f" ({explanation.class_names[label]})" if label is not None else ""
    return (
        f"{name}{truth}: read as {explanation.class_names[best]}, "
        f"probability {float(probabilities[best]):.2f}; explained: {explanation.target_name(i)}"
    )


def _rows(
    explanation: "Explanation", images: Images, files: dict[str, Path], seconds: float
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
