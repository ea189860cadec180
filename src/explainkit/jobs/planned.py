"""A job that is planned: run it, resume it, or estimate what it takes."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from torch import nn

from explainkit.errors import InputError, StorageError
from explainkit.files import locked, reason, remove_drafts, replacing
from explainkit.jobs.inputs import Inputs
from explainkit.jobs.items import ids_in
from explainkit.jobs.local import run_local
from explainkit.jobs.locks import owning
from explainkit.jobs.plan import ITEMS, PLAN, Plan
from explainkit.jobs.pool import Stop
from explainkit.jobs.ray import check_ray, run_ray
from explainkit.jobs.reduction import reduced
from explainkit.jobs.shards import SHARDS, check_tensors, remove_shards, sha256_of
from explainkit.jobs.shares import Share
from explainkit.jobs.store import Store
from explainkit.jobs.worker import Job, Report, Worker, computing

TRIED = 32
"""Images of which one has to be readable for a job to be tried before it starts."""

TRIED_IN_VAIN = 3
"""Readable images that fail before the job is taken to fail on all."""

RECORD_BYTES = 400
"""About what the id, the hash and the facts of an item take."""

Done = Callable[[Report, bool], None]

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Forecast:
    """What a job will take.

    Attributes:
        items: Images.
        shards: Shards.
        bytes: Of the store; None if no image can be read.
        seconds: With one worker, from a first batch; None if no image can be read.
    """

    items: int
    shards: int
    bytes: int | None
    seconds: float | None


@dataclass(frozen=True)
class PlannedJob:
    """A job that may be run, or whose cost may be estimated.

    Attributes:
        job: What is computed.
        module: The model, loaded.
        file: The list of the items.
        given: Which numbers of the plan the caller gave.
    """

    job: Job
    module: nn.Module
    file: Any
    given: Mapping[str, int]

    def run(
        self,
        share: Share,
        workers: int,
        stop: Stop,
        done: Done = lambda _report, _before: None,
        *,
        engine: Engine = "local",
        ray_address: str | None = None,
        retry_failed: bool = False,
        overwrite: bool = False,
    ) -> dict[int, str]:
        """Computes what is missing of a share; returns why shards could not be computed.

        Args:
            share: The part of the shards.
            workers: Processes.
            stop: Whether to stop.
            done: Called for each shard with its report, and whether it was done before.
            engine: As in `batch`, like the others.
            ray_address: Of a running Ray cluster.
            retry_failed: Compute shards with failed images again.
            overwrite: Replace a store written by another call.

        Raises:
            StorageError: The store belongs to another call, can't be written or is in use, or Ray
                can't be reached.
        """
        if engine not in {"local", "ray"}:
            raise InputError(f"engine: expected local or ray, got {engine!r}")
        if engine == "ray":
            check_ray()
        elif ray_address is not None:
            raise InputError(f"ray_address: expected engine ray, got {engine}")
        out = self.job.store
        if overwrite and share.count > 1:
            raise InputError("overwrite: expected one process for all shards, got a share of them")
        with _writing(out):
            if out.exists() and not (out / PLAN).exists() and _foreign(out):
                raise StorageError(
                    f"expected an empty folder or a store, got {out} with other files"
                )
            out.mkdir(parents=True, exist_ok=True)
        with owning(out, share):
            with _writing(out), locked(out / ".plan.lock", wait=True):
                plan = self._settled(overwrite)
                (out / SHARDS).mkdir(exist_ok=True)
                remove_drafts(out / SHARDS, lambda _name: True)
            # one local worker is this process, which has loaded the model
            here = engine == "local" and workers == 1
            model = self.module if here else self.job.model
            job = dataclasses.replace(self.job, plan=plan, model=model)
            left = []
            store = Store(out)
            for number in share.shards(job.plan.shards):
                report = _finished(store, number)
                if report is None or (retry_failed and report.failed):
                    left.append(number)
                else:
                    done(report, True)
            run = run_local if engine == "local" else partial(run_ray, address=ray_address)
            return run(job, left, workers, lambda report: done(report, False), stop)

    def forecast(self) -> Forecast:
        """Items, shards, and the bytes and seconds that a first batch lets expect."""
        plan = self.job.plan
        worker = self._worker()
        first = next(self._readable(worker), None)
        if first is None:
            return Forecast(plan.items.count, plan.shards, None, None)
        with computing(plan.threads):
            worker.tested([first])  # what runs once
            begin = time.perf_counter()
            found, _ = worker.tested([first] * plan.batch_size)
            seconds = (time.perf_counter() - begin) / plan.batch_size
        each = 2 if plan.dtype == "float16" else 4
        small = [one if plan.map_size is None else reduced(one, plan.map_size) for one in found]
        size = sum(one.attribution[0].numel() * each + one.logits[0].numel() * 4 for one in small)
        inputs = found[: max(len(plan.explained), 1)]
        size += sum(one.inputs[0].numel() for one in inputs) * 4 * plan.inputs + RECORD_BYTES
        count = plan.items.count
        return Forecast(count, plan.shards, size * count, seconds * count)

    def _settled(self, overwrite: bool) -> Plan:
        """The plan of the store, which is made if there is none.

        Raises:
            StorageError: The store has another plan.
        """
        out, plan = self.job.store, self.job.plan
        before = _plan_of(out, damaged_too=overwrite)
        if before is not None:
            found = before.differences(plan) + [
                f"{name}: {getattr(before, name)} in the store, {value} now"
                for name, value in self.given.items()
                if getattr(before, name) != value
            ]
            if not found:
                if sha256_of(out / ITEMS) != before.items.sha256:
                    self._write_items()
                return before
            if not overwrite:
                raise StorageError(
                    f"{out} belongs to another call: {'; '.join(found)}: choose another folder, or "
                    "overwrite it"
                )
        self._try_first()
        # the plan goes first: without it, nothing in the folder counts
        (out / PLAN).unlink(missing_ok=True)
        remove_shards(out)
        self._write_items()
        plan.save(out)
        return plan

    def _write_items(self) -> None:
        self.file.seek(0)
        with replacing(self.job.store / ITEMS) as file:
            shutil.copyfileobj(self.file, file)

    def _try_first(self) -> None:
        """Explains an image, so that what fails for all of them is an error before the job."""
        worker = self._worker()
        failures: list[Exception] = []
        with computing(self.job.plan.threads):
            for value in islice(self._readable(worker), TRIED_IN_VAIN):
                try:
                    worker.tested([value])
                except Exception as error:  # noqa: BLE001 - a model may raise anything
                    failures.append(error)
                else:
                    return
        if failures:
            raise failures[0]

    def _worker(self) -> Worker:
        return Worker(dataclasses.replace(self.job, model=self.module))

    def _readable(self, worker: Worker) -> Iterator[Inputs]:
        """Those of the first images that can be read, as the model takes them."""
        self.file.seek(0)
        for item in ids_in(self.file.read(self.job.plan.items.offsets[1]))[:TRIED]:
            _, [value] = worker.load([item])
            if value is not None:
                yield value


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns the system's refusal to write into a one-line `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"can't write {folder}: {reason(error)}") from error


def _plan_of(folder: Path, *, damaged_too: bool) -> Plan | None:
    """The plan in a folder; None if there is none, or a damaged one may be replaced."""
    if not (folder / PLAN).exists():
        return None
    try:
        return Plan.load(folder)
    except StorageError:
        if not damaged_too:
            raise
    return None


def _finished(store: Store, number: int) -> Report | None:
    """What became of a shard that is done; None if it isn't, or is damaged."""
    try:
        shard = store.shard(number)
        if shard is None:
            return None
        check_tensors(shard)
    except StorageError:
        return None
    return Report.of(number, shard.items)


def _foreign(folder: Path) -> bool:
    """Whether a folder has files that no interrupted start of a job has left."""
    own = {ITEMS, SHARDS}
    return any(not (one.name.startswith(".") or one.name in own) for one in folder.iterdir())
