"""A store as a table in Parquet: a row for each image, a row group for each shard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from explainkit.files import replacing
from explainkit.jobs.columns import Fields, array, done, needed
from explainkit.jobs.outcomes import Item
from explainkit.jobs.store import Store


def parquet(store: Store, folder: Path) -> Iterator[Path]:
    """Writes the table; maps are flat lists, with their shapes in another column."""
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
            rows = [row for items, maps in shard.groups() for row in _rows(items, maps)]
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
    yield path


def _rows(items: list[Item], maps: Fields) -> Iterator[dict[str, Any]]:
    """A row of the table for each image."""
    for row, item in enumerate(items):
        found = row_of(item, row, maps)
        for name, one in maps.items():
            values = array(one["attribution"][row])
            found[name] = values.reshape(-1)
            found[f"{name} shape"] = list(values.shape)
        yield found


def row_of(item: Item, row: int, maps: Fields) -> dict[str, Any]:
    """What a row has besides maps."""
    found: dict[str, Any] = {
        name: getattr(item, name) for name in ("id", "target", "score", "predicted", "confidence")
    }
    found["logits"] = array(next(iter(maps.values()))["logits"][row])
    for name, card in zip(maps, item.judged, strict=False):
        found[f"{name} verdict"] = card.verdict
    return found
