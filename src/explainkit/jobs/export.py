"""Exports a store, a shard at a time: arrays for NumPy, tables for pandas, images to look at."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from explainkit.errors import StorageError
from explainkit.files import reason, replacing, write_file
from explainkit.jobs.shards import Item, Stored, check_tensors
from explainkit.jobs.store import Store
from explainkit.render.overlays import save_overlay

Kind = Literal["npz", "parquet", "png"]

FAILURES = "failures.json"


def export(store: Store, to: Kind, out: str | Path) -> list[Path]:
    """Writes what a store has in another format; never more than a shard is in memory.

    Args:
        store: A whole store; its job may still run.
        to: ``"npz"``: a file for each shard, or for each size of images in it, with ``id``,
            ``target``, ``score``, ``logits`` and a map ``[n, channel, height, width]`` for each
            method. ``"parquet"``: one table with a row for each image and flat maps with their
            shapes, a row group for each shard. ``"png"``: each map over its image.
        out: The folder; it is created.

    Returns:
        The files. Images without maps are listed in ``failures.json``.

    Raises:
        StorageError: A file can't be written, a shard is damaged, or pyarrow is missing.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images = {f"image {i}": torch.rand(1, 4, 4) for i in range(10)}
        >>> store = ek.batch(images, net, "saliency", tempfile.mkdtemp())
        >>> [path] = export(store, "npz", tempfile.mkdtemp())
        >>> arrays = np.load(path)
        >>> arrays["explainkit/saliency"].shape, arrays["id"][0].item()
        ((10, 1, 4, 4), 'image 0')
    """
    writers: dict[str, Callable[[Store, Path], Iterator[Path]]] = {
        "npz": _npz, "parquet": _parquet, "png": _png,
    }  # fmt: skip
    if to not in writers:
        raise StorageError(f"expected {', '.join(writers)}, got {to!r}")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = list(writers[to](store, folder))
    except OSError as error:
        raise StorageError(f"can't write {folder}: {reason(error)}") from error
    failures = [
        {"id": item.id, "status": item.status, "reason": item.reason}
        for item in store.progress().failures
    ]
    if failures:
        text = json.dumps(failures, indent=1).encode()
        found.append(write_file(folder / FAILURES, text, StorageError))
    return found


def _done(store: Store) -> Iterator[tuple[int, Stored]]:
    """The shards that are done, checked."""
    for number in range(store.plan.shards):
        if (shard := store.shard(number)) is not None:
            check_tensors(shard)
            yield number, shard


def _npz(store: Store, folder: Path) -> Iterator[Path]:
    for number, shard in _done(store):
        for group, (items, methods) in enumerate(shard.groups()):
            arrays = {
                "id": np.array([item.id for item in items]),
                "target": methods[0]["target"].numpy(),
                "score": _array(methods[0]["score"]),
                "logits": _array(methods[0]["logits"]),
            }
            arrays |= {one["method"]: _array(one["attribution"]) for one in methods}
            path = folder / f"part-{number:05d}{f'-{group}' if group else ''}.npz"
            with replacing(path) as file:
                np.savez(file, **arrays)
            yield path


def _parquet(store: Store, folder: Path) -> Iterator[Path]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise StorageError("expected pyarrow, for parquet: pip install pyarrow") from error
    fields = [("id", pa.string()), ("target", pa.int64()), ("score", pa.float32())]
    fields += [("predicted", pa.int64()), ("confidence", pa.float32())]
    fields += [("logits", pa.list_(pa.float32()))]
    for method in store.methods:
        fields += [(method, pa.list_(pa.float32())), (f"{method} shape", pa.list_(pa.int32()))]
    schema = pa.schema(fields)
    path = folder / "maps.parquet"
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for _, shard in _done(store):
            rows = [row for items, methods in shard.groups() for row in _rows(items, methods)]
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
    yield path


def _rows(items: list[Item], methods: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row of the table for each image."""
    for row, item in enumerate(items):
        found: dict[str, Any] = {
            name: getattr(item, name)
            for name in ("id", "target", "score", "predicted", "confidence")
        }
        found["logits"] = _array(methods[0]["logits"][row])
        for one in methods:
            values = _array(one["attribution"][row])
            found[one["method"]] = values.reshape(-1)
            found[f"{one['method']} shape"] = list(values.shape)
        yield found


def _png(store: Store, folder: Path) -> Iterator[Path]:
    for number, shard in _done(store):
        for row, item in enumerate(shard.items, number * store.plan.shard_size):
            if item.status != "ok":
                continue
            name = "".join(c if c.isalnum() else "_" for c in Path(item.id).stem)[-40:]
            for one in store.explanations(row):
                method = one.method.rpartition("/")[2]
                yield save_overlay(one, folder / f"{row:08d}_{name}_{method}.png")


def _array(values: Any) -> "np.ndarray[Any, Any]":
    """A tensor as an array of a dtype that NumPy has."""
    found: np.ndarray[Any, Any] = values.float().numpy()
    return found
