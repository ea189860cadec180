"""``explainkit batch``: whole data sets, resumable."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from explainkit.cli import model_options, options
from explainkit.cli.printing import complain
from explainkit.cli.process import INTERRUPTED
from explainkit.progress import Advance, progress

if TYPE_CHECKING:
    from explainkit.jobs.planned import Forecast, PlannedJob
    from explainkit.jobs.sources import Source
    from explainkit.jobs.worker import Report


@model_options.with_model_options
def batch(
    *,
    context: typer.Context,
    source: options.ImageSet,
    model: model_options.Source,
    out: Annotated[Path, typer.Option(help="The folder of the store.", callback=options.writable)],
    method: options.MethodNames = "gradcam",
    param: options.Param = None,
    layer: options.Layer = None,
    target: options.Target = None,
    seed: options.Seed = 0,
    data: options.Data = None,
    split: options.Split = "train",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many images, the first when sorted.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Number of processes, each with the model and its own threads."),
    ] = 1,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="Where workers run: on this machine, or on a Ray cluster that shares the store's "
            "folder."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A running cluster: auto, or HOST:PORT. By default: one started on this machine "
            "for this command."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="i/n: compute part i of n, with i from 0 to n - 1. By default: the part that "
            "torchrun or SLURM set in the environment, or everything."
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Images per shard, the most an interruption can lose.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images to run at once. By default: as many as fit in memory."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of a worker. By default: all, divided by the workers."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="How maps are stored; float16 scales each by its largest value."),
    ] = "float32",
    map_size: Annotated[
        str | None,
        typer.Option(
            help="Maximum rows and columns of a stored map, 56 or 56x28; larger maps are reduced "
            "to means over areas."
        ),
    ] = None,
    scorecard: Annotated[
        bool,
        typer.Option(
            "--scorecard",
            help="Also test whether each map predicts what hiding does, and store the verdict.",
        ),
    ] = False,
    wrt: Annotated[
        str | None,
        typer.Option(
            help="Of the inputs of a model with several, those to explain, separated by commas. By "
            "default: all images."
        ),
    ] = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
    known: model_options.ModelOptions,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute shards with failed images again.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store written by another command.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print images, shards, bytes and time, and compute one batch only."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Explain all images of a data set, in shards that survive interruptions.

    Repeat the command to resume where it ended; a different command on the same store is refused.
    An image that can't be read or explained gets a status and a reason, and does not stop the job;
    the exit code is then 1. Ctrl-C finishes the current shards; a second Ctrl-C stops at once.

    For example:

        explainkit batch photos --model timm:resnet50 --method gradcam,lrp --out maps --workers 4

        explainkit batch imagenet.txt --model torchvision:resnet50 --out maps --shard 3/64

        explainkit batch fer2013 --data fer2013.csv --model cnn --method saliency --out maps
    """
    from explainkit.cli.parameters import parse_for
    from explainkit.jobs.batch import planned
    from explainkit.jobs.pool import Stop
    from explainkit.jobs.shares import share_of

    methods = options.names_in(method)
    params = parse_for(methods, param or []) | ({} if layer is None else {"layer": layer})
    share = share_of(shard)
    small = None if map_size is None else model_options.read_size("--map-size", map_size)
    command = options.command_line(context)
    with (
        planned(
            _source(source, data, split, out), model, methods, out,
            target=options.find_target(target), seed=seed, limit=limit, workers=workers,
            dtype=dtype, map_size=small, scorecard=scorecard, batch_size=batch_size,
            wrt=None if wrt is None else options.names_in(wrt),
            device=str(options.find_device(device)), precision=precision, shard_size=shard_size,
            threads=threads, model_options=known.arguments(),
            command=options.command_line(context, "shard"), **params,
        ) as plan,
        Stop(complain) as stop,
    ):  # fmt: skip
        if dry_run:
            _forecast(plan.forecast(), as_json)
            return
        total = sum(map(plan.job.plan.size_of, share.shards(plan.job.plan.shards)))
        try:
            with progress("images", total) as advance:
                undone = plan.run(
                    share, workers, stop, _Shown(advance), engine=engine, ray_address=ray_address,
                    retry_failed=retry_failed, overwrite=overwrite,
                )  # fmt: skip
        except KeyboardInterrupt:
            stop.times = 2
            undone = {}
        _summary(plan, undone, command, stopped=stop.requested, as_json=as_json)


class _Shown:
    """Shows progress: images per second of this run, and failures so far."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.begin = time.monotonic()
        self.computed = self.failed = 0

    def __call__(self, report: "Report", before: bool) -> None:
        count = report.ok + report.refused + report.failed
        self.failed += report.failed + report.refused
        self.computed += 0 if before else count
        rate = self.computed / max(time.monotonic() - self.begin, 1e-9)
        note = f"{rate:.1f} images/s" + (f", {self.failed} failed" if self.failed else "")
        self.advance(count, note)


def _source(text: str, data: Path | None, split: str, out: Path) -> "Source":
    """The images that the argument names."""
    from explainkit.jobs.opening import source_of
    from explainkit.jobs.sources import Registered

    if options.is_registered(text, data):
        return Registered(text, data, split)
    return source_of(text, without=out)


def _forecast(found: "Forecast", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(vars(found)))
        return
    typer.echo(f"{found.items:,} images in {found.shards:,} shards")
    if found.bytes is None or found.seconds is None:
        typer.echo("none of the first images can be read: no estimate")
        return
    typer.echo(f"about {found.bytes / 1e6:,.1f} MB, and {found.seconds:,.0f} s with one worker")


def _summary(
    plan: "PlannedJob", undone: dict[int, str], command: str, *, stopped: bool, as_json: bool
) -> None:
    """Says what became of the images and how to resume, and ends the command accordingly."""
    from explainkit.cli.stores import facts_of, say
    from explainkit.jobs.plan import PLAN
    from explainkit.jobs.store import Store

    complete = False
    failed = 0
    if (plan.job.store / PLAN).exists():
        store = Store(plan.job.store)
        facts = facts_of(store, check=False)
        complete, failed = facts["complete"], facts["failed"]
        if as_json:
            reasons = {str(number): why for number, why in undone.items()}
            typer.echo(json.dumps(facts | {"command": command, "undone": reasons}))
        else:
            say(facts)
    for number, why in undone.items():
        complain(f"[red]error:[/red] shard {number}: {escape(why)}")
    if stopped or (undone and not complete):
        complain(f"resume with: {escape(command)}")
    if stopped:
        sys.exit(INTERRUPTED)
    if undone or failed:
        raise typer.Exit(1)
