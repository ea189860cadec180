"""``ek.batch``: from a source, a model and methods to a store, planned and resumed."""

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from explainkit.adapters.images import preprocessing_of
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.catalog.factories import AnyMethod, load_methods, method_name
from explainkit.catalog.models import load_model
from explainkit.engine.batching import chunk_size
from explainkit.engine.failures import failing_as_model_error
from explainkit.engine.record import outputs_of
from explainkit.engine.targets import parse_target
from explainkit.errors import InputError, StorageError, TargetError
from explainkit.expressions import Expression
from explainkit.files import locked, reason, remove_drafts, replacing
from explainkit.isolation import preserve_model, preserve_process
from explainkit.jobs.items import ids_in, write_items
from explainkit.jobs.local import Stop, run_local
from explainkit.jobs.locks import owning
from explainkit.jobs.plan import (
    ITEMS,
    PLAN,
    Plan,
    described_methods,
    described_model,
    library_versions,
)
from explainkit.jobs.shards import SHARDS, check_tensors
from explainkit.jobs.shares import Share, share_of
from explainkit.jobs.sources import Data, Source, source_of
from explainkit.jobs.store import Store
from explainkit.jobs.worker import Job, Report, Worker, computing
from explainkit.layers import path_of
from explainkit.methods.contract import with_layers

SHARD_SIZE = 256
"""The largest default size of a shard: what a kill can cost."""

SHARD_BYTES = 64 << 20
"""What the inputs and the maps of a shard may take by default."""

TRIED = 32
"""Images of which one has to be readable for a job to be tried before it starts."""

TRIED_IN_VAIN = 3
"""Readable images that fail before the job is taken to fail on all."""

RECORD_BYTES = 400
"""About what the id, the hash and the facts of an item take."""

Dtype = Literal["float32", "float16"]
Done = Callable[[Report, bool], None]


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


def batch(
    source: Data,
    model: str | Path | nn.Module,
    methods: AnyMethod | Sequence[AnyMethod],
    out: str | Path,
    *,
    target: int | str | Expression | None = None,
    seed: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    shard: str | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    batch_size: int | None = None,
    shard_size: int | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    **params: Any,
) -> Store:
    """Explains all images of a data set, in shards that survive whatever happens to the process.

    The same call again goes on where the last one ended. A shard is written when it is complete, so
    that an interruption costs at most the shards at hand, and a resumed store is bit for bit that
    of an undisturbed run on the same kind of machine. An image that can't be read, or on which a
    method or the model fails, has a status and a reason and stops nothing.

    Args:
        source: A folder of images, searched with its subfolders; a text file with one path a line;
            a zip file; a mapping of ids to images, or pairs of both; or a data set of
            ``(image, label)``. Images are paths, Pillow images, uint8 arrays, or tensors
            ``[channel, height, width]`` as the model takes them.
        model: A name that `load_model` takes, or a module.
        methods: A method or a list of them, as `explain` takes them.
        out: The folder of the store.
        target: A class by number or name, or an expression or its text; None: the predicted class.
        seed: Random seed, as in `explain`.
        limit: Only the first of the sorted ids, this many.
        workers: Processes that each load the model. A script that uses several needs
            ``if __name__ == "__main__":``, as always with `multiprocessing`.
        shard: ``"i/n"``: only every n-th shard from the i-th on, i from 0 to n - 1; n processes on
            any machines share a store in this way. None: from ``RANK`` and ``WORLD_SIZE``,
            ``SLURM_ARRAY_TASK_ID`` and ``SLURM_ARRAY_TASK_COUNT``, or ``JOB_COMPLETION_INDEX`` and
            ``JOB_COMPLETION_COUNT``, or everything.
        dtype: How maps are stored. ``"float16"`` divides each map by its largest absolute value:
            half the bytes, and errors below 2⁻¹¹ of that value.
        device: Where a named model runs; a module stays where it is.
        batch_size: Images run at once, a smaller number is padded. None: as many as fit a memory
            budget, if the model takes images of one size, or else 1.
        shard_size: Images of a shard.
        threads: Threads of a worker; None: those of this process divided by the workers.
        retry_failed: Compute shards with failed images again.
        overwrite: Replace a store of another call.
        **params: The methods' fields; each method takes those that it has.

    Returns:
        The store, for reading.

    Raises:
        DatasetError: The source has no images, or an id twice.
        StorageError: The store is of another call, somebody else works on it, it can't be written,
            or shards could not be computed.
        ExplainkitError: The model or a method does not work on the first image.
        KeyboardInterrupt: After Ctrl-C, when the shards at hand are written.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images = {f"image {i}": torch.rand(1, 4, 4) for i in range(10)}
        >>> store = ek.batch(images, net, ["saliency", "input_x_gradient"], tempfile.mkdtemp())
        >>> store.progress().ok, [one.method for one in store[0]]
        (10, ['explainkit/saliency', 'explainkit/input_x_gradient'])
    """
    share = share_of(shard)
    with (
        planned(
            source, model, methods, out, target=target, seed=seed, limit=limit, workers=workers,
            dtype=dtype, device=device, batch_size=batch_size, shard_size=shard_size,
            threads=threads, **params,
        ) as plan,
        Stop(lambda _text: None) as stop,
    ):  # fmt: skip
        undone = plan.run(share, workers, stop, retry_failed=retry_failed, overwrite=overwrite)
        if stop.requested:
            raise KeyboardInterrupt
    if undone:
        number, why = next(iter(undone.items()))
        raise StorageError(f"{len(undone)} shards could not be computed; shard {number}: {why}")
    return Store(out)


@contextmanager
def planned(
    source: Data,
    model: str | Path | nn.Module,
    methods: AnyMethod | Sequence[AnyMethod],
    out: str | Path,
    *,
    target: int | str | Expression | None = None,
    seed: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    dtype: Dtype = "float32",
    device: str = "cpu",
    batch_size: int | None = None,
    shard_size: int | None = None,
    threads: int | None = None,
    model_options: Mapping[str, Any] | None = None,
    command: str = "",
    **params: Any,
) -> "Iterator[PlannedJob]":
    """The job that `batch` runs; the list of its items exists while the block runs.

    Args:
        source: As in `batch`, like all that is not described here.
        model: The model.
        methods: The methods.
        out: The folder of the store.
        target: The target.
        seed: Random seed.
        limit: Only the first items.
        workers: Processes.
        dtype: How maps are stored.
        device: Where a named model runs.
        batch_size: Images run at once.
        shard_size: Images of a shard.
        threads: Threads of a worker.
        model_options: Arguments of `load_model` for a named model.
        command: The command line that goes on with the job.
        **params: The methods' fields.
    """
    for name, value in (
        ("workers", workers), ("limit", limit), ("batch_size", batch_size),
        ("shard_size", shard_size), ("threads", threads),
    ):  # fmt: skip
        if value is not None and value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    if dtype not in {"float32", "float16"}:
        raise InputError(f"dtype: expected float32 or float16, got {dtype!r}")
    out = Path(out)
    images = source_of(source, without=out)
    if isinstance(model, nn.Module):
        loader: Any = model
        module = model
        device = str(next(iter((*model.parameters(), *model.buffers())), torch.empty(0)).device)
    else:
        loader = partial(load_model, model, **(model_options or {}))
        module = loader().to(device)
    listed: list[Any] = list(methods) if isinstance(methods, list | tuple) else [methods]
    ready = [with_layers(one, partial(path_of, module)) for one in load_methods(listed, params)]
    preprocessing = preprocessing_of(module)
    shape = _shape(images, preprocessing)
    at_once = batch_size or _batch_size(module, shape)
    size = shard_size or _shard_size(shape, len(ready), at_once)
    with tempfile.TemporaryFile() as file:
        items = write_items(images.entries(), file, size, limit)
        plan = Plan(
            items=items,
            model=described_model(module),
            methods=described_methods(ready),
            target=_target(target, module),
            seed=seed,
            library=library_versions(module, map(method_name, ready)),
            device=torch.device(device).type,
            dtype=dtype,
            batch_size=at_once,
            threads=threads or max(torch.get_num_threads() // workers, 1),
            shard_size=size,
            inputs=not images.lasting,
            source=images.record(),
            preprocessing=preprocessing.to_dict(),
            command=command,
        )
        job = Job(out, plan, images, loader, ready, device)
        fixed = {"batch_size": batch_size, "shard_size": shard_size, "threads": threads}
        given = {name: value for name, value in fixed.items() if value is not None}
        yield PlannedJob(job, module, file, given)


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
        retry_failed: bool = False,
        overwrite: bool = False,
    ) -> dict[int, str]:
        """Computes what is missing of a share; returns why shards could not be computed.

        Args:
            share: The part of the shards.
            workers: Processes.
            stop: Whether to stop.
            done: Called for each shard with its report, and whether it was done before.
            retry_failed: Compute shards with failed images again.
            overwrite: Replace a store of another call.

        Raises:
            StorageError: The store is of another call, or can't be written, or is in use.
        """
        out = self.job.store
        try:
            if out.exists() and not (out / PLAN).exists() and _foreign(out):
                raise StorageError(
                    f"expected an empty folder or a store, got {out} with other files"
                )
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"can't write {out}: {reason(error)}") from error
        if overwrite and share.count > 1:
            raise InputError("overwrite: expected one process for all shards, got a share of them")
        with owning(out, share):
            with locked(out / ".plan.lock", wait=True):
                plan = self._settled(overwrite)
            (out / SHARDS).mkdir(exist_ok=True)
            remove_drafts(out / SHARDS, lambda _name: True)
            # one worker is this process, which has loaded the model
            model = self.module if workers == 1 else self.job.model
            job = dataclasses.replace(self.job, plan=plan, model=model)
            left = []
            store = Store(out)
            for number in share.shards(job.plan.shards):
                report = _finished(store, number)
                if report is None or (retry_failed and report.failed):
                    left.append(number)
                else:
                    done(report, True)
            return run_local(job, left, workers, lambda report: done(report, False), stop)

    def forecast(self) -> Forecast:
        """Items, shards, and the bytes and seconds that a first batch lets expect."""
        plan = self.job.plan
        worker = self._worker()
        first = next(self._readable(worker), None)
        if first is None:
            return Forecast(plan.items.count, plan.shards, None, None)
        with computing(plan.threads):
            worker.explained([first])  # what runs once
            begin = time.perf_counter()
            found = worker.explained([first] * plan.batch_size)
            seconds = (time.perf_counter() - begin) / plan.batch_size
        each = 2 if plan.dtype == "float16" else 4
        size = sum(one.attribution[0].numel() * each + one.logits[0].numel() * 4 for one in found)
        size += first.numel() * 4 * plan.inputs + RECORD_BYTES
        count = plan.items.count
        return Forecast(count, plan.shards, size * count, seconds * count)

    def _settled(self, overwrite: bool) -> Plan:
        """The plan of the store, which is made if there is none.

        Raises:
            StorageError: The store has another plan.
        """
        out, plan = self.job.store, self.job.plan
        if (out / PLAN).exists():
            before = Plan.load(out)
            found = before.differences(plan) + [
                f"{name}: {getattr(before, name)} in the store, {value} now"
                for name, value in self.given.items()
                if getattr(before, name) != value
            ]
            if not found:
                return before
            if not overwrite:
                raise StorageError(
                    f"{out} is of another call: {'; '.join(found)}: choose another folder, or "
                    "overwrite it"
                )
        self._try_first()
        try:
            # the plan goes first: without it, nothing in the folder counts
            (out / PLAN).unlink(missing_ok=True)
            if (out / SHARDS).exists():
                shutil.rmtree(out / SHARDS)
            self.file.seek(0)
            with replacing(out / ITEMS) as file:
                shutil.copyfileobj(self.file, file)
            plan.save(out)
        except OSError as error:
            raise StorageError(f"can't write {out}: {reason(error)}") from error
        return plan

    def _try_first(self) -> None:
        """Explains an image, so that what fails for all of them is an error before the job."""
        worker = self._worker()
        failures: list[Exception] = []
        with computing(self.job.plan.threads):
            for value in islice(self._readable(worker), TRIED_IN_VAIN):
                try:
                    worker.explained([value])
                except Exception as error:  # noqa: BLE001 - a model may raise anything
                    failures.append(error)
                else:
                    return
        if failures:
            raise failures[0]

    def _worker(self) -> Worker:
        return Worker(dataclasses.replace(self.job, model=self.module))

    def _readable(self, worker: Worker) -> Iterator[Tensor]:
        """Those of the first images that can be read, as the model takes them."""
        self.file.seek(0)
        for item in ids_in(self.file.read(self.job.plan.items.offsets[1]))[:TRIED]:
            _, [value] = worker.load([item])
            if value is not None:
                yield value


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
    return any(not (one.name.startswith(".") or one.name == ITEMS) for one in folder.iterdir())


def _target(target: object, module: nn.Module) -> int | str | None:
    """A target as the plan records it."""
    if isinstance(target, Expression):
        return str(target)
    if target is None or (isinstance(target, int | str) and not isinstance(target, bool)):
        parse_target(target, outputs_of(module).class_names, 1)
        return target
    raise TargetError(
        "expected one target for all images: a class by number or name, an expression or its text, "
        f"or None for the predicted class, got {type(target).__name__}"
    )


def _shape(source: Source, preprocessing: Preprocessing) -> tuple[int, ...] | None:
    """The shape of an input; None if inputs have different sizes."""
    if not source.lasting and (first := next(source.entries(), None)) is not None:
        value = source.read(first[0]).value
        if isinstance(value, Tensor):
            return tuple(value.shape)
    blanks = [Image.new("RGB", size) for size in ((50, 70), (90, 40))]
    shapes = {tuple(preprocessing(blank)[0].shape) for blank in blanks}
    return shapes.pop() if len(shapes) == 1 else None


def _batch_size(module: nn.Module, shape: tuple[int, ...] | None) -> int:
    """As many images at once as fit a memory budget; 1 where their sizes differ."""
    if shape is None:
        return 1
    tensors = (*module.parameters(), *module.buffers())
    like = next((one for one in tensors if one.is_floating_point()), torch.empty(0))
    image = torch.zeros(shape, dtype=like.dtype, device=like.device)
    with (
        preserve_process(0),
        preserve_model(module),
        failing_as_model_error(module, image[None]),
    ):
        return chunk_size(module, image)


def _shard_size(shape: tuple[int, ...] | None, methods: int, batch_size: int) -> int:
    """A number of whole batches that keeps a shard within `SHARD_BYTES`."""
    each = 4 * math.prod(shape or (3, 512, 512)) * (1 + methods)
    fitting = min(max(SHARD_BYTES // each, 1), SHARD_SIZE)
    return max(fitting // batch_size, 1) * batch_size
