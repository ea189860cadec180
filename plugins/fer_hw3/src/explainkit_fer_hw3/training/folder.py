"""A run and its folder: what is written when, so that a kill costs minutes at most."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from explainkit.errors import StorageError
from explainkit.render.figure import save_figure
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.study.charts import curves_figure
from explainkit_fer_hw3.study.curves import Curve, read_history
from explainkit_fer_hw3.tables import write_table
from explainkit_fer_hw3.training import checkpoint
from explainkit_fer_hw3.training.run import Training

SAVE_EVERY = 180.0
"""Seconds between checkpoints within an epoch."""

HISTORY, CURVES = "history.csv", "curves.png"

COLUMNS = (
    "epoch", "step", "lr", "loss", "accuracy", "validation_loss", "validation_accuracy",
)  # fmt: skip
"""Of the history file: what is the same in every run of the same seed, so no times."""


@contextmanager
def claimed(folder: Path, *, resume: bool) -> Iterator[None]:
    """Keeps every other run out of a folder, which is made if need be, while the block runs.

    The system lets go of it when the process ends, however it does; Windows has no such lock.

    Raises:
        StorageError: Another run is in it, it can't be made, or it holds a checkpoint and the run
            doesn't resume it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("ab")
    except OSError as error:
        raise StorageError(f"can't write into {folder}: {error.strerror or error}") from error
    with lock:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"{folder} is in use by another training: wait for it, or choose another --out"
                ) from None
        if not resume and (folder / checkpoint.FILE).exists():
            raise StorageError(
                f"{folder} holds a training already: --resume goes on with it; "
                "choose another --out for a new one"
            )
        for draft in folder.glob(".*-" + 16 * "[0-9a-f]"):  # half-written when a kill came
            draft.unlink(missing_ok=True)
        yield


def fit(
    training: Training,
    validation: FaceDataset,
    folder: Path,
    *,
    held_out: bool,
    on_step: Callable[[Mapping[str, float]], None],
    on_epoch: Callable[[Mapping[str, float]], None],
    stopped: Callable[[], bool],
) -> bool:
    """Trains to the end, or until it is told to stop; either way the state is saved.

    Args:
        training: Fresh or resumed.
        validation: The images to measure on after each epoch.
        folder: A claimed one.
        held_out: Whether those are none of the images that are learnt.
        on_step: Called after each step with what `Training.advance` gave.
        on_epoch: Called with each new row of the history.
        stopped: Asked before each step.

    Returns:
        Whether it came to the end.

    Raises:
        ModelError: The run diverged; the last checkpoint stays.
        StorageError: The folder can't be written.
    """
    if training.history:
        # a kill may have come between them and the checkpoint
        _write_results(training, folder, held_out=held_out)
    saved = time.monotonic()
    while True:
        if training.at_epoch_end:
            row = training.close_epoch(validation)
            training.save(folder)
            _write_results(training, folder, held_out=held_out)
            saved = time.monotonic()
            on_epoch(row)
        if training.step >= training.steps:
            return True
        if stopped():
            training.save(folder)
            return False
        on_step(training.advance())
        if time.monotonic() - saved >= SAVE_EVERY:
            training.save(folder)
            saved = time.monotonic()


def _write_results(training: Training, folder: Path, *, held_out: bool) -> None:
    """What a reader wants of a run: its history, curves, and the plain network's weights."""
    rows = ([row.get(name, "") for name in COLUMNS] for row in training.history)
    curve = read_history(write_table(folder / HISTORY, COLUMNS, rows), training.model)
    save_figure(_curves(training, curve, held_out=held_out), folder / CURVES)
    training.save_weights(folder / f"{training.model}.safetensors")


def _curves(training: Training, curve: Curve, *, held_out: bool) -> Figure:
    recipe, last = training.recipe, training.history[-1]
    done = f"{last['epoch']} epochs" if last["epoch"] > 1 else "one epoch"
    title = f"{training.model}: validation accuracy {last['validation_accuracy']:.4f} after {done}"
    note = "dashed: training, while it learns, with dropout"
    if recipe.augment or recipe.cutout:
        note += ", on changed images"
    if recipe.mix:
        note += ", mixed with others"
    if recipe.smoothing:
        note += ", against smoothed labels"
    note += "; solid: validation" + ("" if held_out else ", whose images are learnt too")
    if recipe.average:
        share = " with their share of the start's" if recipe.weight_interpolation else ""
        note += f", the averaged weights{share} on plain images"
    return curves_figure([curve], "accuracy", "loss", title=title, note=note)
