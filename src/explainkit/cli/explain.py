"""``explainkit explain``: heatmaps on photos, by any method, for any model."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from explainkit.cli import model_options, options
from explainkit.cli.names import distinct, file_name
from explainkit.cli.printing import complain, short_warnings
from explainkit.interruption import interruptible
from explainkit.progress import progress

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanations


@model_options.with_model_options
def explain(
    *,
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Image files, folders of them, or patterns such as '*.jpg'."
        ),
    ],
    model: model_options.Source,
    known: model_options.ModelOptions,
    method: options.MethodNames = "gradcam",
    param: options.Param = None,
    layer: options.Layer = None,
    target: options.Target = None,
    top: Annotated[
        int, typer.Option(min=1, help="Explain this many of the most probable classes.")
    ] = 1,
    at: Annotated[
        str | None,
        typer.Option(
            help="Explain the output of this layer, or of several separated by commas, instead of "
            "the image. `LAYER:input` is a layer's input, `LAYER:output.1` the second of several "
            "outputs."
        ),
    ] = None,
    out: options.Out = options.OUT,
    figure: Annotated[
        bool, typer.Option(help="Whether to draw a figure with probabilities and scales.")
    ] = True,
    report: options.Report = False,
    scorecard: Annotated[
        bool | None,
        typer.Option(
            "--scorecard/--no-scorecard",
            help="Test whether each map predicts what hiding parts of its image does. Default: for "
            "networks whose specification states the power of these tests.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    precision: options.Precision = None,
    seed: options.Seed = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images to run at once. By default: as many as fit in memory."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Explain a model's predictions on photos: a heatmap over each, at the photo's own resolution.

    Writes for every photo `NAME_METHOD.png`, the photo in gray with the method's map over it, and
    `NAME.png`, a figure with the probabilities and the scale of every map. What the model does not
    see is hatched. A file that can't be read is reported, and the others are explained.

    With `--scorecard`, each map gets a verdict. Ten photos or more also show whether the network
    can be tested at all. P-values are adjusted for the number of methods.

    For example:

        explainkit explain photo.jpg --model timm:resnet50

        explainkit explain photos --model torchvision:vit_b_16 --method gradcam,lrp --top 3

        explainkit explain '*.png' --model nets.py:make --weights net.safetensors --size 224

        explainkit explain scan.png --model nets.py:make --classes names.txt --target tumor --report

        explainkit explain photos --model timm:resnet50 --method gradcam,deeplift --scorecard
    """
    import torch

    from explainkit.cli.explaining import Question, explain_photos
    from explainkit.cli.judging import Judged, judged, wants_scorecards
    from explainkit.cli.parameters import parse_for
    from explainkit.cli.photos import find_photos
    from explainkit.cli.written import line, write
    from explainkit.errors import InputError

    if top > 1 and target is not None:
        raise typer.BadParameter("--top explains the most probable classes: leave out --target")
    methods = options.names_in(method)
    params = parse_for(methods, param or []) | ({} if layer is None else {"layer": layer})
    wanted = options.find_target(target)
    layers = [] if at is None else list(dict.fromkeys(options.names_in(at))) or [at]
    question = Question(methods, params, wanted, top, layers, seed, batch_size, precision)
    about = f"_as_{file_name(target)}" if target else ""
    places = [f"_at_{file_name(one)}" for one in layers] or [""]
    tags = distinct([name.removeprefix("explainkit/").replace("/", "_") for name in methods])
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    endings = [
        about + (f"_at_{file_name(at)}" if at else ""),
        *(f"_{tag}{about}{place}{rank}" for tag in tags for rank in ranks for place in places),
    ]
    photos = find_photos(images, out, endings)
    options.claim(context, out, "explain")  # the figure of a photo has one name for all methods
    place = options.find_device(device)
    module = known.load(model).to(place, None if dtype is None else getattr(torch, dtype))
    tests = wants_scorecards(scorecard, module, at)
    command = options.command_line(context) if report else None
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    said: set[str] = set()
    notes: dict[str, None] = {}
    complete = False
    try:
        with (
            short_warnings(),
            interruptible() as stop_if_interrupted,
            progress("images", len(photos)) as advance,
        ):
            explained = explain_photos(photos, module, question)
            results: Iterator[Judged] = (
                judged(explained, module, len(photos), seed)
                if tests
                else ((photo, found, []) for photo, found in explained)
            )
            for photo, found, cards in results:
                stop_if_interrupted()
                if isinstance(found, InputError):
                    failed.append({"image": str(photo.path), "error": str(found)})
                    complain(f"[red]error:[/red] {escape(str(found))}")
                else:
                    _warn(found, said)
                    written = write(
                        photo, found, endings, out, figure=figure, command=command, cards=cards
                    )
                    notes |= dict.fromkeys(note for card in cards for note in card.notes)
                    rows += written
                    for row in [] if as_json else written:
                        typer.echo(line(row))
                advance(1, "")
        complete = True
    finally:
        if as_json:
            facts = {"schema_version": 1, "model": model, "complete": complete}
            facts |= {"notes": list(notes)} if tests else {}
            typer.echo(json.dumps({**facts, "images": rows, "failed": failed}, allow_nan=False))
    if notes and not as_json:
        typer.echo(" ".join(notes))
    if failed:
        complain(f"{len(failed)} of {len(photos)} images could not be read")
        raise typer.Exit(1)


def _warn(found: "Explanations", said: set[str]) -> None:
    """Prints the warnings of a photo that were not said before."""
    for one in found:
        for text in one.diagnostics.get("warnings", ()):
            full = f"warning: {one.method.rpartition('/')[2]}: {text}"
            if full not in said:
                said.add(full)
                complain(escape(full))
