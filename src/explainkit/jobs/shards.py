"""A shard of results as two files: tensors, then the record that makes them count.

``part-00012.safetensors`` is written first, then ``part-00012.json`` with its hash, each under
another name, flushed to the disk and renamed. A shard is done if and only if its record exists and
the hash of its tensors matches, so a process that is killed at any moment leaves nothing that could
be taken for a result.
"""

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from explainkit.adapters.geometry import Size
from explainkit.errors import StorageError
from explainkit.files import reason, write_atomically
from explainkit.jobs.outcomes import Item
from explainkit.jobs.plan import load_sealed, map_name, sealed
from explainkit.jobs.reduction import reduced
from explainkit.results.explanation import Explanation
from explainkit.results.storage import from_json, to_json

SHARDS = "shards"

LEFT_OUT = frozenset(
    {"inputs", "originals", "geometries", "names", "mean", "std", "versions", "receipt"}
)
"""Fields of an explanation that are the images' own, or the plan's."""


@dataclass(frozen=True)
class Shard:
    """The results of consecutive items.

    Attributes:
        number: Its position in the plan.
        items: One for each of its ids, in order.
        groups: For each group of images of one size, one explanation per method, of several inputs
            one for each of them.
        facts: How it was computed: seconds, device, host.
    """

    number: int
    items: Sequence[Item]
    groups: Sequence[Sequence[Explanation]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def shard_name(number: int) -> str:
    """The name of a shard's files, without their ending."""
    return f"part-{number:05d}"


def write_shard(
    store: Path,
    shard: Shard,
    plan_hash: str,
    *,
    half: bool = False,
    inputs: bool = False,
    size: Size | None = None,
) -> None:
    """Writes a shard so that it is either done or does not count.

    Args:
        store: The folder of the store.
        shard: The results.
        plan_hash: Of the plan that it belongs to.
        half: Store maps as float16, each divided by its largest absolute value.
        inputs: Store the inputs, too.
        size: The most rows and columns of a map; None: all.

    Raises:
        StorageError: It can't be written.
    """
    tensors: dict[str, Tensor] = {}
    groups = []
    for found in shard.groups:
        parts = len({one.input for one in found}) if inputs else 0
        own = [to_json("inputs", one.inputs, tensors) for one in found[:parts]]
        small = [one if size is None else reduced(one, size) for one in found]
        methods = [_packed(one, tensors, half) for one in small]
        groups.append({"inputs": own, "methods": methods})
    data = save_tensors(tensors)
    record = {
        "schema_version": 1,
        "plan": plan_hash,
        "number": shard.number,
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
        "items": [dataclasses.asdict(item) for item in shard.items],
        "groups": groups,
        "facts": dict(shard.facts),
    }
    text = json.dumps(sealed(record), allow_nan=False).encode()
    folder = store / SHARDS
    name = shard_name(shard.number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{name}.safetensors", data)
        _flush(folder)  # a record must not survive a power failure that its tensors don't
        write_atomically(folder / f"{name}.json", text)
        _flush(folder)
    except OSError as error:
        raise StorageError(f"can't write {folder / name}: {reason(error)}") from error


@dataclass(frozen=True)
class Stored:
    """A shard that is done, read from its files: the record at once, tensors row by row.

    Attributes:
        record: Its content, checked against its own hash.
        path: Of the tensors.
        items: One for each id.
    """

    record: Mapping[str, Any]
    path: Path
    items: Sequence[Item]

    def explanations(
        self, row: int, images: Callable[[Item, Tensor | None], dict[str, Any]]
    ) -> list[Explanation]:
        """The explanations of one item, one for each method.

        Args:
            row: Its position in the shard.
            images: From the item and its stored input, if there is one, to the explanation's
                fields that are left out.
        """
        item = self.items[row]
        group = self.record["groups"][item.group]
        with safe_open(self.path, "pt") as file:
            rows = self._rows(file, item)
            own = [from_json(one, rows) for one in group["inputs"]] or [None]
            fields = [images(item, one) for one in own]
            return [
                Explanation(**fields[i % len(fields)], **_unpacked(from_json(record, rows)))
                for i, record in enumerate(group["methods"])
            ]

    def input(self, row: int) -> Tensor | None:
        """The stored input of one item ``[1, channel, height, width]``, or None.

        Args:
            row: Its position in the shard.
        """
        item = self.items[row]
        inputs = self.record["groups"][item.group]["inputs"]
        if not inputs:
            return None
        with safe_open(self.path, "pt") as file:
            found: Tensor = from_json(inputs[0], self._rows(file, item))
            return found

    def _rows(self, file: Any, item: Item) -> "_Rows":
        """The tensors of an open file, cut to one item."""
        count = sum(one.status == "ok" and one.group == item.group for one in self.items)
        return _Rows(file, item.row, count)

    def shapes(self) -> Iterator[list[tuple[int, ...]]]:
        """For each group of images of one size, the shape of each method's map of one image."""
        with safe_open(self.path, "pt") as file:
            for group in self.record["groups"]:
                keys = [one["attribution"]["$tensor"] for one in group["methods"]]
                yield [tuple(file.get_slice(key).get_shape()[1:]) for key in keys]

    def groups(self) -> Iterator[tuple[list[Item], dict[str, dict[str, Any]]]]:
        """For each group of images of one size, its items and the fields of all maps by name."""
        with safe_open(self.path, "pt") as file:
            for number, group in enumerate(self.record["groups"]):
                items = [one for one in self.items if one.status == "ok" and one.group == number]
                fields = [_unpacked(from_json(one, _Rows(file))) for one in group["methods"]]
                yield items, {map_name(one["method"], one["input"]): one for one in fields}


class _Rows(Mapping[str, Tensor]):
    """The tensors of an open file, cut to one image where they have a row for each.

    Args:
        file: The file.
        row: Of the image; None: tensors are whole.
        count: The number of images.
    """

    def __init__(self, file: Any, row: int | None = None, count: int = 0) -> None:
        self.file, self.row, self.count = file, row, count

    def __getitem__(self, key: str) -> Tensor:
        if self.row is not None:
            part = self.file.get_slice(key)
            shape = part.get_shape()
            if shape and shape[0] == self.count:
                found: Tensor = part[self.row : self.row + 1]
                return found
        whole: Tensor = self.file.get_tensor(key)
        return whole

    def __iter__(self) -> Any:
        return iter(self.file.keys())

    def __len__(self) -> int:
        return len(self.file.keys())


def read_shard(store: Path, number: int, plan_hash: str, size: int) -> Stored | None:
    """A shard whose record exists; its tensors are not hashed.

    Raises:
        StorageError: The record was changed, or is of another plan.
    """
    path = store / SHARDS / f"{shard_name(number)}.json"
    if not path.exists():
        return None
    record = load_sealed(path, "shard")
    try:
        if (record["plan"], record["number"]) != (plan_hash, number):
            raise StorageError(f"{path} belongs to another plan")
        items = tuple(Item.from_dict(item) for item in record["items"])
        if len(items) != size:
            raise StorageError(f"{path}: expected {size} items, got {len(items)}")
    except (KeyError, TypeError) as error:
        raise StorageError(f"{path} is not a shard, or was changed: {error}") from error
    return Stored(record, path.with_suffix(".safetensors"), items)


def check_tensors(shard: Stored) -> None:
    """Hashes the tensors of a shard, a block at a time.

    Raises:
        StorageError: They are missing or were changed.
    """
    try:
        if sha256_of(shard.path) != shard.record["tensors_sha256"]:
            raise StorageError(
                f"{shard.path} is missing, or was changed or truncated: its sha256 does not match"
            )
        with safe_open(shard.path, "pt"):
            pass
    except OSError as error:
        raise StorageError(f"expected tensors at {shard.path}: {reason(error)}") from error
    except SafetensorError as error:
        raise StorageError(f"{shard.path} is not a safetensors file: {error}") from error


def remove_shards(store: Path) -> None:
    """Removes the files of all shards, and nothing else."""
    folder = store / SHARDS
    for path in folder.iterdir() if folder.exists() else ():
        if re.fullmatch(r"part-\d{5,}\.(json|safetensors)", path.name):
            path.unlink()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in blocks; "" if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _packed(found: Explanation, tensors: dict[str, Tensor], half: bool) -> dict[str, Any]:
    fields = {
        one.name: getattr(found, one.name)
        for one in dataclasses.fields(found)
        if one.name not in LEFT_OUT
    }
    scale = None
    if half:
        values = found.attribution
        scale = values.abs().flatten(1).amax(1)
        whole = torch.where(scale > 0, scale, torch.ones_like(scale))
        fields["attribution"] = (values / whole.view(-1, *[1] * (values.dim() - 1))).half()
    fields["scale"] = scale
    return {name: to_json(name, value, tensors) for name, value in fields.items()}


def _unpacked(fields: dict[str, Any]) -> dict[str, Any]:
    scale = fields.pop("scale")
    if scale is not None:
        values = fields["attribution"].to(scale.dtype)
        fields["attribution"] = values * scale.view(-1, *[1] * (values.dim() - 1))
    fields["class_names"] = tuple(fields["class_names"])
    return fields


def _flush(folder: Path) -> None:
    """Makes renames in a folder durable."""
    if sys.platform == "win32":  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
