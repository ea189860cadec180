"""A store as a data set of the Hugging Face hub: images, maps and a card, in Parquet."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from explainkit.adapters.decoding import read_bytes
from explainkit.errors import StorageError
from explainkit.files import replacing, write_file
from explainkit.jobs.columns import array, done, facts, needed, row_of
from explainkit.jobs.outcomes import Item
from explainkit.jobs.store import Store
from explainkit.render.shown_image import shown_images, to_bytes

LARGEST = 256 << 20
"""Bytes after which another file begins."""

ARRAY = "datasets.features.features.Array3DExtensionType"
"""What `datasets` calls the type of an array in the files that it writes."""

CARD = """---
configs:
- config_name: default
  data_files:
  - split: maps
    path: data/*.parquet
tags:
- explainability
- saliency
---

# Saliency maps of {model}

{count:,} images with maps by {methods}, computed with explainkit {version}.
`target` is the explained class, `score` its score, `logits` the model's outputs. The images keep
the license of their source.

```python
from datasets import load_dataset

maps = load_dataset("path/to/this/folder", split="maps").with_format("numpy")
```

What was computed, and the hashes of the weights and the list of images:

```json
{facts}
```
"""


def hub(store: Store, folder: Path) -> Iterator[Path]:
    """Writes a folder for `datasets.load_dataset`, with features: images, classes, and arrays."""
    pa, pq = needed("pyarrow", "hf"), needed("pyarrow.parquet", "hf")
    schema = _schema(store, pa)
    shards = done(store)
    data = folder / "data"
    data.mkdir()
    count = number = 0
    rest = next(shards, None)
    while rest is not None:
        path = data / f"maps-{number:05d}.parquet"
        with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while rest is not None and file.tell() < LARGEST:
                begin = rest[0] * store.plan.shard_size
                rows = list(_rows(store, begin, rest[1]))
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                count += len(rows)
                rest = next(shards, None)
        number += 1
        yield path
    plan = store.plan
    text = CARD.format(
        model=plan.model["name"],
        count=count,
        methods=", ".join(store.methods),
        version=plan.library["explainkit"],
        facts=json.dumps(facts(store), indent=1),
    )
    yield write_file(folder / "README.md", text.encode(), StorageError)


def _schema(store: Store, pa: Any) -> Any:
    """Columns and their features, which `datasets` reads from the metadata of the files."""
    names = store.class_names
    whole, real, text = (
        {"dtype": dtype, "_type": "Value"} for dtype in ("int64", "float32", "string")
    )
    unique = names and len(set(names)) == len(names)
    labels = {"names": list(names), "_type": "ClassLabel"} if unique else whole
    floats = pa.list_(pa.float32())
    columns = [
        ("id", pa.string(), text),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
        ("target", pa.int64(), labels),
        ("score", pa.float32(), real),
        ("predicted", pa.int64(), labels),
        ("confidence", pa.float32(), real),
        ("logits", floats, _listed(real)),
    ]
    known: dict[str, dict[str, str]] = {}
    for method, shapes in _shapes(store).items():
        # one shape is an array, several are lists of rows
        feature = _listed(_listed(_listed(real)))
        if len(shapes) == 1:
            [shape] = shapes
            feature = {"shape": list(shape), "dtype": "float32", "_type": "Array3D"}
            known[method] = {
                "ARROW:extension:name": ARRAY,
                "ARROW:extension:metadata": json.dumps([list(shape), "float32"]),
            }
        columns.append((method, pa.list_(pa.list_(floats)), feature))
        if store.plan.scorecard:
            columns.append((f"{method} verdict", pa.string(), text))
    features = json.dumps({"info": {"features": {name: one for name, _, one in columns}}})
    fields = [pa.field(name, kind, metadata=known.get(name)) for name, kind, _ in columns]
    return pa.schema(fields, metadata={"huggingface": features})


def _listed(feature: dict[str, Any]) -> dict[str, Any]:
    return {"feature": feature, "_type": "List"}


def _shapes(store: Store) -> dict[str, set[tuple[int, ...]]]:
    """The shapes of each method's maps."""
    found: dict[str, set[tuple[int, ...]]] = {method: set() for method in store.methods}
    for _, shard in done(store):
        for shapes in shard.shapes():
            for method, shape in zip(store.methods, shapes, strict=True):
                found[method].add(shape)
    return found


def _rows(store: Store, begin: int, shard: Any) -> Iterator[dict[str, Any]]:
    """A row for each image of a shard that has maps."""
    positions = {item.id: begin + row for row, item in enumerate(shard.items)}
    for items, maps in shard.groups():
        for row, item in enumerate(items):
            found = row_of(item, row, maps)
            found["image"] = {"bytes": _image(store, item, positions[item.id]), "path": item.id}
            for name, one in maps.items():
                found[name] = array(one["attribution"][row]).tolist()
            yield found


def _image(store: Store, item: Item, position: int) -> bytes:
    """The bytes of an image: those of its file, or a PNG of an image without one.

    Raises:
        StorageError: The file was changed since.
    """
    if (path := store.image_path(item)) is not None:
        data = read_bytes(Path(path), StorageError)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise StorageError(f"{path} was changed since it was explained: its sha256 differs")
        return data
    [one, *_] = store.explanations(position)
    pixels = one.originals[0] if one.originals else to_bytes(shown_images(one)[0].pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
