"""``ek.batch``: from a source, a model and methods to a store, planned and resumed."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from explainkit.adapters.geometry import Size
from explainkit.catalog.factories import AnyMethod, load_methods, method_name
from explainkit.catalog.models import load_model
from explainkit.engine.precision import Precision
from explainkit.engine.record import outputs_of
from explainkit.engine.several_inputs import Which
from explainkit.engine.targets import parse_target
from explainkit.errors import InputError, StorageError, TargetError
from explainkit.expressions import Expression
from explainkit.jobs.defaults import (
    default_batch_size,
    default_shard_size,
    first_inputs,
    input_shape,
)
from explainkit.jobs.inputs import explained_of
from explainkit.jobs.items import write_items
from explainkit.jobs.opening import Data, source_of
from explainkit.jobs.plan import (
    Plan,
    described_methods,
    described_model,
    library_versions,
    preprocessing_for,
)
from explainkit.jobs.planned import Engine, PlannedJob
from explainkit.jobs.pool import Stop
from explainkit.jobs.shares import share_of
from explainkit.jobs.store import Store
from explainkit.jobs.worker import Job
from explainkit.layers import floating_tensor

Dtype = Literal["float32", "float16"]


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
    engine: Engine = "local",
    ray_address: str | None = None,
    shard: str | None = None,
    dtype: Dtype = "float32",
    map_size: int | Size | None = None,
    scorecard: bool = False,
    wrt: Which = None,
    device: str = "cpu",
    batch_size: int | None = None,
    precision: Precision | None = None,
    shard_size: int | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    **params: Any,
) -> Store:
    """Explains all images of a data set, in shards that survive any interruption.

    Repeat the call to resume where it ended. A shard is written when it is complete, so an
    interruption loses at most the current shards, and a resumed store is bit for bit that of an
    uninterrupted run on the same kind of machine. An image that can't be read, or on which a
    method or the model fails, gets a status and a reason, and does not stop the job.

    Args:
        source: A folder of images, searched with its subfolders; a text file with one path per
            line; a zip file; a mapping of ids to images, or pairs of both; or a data set of
            ``(image, label)``. Images are paths, Pillow images, uint8 arrays, or tensors
            ``[channel, height, width]`` as the model takes them; for a model of several inputs,
            dicts or tuples of tensors without a batch axis.
        model: A name that `load_model` takes, or a module.
        methods: A method or a list of them, as `explain` takes them.
        out: The folder of the store.
        target: A class by number or name, or an expression or its text; None: the predicted class.
        seed: Random seed, as in `explain`.
        limit: Use only this many ids, the first when sorted.
        workers: Number of processes, each of which loads the model. A script that uses several
            needs ``if __name__ == "__main__":``, as always with `multiprocessing`.
        engine: ``"local"``: workers are processes of this machine. ``"ray"``: they are actors of a
            Ray cluster whose machines share the store's folder, paths and packages; each takes as
            many CPUs as it has threads, and a GPU if ``device`` is one. Needs
            ``pip install 'explainkit-vision[ray]'``.
        ray_address: A running cluster, such as ``"auto"`` or ``"10.0.0.1:6379"``. None: the one
            that this process is connected to, or else one that is started on this machine for the
            job, without a dashboard and out of reach of the network.
        shard: ``"i/n"``: only every n-th shard from the i-th on, i from 0 to n - 1; n processes on
            any machines share a store in this way. None: from ``RANK`` and ``WORLD_SIZE``, or
            ``SLURM_ARRAY_TASK_ID`` and ``SLURM_ARRAY_TASK_COUNT``, or everything.
        dtype: How maps are stored. ``"float16"`` divides each map by its largest absolute value:
            half the bytes, and errors below 2⁻¹¹ of that value.
        map_size: Maximum rows and columns of a stored map, or one number for both: a larger map
            is reduced to means over equal rectangles, so that values keep their unit.
        scorecard: Also test whether each map predicts what hiding parts of its image does, as
            `Explanation.scorecard` does. Verdicts are filtered by `Store.where`.
        wrt: Of several inputs, those to explain, as in `explain`; the store has the maps of each.
        device: Where a named model runs; a module stays where it is.
        batch_size: Images run at once, a smaller number is padded. None: as many as fit a memory
            budget, if the model takes images of one size, or else 1.
        precision: ``"bfloat16"`` for the forwards of methods that only run the model, as in
            `explain`.
        shard_size: Images per shard.
        threads: Threads of a worker; None: those of this process divided by the workers.
        retry_failed: Compute shards with failed images again.
        overwrite: Replace a store written by another call.
        **params: The methods' fields; each method takes those that it has.

    Returns:
        The store, for reading.

    Raises:
        DatasetError: The source has no images, or an id twice.
        StorageError: The store belongs to another call, is in use or can't be written, or shards
            could not be computed.
        ExplainkitError: The model or a method does not work on the first image.
        KeyboardInterrupt: After Ctrl-C, when the current shards are written.

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
            dtype=dtype, map_size=map_size, scorecard=scorecard, wrt=wrt, device=device,
            batch_size=batch_size, precision=precision, shard_size=shard_size, threads=threads,
            **params,
        ) as plan,
        Stop(lambda _text: None) as stop,
    ):  # fmt: skip
        undone = plan.run(
            share, workers, stop, engine=engine, ray_address=ray_address,
            retry_failed=retry_failed, overwrite=overwrite,
        )  # fmt: skip
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
    map_size: int | Size | None = None,
    scorecard: bool = False,
    wrt: Which = None,
    device: str = "cpu",
    batch_size: int | None = None,
    precision: Precision | None = None,
    shard_size: int | None = None,
    threads: int | None = None,
    model_options: Mapping[str, Any] | None = None,
    command: str = "",
    **params: Any,
) -> Iterator[PlannedJob]:
    """The job that `batch` runs, with its arguments; the list of its items exists in the block.

    A named model is loaded with ``model_options``; ``command`` is the command line that resumes
    the job.
    """
    rows, columns = (map_size, map_size) if isinstance(map_size, int) else map_size or (None, None)
    for name, value in (
        ("workers", workers), ("limit", limit), ("batch_size", batch_size),
        ("shard_size", shard_size), ("threads", threads), ("map_size", rows), ("map_size", columns),
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
        device = str(floating_tensor(model).device)
    else:
        loader = partial(load_model, model, **(model_options or {}))
        module = loader().to(device)
    ready = load_methods(methods, params, module)
    first = first_inputs(images)
    explained = explained_of(first, module, wrt)
    preprocessing = preprocessing_for(module, explained)
    if explained and scorecard:
        raise InputError("scorecard: expected items that are images, got several inputs")
    shape = input_shape(first, preprocessing)
    at_once = batch_size or default_batch_size(module, shape)
    size = shard_size or default_shard_size(shape, len(ready) * max(len(explained), 1), at_once)
    with tempfile.TemporaryFile() as file:
        items = write_items(images.entries(), file, size, limit)
        plan = Plan(
            items=items,
            model=described_model(module, explained),
            methods=described_methods(ready),
            target=_target(target, module),
            seed=seed,
            library=library_versions(module, map(method_name, ready)),
            device=torch.device(device).type,
            dtype=dtype,
            batch_size=at_once,
            precision=precision,
            threads=threads or max(torch.get_num_threads() // workers, 1),
            shard_size=size,
            inputs=not images.lasting,
            source=images.record(),
            preprocessing=preprocessing.to_dict(),
            command=command,
            map_size=None if rows is None or columns is None else (rows, columns),
            scorecard=scorecard,
            explained=explained,
        )
        job = Job(out, plan, images, loader, ready, device)
        fixed = {"batch_size": batch_size, "shard_size": shard_size, "threads": threads}
        given = {name: value for name, value in fixed.items() if value is not None}
        yield PlannedJob(job, module, file, given)


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
