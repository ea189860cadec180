"""``report``: the whole study in one file."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from explainkit_fer_hw3.data import FaceDataset
    from explainkit_fer_hw3.study.curves import Curve
    from explainkit_fer_hw3.study.report.document import Document
    from explainkit_fer_hw3.study.report.findings import Network

SYNTHETIC = 350
"""Number of synthetic faces on which both networks are also evaluated."""


def report(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    model_cnn: Annotated[
        str, typer.Option(help="cnn, or a .safetensors file with its weights.")
    ] = "cnn",
    model_dnn: Annotated[
        str, typer.Option(help="dnn, or a .safetensors file with its weights.")
    ] = "dnn",
    history: options.Histories = None,
    limit: Annotated[
        int | None,
        typer.Option(min=7, help="Maximum number of images, a random sample. By default: all."),
    ] = None,
    lang: Annotated[str, typer.Option(help="Language: en or zh-TW.")] = "en",
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Answer the study's five questions in one report, with the numbers of this run.

    Writes `report.html` (self-contained, without scripts), `report.md` with its `images/`, and
    `report.json` with every number. Sections: the CNN, a DNN of the same size, the confusion
    matrix, where the CNN looks, and what maximally activates its filters; each beside the
    study's numbers. The default split is public_test if the file has it, else validation.

    For example:

        explainkit run fer_hw3 report

        explainkit run fer_hw3 report --data fer2013.zip --out study

        explainkit run fer_hw3 report --data fer2013.zip --limit 1000 --lang zh-TW
    """
    from explainkit_fer_hw3.study.curves import curves_of
    from explainkit_fer_hw3.study.report.document import compose
    from explainkit_fer_hw3.study.report.findings import find
    from explainkit_fer_hw3.study.report.language import LANGUAGES, language

    if lang not in LANGUAGES:
        raise typer.BadParameter(f"--lang: expected {' or '.join(LANGUAGES)}, got {lang!r}")
    options.check_split(data, split)
    options.claim(context, out, "report")
    start = time.perf_counter()
    names = (model_cnn, model_dnn)
    curves = [curves_of(names[i : i + 1], (history or [])[i : i + 1]) for i in range(2)]
    faces, split = options.labeled(data, split, seed)
    faces = _sample(faces, limit, seed)
    synthetic = faces if data is None else options.load_data(None, "public_test", seed)
    synthetic = synthetic.subset(range(min(SYNTHETIC, len(synthetic))))
    cnn, dnn = (
        _network(name, device, faces, synthetic, own)
        for name, own in zip(names, curves, strict=True)
    )
    found = find(
        cnn, dnn, faces, synthetic,
        data=None if data is None else options.describe_data(data), split=split, seed=seed,
    )  # fmt: skip
    document = compose(found, language(lang), options.command_line(context))
    files = _write(document, out)
    facts = {**found.facts(), "seconds": round(time.perf_counter() - start, 1)}
    text = json.dumps(facts, indent=2, allow_nan=False)
    files["json"] = str(write_file(out / "report.json", text.encode(), RenderError))
    if as_json:
        typer.echo(json.dumps(facts | {"files": files}))
        return
    for section in document.sections:
        if section.text:
            typer.echo("\n".join([section.heading, *section.text, ""]))
    for kind, path in files.items():
        typer.echo(f"{kind}: {path}")


def _sample(faces: "FaceDataset", limit: int | None, seed: int) -> "FaceDataset":
    """At most ``limit`` images, sampled at random, in file order."""
    import torch

    if limit is None or limit >= len(faces):
        return faces
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(seed))
    return faces.subset(order[:limit].sort().values)


def _network(
    name: str, device: str, faces: "FaceDataset", synthetic: "FaceDataset", curves: list["Curve"]
) -> "Network":
    from explainkit_fer_hw3.commands.summary import layers
    from explainkit_fer_hw3.study.report.findings import Network

    module = options.load_model(name, device)
    rows = layers(module)
    predictions = options.predict(module, faces)
    return Network(
        name, options.model_tag(name), module, rows, predictions,
        predictions if synthetic is faces else options.predict(module, synthetic), curves,
    )  # fmt: skip


def _write(document: "Document", out: Path) -> dict[str, str]:
    """Writes the images first, so that no page links to a missing one."""
    from explainkit_fer_hw3.study.report.html import to_html
    from explainkit_fer_hw3.study.report.markdown import IMAGES, to_markdown

    for section in document.sections:
        for image in section.images:
            write_file(out / IMAGES / f"{image.name}.png", image.data, RenderError)
    return {
        kind: str(write_file(out / f"report.{kind}", text.encode(), RenderError))
        for kind, text in (("html", to_html(document)), ("md", to_markdown(document)))
    }
