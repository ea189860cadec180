"""``explainkit status``, ``report`` and ``export``: what a store has."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from explainkit.cli import options
from explainkit.cli.printing import complain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explainkit.jobs.store import Store

SHOWN = 5
"""Failures that are printed one by one."""

COUNTS = ("items", "ok", "refused", "failed", "left", "shards", "done")
"""Numbers of a job's progress."""

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of a store.")]


def status(
    path: StorePath,
    check: Annotated[
        bool, typer.Option("--check", help="Also hash all tensors, to find damaged shards.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show the progress of a job over a data set, and which images failed and why.

    Works while the job runs. Damaged shards are computed again by the next run.
    """
    from explainkit.jobs.store import Store

    store = Store(path)
    facts = facts_of(store, check=check)
    if as_json:
        typer.echo(json.dumps(facts | {"command": store.plan.command}))
        return
    say(facts)
    if not facts["complete"] and store.plan.command:
        typer.echo(f"resume with: {store.plan.command}")


def report_index(
    path: StorePath,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("index.html"),
    limit: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of images with maps, and of images without."),
    ] = 500,
    status: Annotated[
        Literal["ok", "refused", "failed"] | None,
        typer.Option(help="Only images with this status."),
    ] = None,
    predicted: Annotated[
        str | None, typer.Option(help="Only images with this predicted class, by name or number.")
    ] = None,
    verdict: Annotated[
        str | None,
        typer.Option(help="Only images with a map of this verdict, such as `supported`."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write an index of many images as one HTML file: thumbnails of their maps, with filters.

    If there are more images than the limit, evenly spaced ones are shown, and the page says so.
    Works while the job runs.

    For example:

        explainkit report maps --out index.html --verdict "not supported"
    """
    from explainkit.jobs.index import report as write
    from explainkit.jobs.store import Store

    store = Store(path)
    label = None if predicted is None else _label(predicted, store.class_names)
    chosen = store.where(status=status, predicted=label, verdict=verdict)
    file = write(chosen, out, limit=limit)
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, "report": str(file), "images": len(chosen)}))
        return
    cut = f"; at most {limit:,} with maps are shown" if len(chosen) > limit else ""
    typer.echo(f"{file}: {len(chosen):,} images{cut}")


def _label(text: str, names: "Sequence[str]") -> int:
    """The class that ``--predicted`` names."""
    if text in names:
        return list(names).index(text)
    if not text.isdigit():
        raise typer.BadParameter(f"--predicted: expected a class by name or number, got {text!r}")
    return int(text)


def export(
    path: StorePath,
    to: Annotated[
        Literal["npz", "parquet", "zarr", "hf", "png"],
        typer.Option(
            help="npz: NumPy arrays, one file per shard; zarr: the same arrays for all images "
            "(needs zarr); parquet: a table (needs pyarrow); hf: a data set for Hugging Face "
            "datasets (needs pyarrow); png: each map over its image."
        ),
    ],
    out: options.Out,
    as_json: options.Json = False,
) -> None:
    """Write a store's maps in another format, one shard at a time.

    The output folder must be new or empty, and appears only when the export is complete. Images
    without maps are listed in `failures.json`.
    """
    from explainkit.jobs.export import export as write
    from explainkit.jobs.store import Store

    found = write(Store(path), to, out)
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, "files": [str(one) for one in found]}))
        return
    typer.echo(f"{out}: {len(found):,} files")


def facts_of(store: "Store", *, check: bool) -> dict[str, Any]:
    """The state of a store as JSON, with the reason of each item that has no map."""
    progress = store.progress(check=check)
    return {
        "schema_version": 1,
        "store": str(store.path),
        "model": store.plan.model["name"],
        "methods": list(store.methods),
        **{name: getattr(progress, name) for name in COUNTS},
        "complete": progress.done == progress.shards,
        "damaged": list(progress.damaged),
        "verdicts": {name: dict(counts) for name, counts in progress.verdicts.items()},
        "low_power": list(progress.low_power),
        "failures": [
            {"id": item.id, "status": item.status, "reason": item.reason}
            for item in progress.failures
        ],
    }


def say(facts: dict[str, Any]) -> None:
    """Prints what `facts_of` found."""
    counts = [f"{facts[name]:,} {name}" for name in ("ok", "refused", "failed") if facts[name]]
    typer.echo(
        f"{facts['store']}: {facts['items']:,} images: {', '.join(counts) or 'none explained'}; "
        f"{facts['done']:,} of {facts['shards']:,} shards"
    )
    for method, counts in facts["verdicts"].items():
        listed = (f"{count:,} {verdict}" for verdict, count in sorted(counts.items()))
        weak = "; low power on this network" if method in facts["low_power"] else ""
        typer.echo(f"{method}: {', '.join(listed) or 'no verdicts'}{weak}")
    failures = facts["failures"]
    for one in failures[:SHOWN]:
        complain(f"{one['status']}: {escape(one['id'])}: {escape(one['reason'])}")
    if len(failures) > SHOWN:
        complain(f"{len(failures) - SHOWN} more: explainkit status {facts['store']} --json")
    for text in facts["damaged"]:
        complain(f"damaged: {escape(text)}")
