"""Computes one shard: reads its images, explains those of one size together, and writes it."""

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from explainkit.adapters.geometry import Geometry
from explainkit.api import explain
from explainkit.errors import (
    ExplainkitError,
    ExplainkitWarning,
    MethodError,
    ModelError,
    TargetError,
    clipped,
    line,
)
from explainkit.interfaces import Method, spec_of
from explainkit.jobs.inputs import Inputs, batch_of, checked, shapes_of
from explainkit.jobs.items import read_items
from explainkit.jobs.outcomes import Item, Judged, Status
from explainkit.jobs.plan import ITEMS, Plan, described_model, preprocessing_for
from explainkit.jobs.shards import Shard, write_shard
from explainkit.jobs.sources import Source
from explainkit.results.explanation import Explanation, Explanations
from explainkit.results.plain import plain
from explainkit.results.scorecard import Scorecard, fails_often


@dataclass(frozen=True)
class Job:
    """All that a worker needs to compute any shard of a store; it is pickled for each.

    Attributes:
        store: The folder of the store.
        plan: What is computed.
        source: The images.
        model: The model, or what loads it.
        methods: Ready to be called.
        device: Where a model that is loaded runs; a given one stays where it is.
    """

    store: Path
    plan: Plan
    source: Source
    model: nn.Module | Callable[[], nn.Module]
    methods: Sequence[Method]
    device: str


@dataclass(frozen=True)
class Report:
    """What became of a shard.

    Attributes:
        shard: Its number.
        ok: Items that were explained.
        refused: Items that a method refused.
        failed: Items whose image can't be read, or on which the model fails.
    """

    shard: int
    ok: int
    refused: int
    failed: int

    @staticmethod
    def of(shard: int, items: Sequence[Item]) -> "Report":
        """Counts the statuses of a shard's items."""
        found = [item.status for item in items]
        return Report(shard, found.count("ok"), found.count("refused"), found.count("failed"))


class Worker:
    """Holds the model and computes shards.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        given = job.model
        self.model = given if isinstance(given, nn.Module) else given().to(job.device)
        self.preprocessing = preprocessing_for(self.model, job.plan.explained)

    def check_model(self) -> None:
        """Compares the model with the plan.

        Raises:
            ModelError: The plan was made for another one.
        """
        plan = self.job.plan
        found, wanted = described_model(self.model, plan.explained), plan.model
        if found != wanted:
            changed = ", ".join(name for name in wanted if found.get(name) != wanted[name])
            raise ModelError(f"expected the model that the plan was made for: other {changed}")

    def run(self, number: int, keep: Callable[[], bool] = lambda: True) -> Report:
        """Computes a shard and writes it.

        Args:
            number: Of the shard.
            keep: Asked before the shard is written; False: Ctrl-C has cut it short.

        Raises:
            StorageError: It can't be written.
            KeyboardInterrupt: It is not to be kept.
        """
        shard = self.compute(number)
        if not keep():
            raise KeyboardInterrupt
        plan = self.job.plan
        write_shard(
            self.job.store, shard, plan.hash,
            half=plan.dtype == "float16", inputs=plan.inputs, size=plan.map_size,
        )  # fmt: skip
        return Report.of(number, shard.items)

    def compute(self, number: int) -> Shard:
        """Computes a shard."""
        begin = time.monotonic()
        offsets = self.job.plan.items.offsets
        ids = read_items(self.job.store / ITEMS, offsets[number], offsets[number + 1])
        items, inputs = self.load(ids)
        groups: list[list[Explanation]] = []
        for rows in _of_one_shape(inputs):
            found, cards = self._explained(items, inputs, rows)
            if found:
                for row, position in enumerate(p for p in rows if items[p].status == "ok"):
                    items[position] = replace(
                        items[position], group=len(groups), row=row, **_facts(found[0], row),
                        judged=tuple(judged(card, row) for card in cards),
                    )  # fmt: skip
                groups.append(found)
        facts = {
            "seconds": round(time.monotonic() - begin, 3),
            "host": platform.node(),
            "process": os.getpid(),
            "device": self.job.device,
            "python": platform.python_version(),
        }
        return Shard(number, items, groups, facts)

    def load(self, ids: Sequence[str]) -> tuple[list[Item], list[Inputs | None]]:
        """The items of some ids as the model takes them; None where one can't be read."""
        items: list[Item] = []
        inputs: list[Inputs | None] = []
        for item in ids:
            value: Inputs | None = None
            geometry: Geometry | None = None
            try:
                loaded = self.job.source.read(item)
                if isinstance(loaded.value, Image.Image):
                    value, geometry = self.preprocessing(loaded.value)
                else:
                    value = checked(loaded.value)
                known = geometry.to_dict() if geometry else None
                items.append(Item(item, "ok", sha256=loaded.sha256, geometry=known))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a caller's images may raise anything
                items.append(Item(item, *_reason(error)))
                value = None
            inputs.append(value)
        return items, inputs

    def explained(self, inputs: Sequence[Inputs]) -> Explanations:
        """The explanations of inputs of one shape: for each method, one of each explained input."""
        plan = self.job.plan
        options: dict[str, Any] = {
            "seed": plan.seed, "batch_size": plan.batch_size, "precision": plan.precision,
            "wrt": plan.explained or None,
        }  # fmt: skip
        batch, methods = batch_of(inputs, self.model), tuple(self.job.methods)
        with warnings.catch_warnings(action="ignore", category=ExplainkitWarning):
            found: Explanations = explain(self.model, batch, plan.target, methods, **options)
        return found

    def tested(self, inputs: Sequence[Inputs]) -> tuple[list[Explanation], list[Scorecard]]:
        """As `explained`, with a scorecard of each if the plan wants them."""
        found = self.explained(inputs)
        if not self.job.plan.scorecard:
            return found, []
        cards = found.scorecards(self.job.plan.seed or 0, power=True)
        spec = spec_of(self.model)
        known = spec.positive_control if spec else None
        # of the model, or of all images of the store: never of those that run together
        weak = known if fails_often(known) else None
        return found, [card.controlled(weak) for card in cards]

    def _explained(
        self, items: list[Item], inputs: Sequence[Inputs | None], rows: Sequence[int]
    ) -> tuple[list[Explanation], list[Scorecard]]:
        """The explanations and scorecards of some of the images; the status of others is set.

        An image's map does not depend on the others, so that those that are left when one fails
        get the same maps without it.
        """

        def together(chosen: Sequence[int]) -> tuple[list[Explanation], list[Scorecard]]:
            return self.tested([one for row in chosen if (one := inputs[row]) is not None])

        with suppress(Exception):  # each image says why below
            return together(rows)
        for row in rows:
            try:
                together([row])
            except Exception as error:  # noqa: BLE001 - a model may raise anything
                status, reason = _reason(error)
                items[row] = replace(items[row], status=status, reason=reason)
        left = [row for row in rows if items[row].status == "ok"]
        return together(left) if left else ([], [])


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Runs a block as every worker does, so that it computes the same bits, then undoes that."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)


def _of_one_shape(inputs: Sequence[Inputs | None]) -> list[list[int]]:
    """Positions of inputs of each shape, in order of their first one."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for position, value in enumerate(inputs):
        if value is not None:
            found.setdefault(shapes_of(value), []).append(position)
    return list(found.values())


def _reason(error: Exception) -> tuple[Status, str]:
    """The status of an image that raised an error, and why, in one line."""
    if not isinstance(error, ExplainkitError):
        return "failed", line(error)
    status: Status = "refused" if isinstance(error, MethodError | TargetError) else "failed"
    return status, clipped(str(error).partition("\n")[0])


def _facts(found: Explanation, row: int) -> dict[str, Any]:
    """What can be filtered by, of one image."""
    predicted, probabilities = found.predicted, found.probabilities
    target = int(found.target[row]) if found.expression is None else None
    label = None if predicted is None or predicted.dim() > 1 else int(predicted[row])
    chance = None
    if target is not None and probabilities is not None:
        chance = float(probabilities[row, target])
    score = float(found.score[row])
    return {"target": target, "score": score, "predicted": label, "confidence": chance}


def judged(card: Scorecard, row: int) -> Judged:
    """What a scorecard says about one image."""
    return Judged(
        verdict=card.verdict[row],
        statistic=plain(card.statistic[row]),
        p=plain(card.p[row]),
        power=None if card.power is None else plain(card.power[row]),
        reason=card.reason[row],
    )
