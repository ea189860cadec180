"""``explainkit evaluate``: methods judged and compared over many images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from explainkit.cli import model_options, options

if TYPE_CHECKING:
    from explainkit.results.evaluation import Evaluation, Group


@model_options.with_model_options
def evaluate(
    *,
    context: typer.Context,
    source: options.ImageSet,
    model: model_options.Source,
    method: options.MethodNames,
    metric: Annotated[
        str,
        typer.Option(
            help="Further metrics, separated by commas; see `explainkit list metrics`.",
            show_default=False,
        ),
    ] = "",
    labels: Annotated[
        str | None,
        typer.Option(
            help="The true classes: a CSV file with lines image,class, or `folder` if an image's "
            "folder has the name of its class. By default: those of a registered data set."
        ),
    ] = None,
    param: options.Param = None,
    layer: options.Layer = None,
    target: options.Target = None,
    seed: options.Seed = 0,
    data: options.Data = None,
    split: options.Split = "train",
    limit: options.Sample = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file to write: .html, a report; .json, all numbers; .png, a figure. Repeatable."
        ),
    ] = None,
    device: options.Device = "auto",
    known: model_options.ModelOptions,
    as_json: options.Json = False,
) -> None:
    """Compare methods on many images: do their maps predict what hiding parts of an image does?

    The table has the share of each verdict, and the mean statistic of the first test, `predicts`,
    with its 95 % interval; where true classes are known, also separately for correct and wrong
    predictions. `swapped` is how often the map of an image of another class is supported. Pairs of
    methods are compared by Wilcoxon's test. An image that can't be read, explained or judged is
    counted as such; the exit code is 1 if a method does not explain all images.

    For example:

        explainkit evaluate photos --model timm:resnet50 --method gradcam,lrp,rise --out report.html

        explainkit evaluate val --model timm:resnet50 --method gradcam,lrp --labels folder

        explainkit evaluate fer_hw3/synthetic --model fer_hw3/cnn --method lrp,rise --limit 20
    """
    from explainkit.cli.parameters import parse_for
    from explainkit.evaluation.evaluate import evaluate as run
    from explainkit.evaluation.images import read_labels
    from explainkit.results.evaluated import FAILED

    options.check_files(out)
    methods = options.names_in(method)
    params = parse_for(methods, param or []) | ({} if layer is None else {"layer": layer})
    images = options.find_images(source, data, split)
    known_labels: Any = labels if labels in (None, "folder") else read_labels(Path(labels))
    place = options.find_device(device)
    module = known.load(model).to(place)
    found = run(
        module, images, methods, options.names_in(metric), target=options.find_target(target),
        labels=known_labels, limit=limit, seed=seed, **params,
    )  # fmt: skip
    for path in out or []:
        options.write_result(found, path, options.command_line(context))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), allow_nan=False))
    else:
        _print(found, out or [])
    if any(FAILED in one.verdict for one in found.results):
        raise typer.Exit(1)


def _print(found: "Evaluation", out: list[Path]) -> None:
    """Tables of each group of images and of pairs of methods, and what to know about them."""
    from explainkit.render.evaluation_page import TITLES, p_value

    for group in found.groups:
        options.show(_table(found, group, TITLES[group]))
        typer.echo()
    if found.comparisons:
        table = Table(
            "pair", "images", "mean difference", "p", "adjusted p",
            title="Pairs of methods, by predicts", title_justify="left", box=None,
        )  # fmt: skip
        for one in found.comparisons:
            table.add_row(
                escape(f"{one.first} - {one.second}"), str(one.images),
                _interval(one.difference, one.low, one.high), p_value(one.p),
                p_value(one.adjusted),
            )  # fmt: skip
        options.show(table)
        typer.echo()
    for note in found.notes:
        typer.echo(note)
    for path in out:
        typer.echo(path)


def _table(found: "Evaluation", group: "Group", title: str) -> Table:
    """Verdicts in percent, and means with their intervals."""
    from explainkit.render.verdicts import SHORT

    rows = found.table(group)
    verdicts = list(found.verdicts(group)[0])
    table = Table(
        title=f"{title}: {rows[0]['images']} (verdicts in %)", title_justify="left", box=None
    )
    table.add_column("method")
    for name in (*verdicts, "swapped"):
        table.add_column(SHORT.get(name, name), justify="right")
    table.add_column("predicts")
    for name in found.metrics:
        table.add_column(escape(name))
    for row in rows:
        shares = (
            "-" if row[name] != row[name] else f"{100 * row[name]:.0f}"
            for name in (*verdicts, "swapped")
        )
        means = (
            _interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
            for name in ("predicts", *found.metrics)
        )
        table.add_row(escape(str(row["method"])), *shares, *means)
    return table


def _interval(mean: float, low: float, high: float) -> str:
    """A mean and its interval; a dash without a mean."""
    if mean != mean:
        return "-"
    ends = "" if low != low else f" [{low:.2g}, {high:.2g}]"
    return escape(f"{mean:.2g}{ends}".replace(" ", "\u00a0"))  # on one line
