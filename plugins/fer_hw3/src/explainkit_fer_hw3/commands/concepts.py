"""``concepts``: what a layer has learned about faces, and the parts of the face it detects."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from explainkit.cli.concepts import Number, Steps, maximize, print_concepts
from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from explainkit.results.concepts import Concepts
    from explainkit_fer_hw3.study.detectors import Detectors

TOP = 3
"""Concepts that are listed for each expression."""


def concepts(
    context: typer.Context,
    data: options.Data = None,
    split: options.Split = None,
    model: options.Model = "cnn",
    layer: Annotated[
        str | None,
        typer.Option(
            help="Dotted path of a layer that outputs feature maps; see `summary`. By default: the "
            "last convolution's ReLU.",
            show_default=False,
        ),
    ] = None,
    n: Number = 10,
    limit: Annotated[
        int, typer.Option(min=2, help="Use only this many faces, evenly spread over all.")
    ] = 512,
    report: Annotated[
        bool, typer.Option("--report", help="Also write an HTML report with a card per concept.")
    ] = False,
    steps: Steps = 64,
    out: options.Out = options.OUT,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Find the concepts of a layer: what it has learned about faces, for each expression.

    The layer's outputs on many faces are factorized into concepts. A concept's importance for an
    expression is the drop of that score when the concept is removed from the layer. The part of the
    face that a concept detects is measured on synthetic faces, whose parts are known to the pixel:
    the part is found significantly more often where the concept is active than elsewhere, and than
    in another face at the same positions. In deep layers, whose positions see most of the face,
    this says little, and concepts are not named by parts. The default split is public_test if the
    data has it, else validation.

    For example:

        explainkit run fer_hw3 concepts

        explainkit run fer_hw3 concepts --data fer2013.zip --n 6 --report

        explainkit run fer_hw3 concepts --layer 7 --limit 210 --json
    """
    import explainkit as ek
    from explainkit.cli.printing import short_warnings
    from explainkit.render.figure import save_figure
    from explainkit_fer_hw3.data import load_synthetic
    from explainkit_fer_hw3.data.source import SIDE
    from explainkit_fer_hw3.study.charts import detectors_figure
    from explainkit_fer_hw3.study.detectors import detect_parts
    from explainkit_fer_hw3.study.filters import DISSECTED

    options.check_split(data, split)
    chosen = [] if layer is None else [layer]
    tags = [options.model_tag(model), *chosen, *options.data_tags(data, split)]
    stem = "-".join(["concepts", *tags])
    options.claim(context, out, stem)
    network = options.load_model(model, device)
    faces = options.load_data(data, split or options.test_split(data), seed)
    with short_warnings():
        found = ek.concepts(network, faces, layer, n, seed=seed, limit=limit)
        maximized = maximize(network, found, steps, seed) if report else None
    synthetic = load_synthetic(None, "validation", seed=seed, count=DISSECTED)
    parts = detect_parts(network, found.layer, synthetic, directions=found.directions, seed=seed)
    local = parts.sees <= SIDE // 2
    names = [_named(parts, k) if local else "" for k in range(len(found))]
    title = f"parts of the face in {len(found)} concepts of layer {found.layer} of {model}"
    numbered = [f"concept {k}" for k in range(len(found))]
    files = {
        "figure": save_figure(found.plot(names, most=None), out / f"{stem}.png"),
        "parts": save_figure(detectors_figure(parts, numbered, title), out / f"{stem}-parts.png"),
    }
    if report:
        files["report"] = found.report(
            out / f"{stem}.html", names=names, maximized=maximized,
            command=options.command_line(context),
        )  # fmt: skip
    if as_json:
        facts = found.to_dict()
        for k, one in enumerate(facts["concepts"]):
            one |= {"part": parts.part(k), "parts": parts.facts(k)}
        expressions = {name: found.ranked(name) for name in found.class_names}
        paths = {kind: str(path) for kind, path in files.items()}
        facts |= {"expressions": expressions, "sees": parts.sees, **paths}
        typer.echo(json.dumps(facts, allow_nan=False))
        return
    print_concepts(found, part=[parts.part(k) or "–" for k in range(len(found))])
    if not local:
        typer.echo(
            f"Each position of the layer sees up to {parts.sees} of {SIDE} rows: a concept may "
            "respond to another part than the one where it is active."
        )
    typer.echo()
    options.show(_expressions(found, parts))
    for kind, path in files.items():
        typer.echo(f"{kind}: {path}")


def _named(parts: "Detectors", k: int) -> str:
    """The part that a concept detects, and how much more often than by chance; or ""."""
    from explainkit_fer_hw3.faces import PARTS

    part = parts.part(k)
    return "" if part is None else f"{part} × {float(parts.enrichment[k, PARTS.index(part)]):.1f}"


def _expressions(found: "Concepts", parts: "Detectors") -> Table:
    """For each expression the concepts whose loss lowers its score most."""
    table = Table("expression", title="Most important concepts", title_justify="left", box=None)
    for place in range(min(TOP, len(found))):
        table.add_column(f"{place + 1}.")
    for c, name in enumerate(found.class_names):
        table.add_row(name, *(_cell(found, parts, k, c) for k in found.ranked(name)[:TOP]))
    return table


def _cell(found: "Concepts", parts: "Detectors", k: int, c: int) -> str:
    value, error = float(found.importance[k, c]), float(found.standard_error[k, c])
    part: Any = parts.part(k)
    return f"{k}{f' {part}' if part else ''}: {value:+.2g} ± {error:.1g}"
