"""Training curves, recorded after each epoch."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from explainkit.errors import DatasetError

COLUMNS = ("loss", "accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        name: Its name in figures.
        epochs: The epochs at which it was measured.
        values: Per recorded column, one number per epoch; None if missing.
    """

    name: str
    epochs: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]

    def has(self, what: str) -> bool:
        """Whether the run recorded a quantity, in training or on validation."""
        return what in self.values or f"validation_{what}" in self.values

    def best(self, column: str) -> tuple[float, float] | None:
        """Epoch and value of a column's maximum; None if the column has no values."""
        known = [
            (epoch, value)
            for epoch, value in zip(self.epochs, self.values.get(column, ()), strict=False)
            if value is not None
        ]
        return max(known, key=lambda pair: (pair[1], -pair[0])) if known else None

    def at(self, column: str, epoch: float) -> float | None:
        """A column's value after an epoch; None if missing."""
        values = self.values.get(column)
        return values[self.epochs.index(epoch)] if values else None


def read_history(path: Path, name: str = "") -> Curve:
    """Reads the ``history.csv`` of a training run; a column or a cell may be missing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"expected a history.csv at {path}, got {error}") from error
    stem = path.resolve().parent.name if path.stem == "history" else path.stem
    return _parse(text, name or stem, str(path))


def packaged_history(model: str) -> list[Curve]:
    """The curves that ship with the weights, the study's own recipe last; may be empty."""
    if model not in {"cnn", "dnn"}:
        return []
    folder = files("explainkit_fer_hw3") / "weights"
    names = {model: f"{model}-history.csv", f"{model}, plain": f"{model}-plain-history.csv"}
    return [
        _parse((folder / file).read_text(encoding="utf-8"), name, file)
        for name, file in names.items()
        if (folder / file).is_file()
    ]


def curves_of(models: Sequence[str], histories: Sequence[Path]) -> list[Curve]:
    """The curves in these files, in the order of the models; without files, the packaged ones."""
    if histories:
        names = [*models, *[""] * len(histories)]
        return [read_history(path, names[i]) for i, path in enumerate(histories)]
    return [curve for model in models for curve in packaged_history(model)]


def _parse(text: str, name: str, where: str) -> Curve:
    rows = list(csv.DictReader(io.StringIO(text)))
    found = list(rows[0]) if rows else []
    known = [column for column in COLUMNS if column in found]
    if "epoch" not in found or not known:
        raise DatasetError(
            f"expected the columns epoch and some of {', '.join(COLUMNS)} "
            f"in {where}, got {', '.join(map(str, found)) or 'nothing'}"
        )
    epochs = [_number(row["epoch"], where) for row in rows]
    if any(epoch is None for epoch in epochs):
        raise DatasetError(f"expected a number in every cell of epoch in {where}")
    values = {column: tuple(_number(row[column], where) for row in rows) for column in known}
    return Curve(name, tuple(epoch for epoch in epochs if epoch is not None), values)


def _number(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"expected numbers in {where}, got {text!r:.40}")
    return value
