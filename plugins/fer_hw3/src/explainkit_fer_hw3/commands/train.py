"""``train``: trains one of the study's networks; interrupted runs can be resumed."""

import datetime as dt
import json
import platform
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from explainkit_fer_hw3.training.run import Training

_INTERRUPTED = 130

Row = Mapping[str, float]


def train(
    model: Annotated[Literal["cnn", "dnn"], typer.Option(help="cnn or dnn.")] = "cnn",
    data: options.Data = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of epochs. By default: 60; 200 for the study recipe; 5 for finish. With "
            "`--resume`: the previous number, or a larger one.",
        ),
    ] = None,
    recipe: Annotated[
        Literal["default", "study", "finish"],
        typer.Option(
            help="default: the recommended recipe. study: plain Adam, as in the study. finish: "
            "weaker augmentation for the end of a CNN's training; needs `--start`."
        ),
    ] = "default",
    start: Annotated[
        str | None,
        typer.Option(
            help="Initial weights: cnn, dnn, or a .safetensors file. By default: random. Ignored "
            "with `--resume`."
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Also train on the validation images, for a final run. Validation accuracy then "
            "no longer measures unseen images.",
        ),
    ] = False,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate. By default: the recipe's.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per step. By default: the recipe's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The output folder. By default: `explainkit-out/train-MODEL`.",
            callback=options.writable,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Train a network. `--resume` continues an interrupted run with bit-identical results.

    Validation uses the data's own split, or else a random tenth of each class. The output folder
    gets the weights (for `--model`), history.csv, curves.png, and a checkpoint after each epoch
    and every three minutes. Ctrl-C saves a checkpoint and stops.

    For example:

        explainkit run fer_hw3 train --model dnn --epochs 2

        explainkit run fer_hw3 train --data fer2013.zip --out run

        explainkit run fer_hw3 train --data fer2013.zip --out run --resume

        explainkit run fer_hw3 train --data fer2013.zip --start cnn --recipe finish --refit

        explainkit run fer_hw3 evaluate --data fer2013.zip --model run/cnn.safetensors
    """
    recycle_memory()
    from explainkit_fer_hw3.training import checkpoint, folder
    from explainkit_fer_hw3.training.recipe import EPOCHS, recipe_for
    from explainkit_fer_hw3.training.run import Training

    if lr is not None and not 0 < lr <= 1000:
        raise typer.BadParameter(f"--lr {lr}: expected a number above 0, at most 1000")
    if recipe == "finish" and start is None and not resume:
        raise typer.BadParameter("--recipe finish: expected --start with the initial weights")
    place = out or options.writable(options.OUT / f"train-{model}")
    given: dict[str, Any] = {"lr": lr, "batch": batch}
    given = {name: value for name, value in given.items() if value is not None}
    settings = replace(recipe_for(model, recipe), **given)
    where = options.find_device(device)
    with folder.claimed(place, resume=resume):
        before = checkpoint.facts(place / checkpoint.FILE)["epochs"] if resume else None
        length = epochs or before or EPOCHS[recipe]
        faces, held = (options.load_labeled(data, split, seed) for split in ("train", "validation"))
        if refit:
            faces = faces + held
            options.notes.print("note: --refit: the validation images are also used for training")
        # a checkpoint holds its own weights
        weights = None if start is None or resume else _start(start, model)
        training = Training(
            model, faces, settings, epochs=length, seed=seed, device=where, start=weights
        )
        if resume:
            training.resume(place)
            if before != length:
                options.notes.print(
                    f"note: the run was started with {before} epochs; from here on its learning "
                    f"rate follows the schedule for {length}"
                )
        with _stopping() as stopped, _display(training) as (on_step, on_epoch):
            done = folder.fit(
                training, held, place,
                held_out=not refit, on_step=on_step, on_epoch=on_epoch, stopped=stopped,
            )  # fmt: skip
    if not done:
        options.notes.print(
            f"stopped after step {training.step:,} of {training.steps:,} and saved in {place}: "
            "run the same command with --resume to continue"
        )
        raise typer.Exit(_INTERRUPTED)
    _report(training, place, options.describe_data(data), (len(faces), len(held)), refit, as_json)


def _start(name: str, model: str) -> Any:
    """The network to start from."""
    from explainkit.errors import ModelError

    module: Any = options.load_model(name, "cpu")
    if module.explainkit_name != f"fer_hw3/{model}":
        raise ModelError(
            f"--start: expected weights of fer_hw3/{model}, got {name} with weights of "
            f"{module.explainkit_name}"
        )
    return module


def recycle_memory() -> None:
    """Tells glibc to reuse large blocks: mapping them anew in each step costs a quarter of speed.

    The setting holds for the whole process, so only a command may make it, not the library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    # older versions take at most 32 MB
    if libc.mallopt(mmap_threshold, 1 << 30) or libc.mallopt(mmap_threshold, 1 << 25):
        libc.mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yields a function: was Ctrl-C, SIGTERM or SIGHUP received? A second one acts as usual."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as by nohup
            before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _display(training: "Training") -> Iterator[tuple[Callable[[Row], None], Callable[[Row], None]]]:
    """Shows a progress bar on a terminal, and prints one line per epoch to stderr."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    bar = Progress(
        "{task.description}", BarColumn(bar_width=None), TaskProgressColumn(),
        "{task.fields[facts]}", TimeRemainingColumn(),
        console=options.notes, transient=True, disable=not options.notes.is_terminal,
        speed_estimate_period=300, expand=True,
    )  # fmt: skip

    def name() -> str:
        return f"epoch {min(len(training.history) + 1, training.epochs)}/{training.epochs}"

    def on_step(step: Row) -> None:
        now = training.running
        facts = (
            f"loss {now['loss']:.3f} acc {now['accuracy']:.3f} lr {step['lr']:.2g} "
            f"{now['images_per_second']:.0f}/s"
        )
        bar.update(task, completed=training.step, description=name(), facts=facts)

    def on_epoch(row: Row) -> None:
        left = dt.timedelta(seconds=round(row["seconds"] * (training.epochs - row["epoch"])))
        bar.update(task, description=name())
        options.notes.print(
            f"epoch {row['epoch']}/{training.epochs}: loss {row['loss']:.4f}, "
            f"accuracy {row['accuracy']:.4f}; validation loss {row['validation_loss']:.4f}, "
            f"accuracy {row['validation_accuracy']:.4f}; lr {row['lr']:.3g}; "
            f"{row['images_per_second']:.0f} images/s, {left} left"
        )

    with bar:
        task = bar.add_task(name(), total=training.steps, completed=training.step, facts="")
        yield on_step, on_epoch


def _report(
    training: "Training",
    place: Path,
    data: str,
    counts: tuple[int, int],
    refit: bool,
    as_json: bool,
) -> None:
    from explainkit_fer_hw3.training import checkpoint, folder

    last = training.history[-1]
    best = max(training.history, key=lambda row: row["validation_accuracy"])
    seconds = sum(row["seconds"] for row in training.history)
    memory = _peak_mb()
    files = {
        "weights": place / f"{training.model}.safetensors",
        "history": place / folder.HISTORY,
        "curves": place / folder.CURVES,
        "checkpoint": place / checkpoint.FILE,
    }
    if as_json:
        found = {
            "schema_version": 1,
            "model": training.model,
            "data": data,
            "images": counts[0],
            "validation_images": counts[1],
            "refit": refit,
            "recipe": asdict(training.recipe),
            "seed": training.seed,
            "epochs": training.epochs,
            "steps": training.steps,
            "last": last,
            "best": best,
            "seconds": round(seconds, 1),
            "peak_memory_mb": memory,
            "files": {name: str(path) for name, path in files.items()},
        }
        typer.echo(json.dumps(found))
        return
    plural = "s" if training.epochs > 1 else ""
    typer.echo(
        f"{training.model}, {training.epochs} epoch{plural} of {counts[0]:,} images of {data} in "
        f"{dt.timedelta(seconds=round(seconds))}"
        + (f", peak memory {memory:,.0f} MB" if memory else "")
    )
    typer.echo(
        f"validation ({counts[1]:,} images{', also used for training' * refit}): accuracy "
        f"{last['validation_accuracy']:.4f}, loss {last['validation_loss']:.4f}; best accuracy "
        f"{best['validation_accuracy']:.4f} after epoch {best['epoch']}"
    )
    for name, path in files.items():
        typer.echo(f"{name}: {path}")


def _peak_mb() -> float | None:
    """Peak memory of this process in megabytes; None on systems other than Linux.

    Not from ``getrusage``, where a child process starts with the peak of its parent.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return round(int(lines["VmHWM"].split()[0]) / 1024, 1)
