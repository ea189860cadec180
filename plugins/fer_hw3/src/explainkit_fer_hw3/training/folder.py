"""A run and its output folder: results and checkpoints, so that a kill costs minutes at most."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from explainkit.errors import StorageError
from explainkit.files import reserved
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
"""Columns of the history file. Times are left out: runs of one seed write identical files."""


@contextmanager
def claimed(folder: Path, *, resume: bool) -> Iterator[None]:
    """Creates a folder if needed and locks it against other runs while the block runs.

    The system releases the lock when the process ends, even after a kill. There is no lock on
    Windows.
    """
    with reserved(folder / ".lock", StorageError, "training run"):
        if not resume and (folder / checkpoint.FILE).exists():
            raise StorageError(
                f"{folder} already holds a training run: continue it with --resume, or choose "
                "another --out for a new one"
            )
        for draft in folder.glob(".*-" + 16 * "[0-9a-f]"):  # left half-written by a kill
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
    """Trains to the end or until stopped, and saves the state; returns whether it is the end."""
    if training.history:
        # a kill may have come between the checkpoint and the results
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
    """Writes the history, the curves, and the weights of the plain network."""
    rows = ([row.get(name, "") for name in COLUMNS] for row in training.history)
    curve = read_history(write_table(folder / HISTORY, COLUMNS, rows), training.model)
    save_figure(_curves(training, curve, held_out=held_out), folder / CURVES)
    training.save_weights(folder / f"{training.model}.safetensors")


def _curves(training: Training, curve: Curve, *, held_out: bool) -> Figure:
    recipe, last = training.recipe, training.history[-1]
    done = f"{last['epoch']} epochs" if last["epoch"] > 1 else "one epoch"
    title = f"{training.model}: validation accuracy {last['validation_accuracy']:.4f} after {done}"
    note = "dashed: training, during the epoch, with dropout"
    if recipe.augment or recipe.cutout:
        note += ", on augmented images"
    if recipe.mix:
        note += ", with mixup"
    if recipe.smoothing:
        note += ", against smoothed labels"
    note += "; solid: validation" + ("" if held_out else " (images also used for training)")
    if recipe.average:
        share = ", interpolated with the initial weights," if recipe.weight_interpolation else ""
        note += f", averaged weights{share} on plain images"
    return curves_figure([curve], "accuracy", "loss", title=title, note=note)
