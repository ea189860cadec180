"""Exports a store, a shard at a time: arrays, tables, data sets, and images to look at."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from explainkit.errors import StorageError
from explainkit.files import locked, reason, replacing, write_file
from explainkit.jobs.columns import Fields, array, columns, done, facts, needed, row_of
from explainkit.jobs.hub import hub
from explainkit.jobs.outcomes import Item
from explainkit.jobs.plan import map_name
from explainkit.jobs.store import Store
from explainkit.render.overlays import save_overlay

Kind = Literal["npz", "parquet", "zarr", "hf", "png"]

FAILURES = "failures.json"


def export(store: Store, to: Kind, out: str | Path) -> list[Path]:
    """Writes what a store has in another format; never more than a shard is in memory.

    Everything is written next to the folder and renamed when it is complete, so that a half-written
    export never stands under its name.

    Args:
        store: A whole store; its job may still run.
        to: ``"npz"``: a file for each shard, or for each size of images in it, with ``id``,
            ``target``, ``score``, ``predicted``, ``confidence``, ``logits``, and for each of
            `Store.methods` a map ``[n, channel, height, width]`` and a verdict, if there are
            scorecards.
            ``"zarr"``: the same arrays for all images, in a group for each size of maps, such as
            ``56x56``. ``"parquet"``: one table with a row for each image and flat maps with their
            shapes, a row group for each shard. ``"hf"``: a folder that ``datasets.load_dataset``
            takes, with the images and a data set card. ``"png"``: each map over its image.
        out: A new or empty folder.

    Returns:
        The files. Images without maps are listed in ``failures.json``.

    Raises:
        StorageError: A file can't be written, the folder has other files, a shard is damaged, or a
            package is missing: pyarrow for parquet and hf, zarr for zarr.

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
        "npz": _npz, "parquet": _parquet, "zarr": _zarr, "hf": hub, "png": _png,
    }  # fmt: skip
    if to not in writers:
        raise StorageError(f"expected {', '.join(writers)}, got {to!r}")
    folder = Path(out).resolve()
    draft = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock"), wait=False):
            if folder.exists() and any(folder.iterdir()):
                raise StorageError(f"expected a new or empty folder, got {folder} with files")
            shutil.rmtree(draft, ignore_errors=True)  # what a killed export has left
            draft.mkdir()
            try:
                found = [*writers[to](store, draft), *_failures(store, draft)]
                if folder.exists():
                    folder.rmdir()
                draft.rename(folder)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
    except BlockingIOError as error:
        raise StorageError(f"another export is writing {folder}: wait until it ends") from error
    except OSError as error:
        raise StorageError(f"can't write {folder}: {reason(error)}") from error
    return [folder / path.relative_to(draft) for path in found]


def _failures(store: Store, folder: Path) -> Iterator[Path]:
    """The list of images without maps, if there are any."""
    failures = [
        {"id": item.id, "status": item.status, "reason": item.reason}
        for item in store.progress().failures
    ]
    if failures:
        text = json.dumps(failures, indent=1).encode()
        yield write_file(folder / FAILURES, text, StorageError)


def _npz(store: Store, folder: Path) -> Iterator[Path]:
    for number, shard in done(store):
        for group, (items, maps) in enumerate(shard.groups()):
            path = folder / f"part-{number:05d}{f'-{group}' if group else ''}.npz"
            with replacing(path) as file:
                np.savez(file, **cast(dict[str, Any], columns(items, maps)))
            yield path


def _parquet(store: Store, folder: Path) -> Iterator[Path]:
    """A row for each image, a row group for each shard; maps are flat lists beside their shapes."""
    pa, pq = needed("pyarrow", "parquet"), needed("pyarrow.parquet", "parquet")
    fields = [("id", pa.string()), ("target", pa.int64()), ("score", pa.float32())]
    fields += [("predicted", pa.int64()), ("confidence", pa.float32())]
    fields += [("logits", pa.list_(pa.float32()))]
    for method in store.methods:
        fields += [(method, pa.list_(pa.float32())), (f"{method} shape", pa.list_(pa.int32()))]
        fields += [(f"{method} verdict", pa.string())] if store.plan.scorecard else []
    schema = pa.schema(fields)
    path = folder / "maps.parquet"
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for _, shard in done(store):
            rows = [row for items, maps in shard.groups() for row in _flat_rows(items, maps)]
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
    yield path


def _flat_rows(items: list[Item], maps: Fields) -> Iterator[dict[str, Any]]:
    for row, item in enumerate(items):
        found = row_of(item, row, maps)
        for name, one in maps.items():
            values = array(one["attribution"][row])
            found[name] = values.reshape(-1)
            found[f"{name} shape"] = list(values.shape)
        yield found


CHUNK = 16 << 20
"""About the bytes of a chunk of maps in Zarr."""


def _zarr(store: Store, folder: Path) -> Iterator[Path]:
    path = folder / "maps.zarr"
    root = needed("zarr", "zarr").open_group(path, mode="w", zarr_format=3)
    root.attrs["explainkit"] = facts(store)
    for _, shard in done(store):
        for items, maps in shard.groups():
            height, width = next(iter(maps.values()))["attribution"].shape[2:]
            group = root.require_group(f"{height}x{width}")
            for name, values in columns(items, maps).items():
                if name not in group:
                    rows = max(CHUNK // max(values[0].nbytes, 1), 1)
                    group.create_array(
                        name,
                        shape=(0, *values.shape[1:]),
                        chunks=(min(rows, store.plan.shard_size), *values.shape[1:]),
                        dtype=str if values.dtype.kind == "U" else values.dtype,
                    )
                column: Any = group[name]
                column.append(values.astype(object) if values.dtype.kind == "U" else values)
    yield path


def _png(store: Store, folder: Path) -> Iterator[Path]:
    for number, shard in done(store):
        for row, item in enumerate(shard.items, number * store.plan.shard_size):
            if item.status != "ok":
                continue
            name = "".join(c if c.isalnum() else "_" for c in Path(item.id).stem)[-40:]
            for one in store.explanations(row):
                ending = map_name(one.method, one.input).rpartition("/")[2].replace(" ", "_")
                yield save_overlay(one, folder / f"{row:08d}_{name}_{ending}.png")
