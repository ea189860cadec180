"""Saving and loading results: tensors as safetensors, everything else as JSON, never half of it.

The tensor file is named by its content and written first; the JSON that names it is replaced in
one step; then tensor files that nothing names, and drafts that a kill left, are removed. A kill at
any moment leaves the old result or the new one. The JSON carries the hashes of the tensor file and
of itself. A folder has one writer at a time.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from explainkit.errors import StorageError
from explainkit.types import Explanation

SCHEMA_VERSION = 1

_RECORD = "explanation.json"
_TENSOR_FILE = re.compile(r"tensors-[0-9a-f]{16}\.safetensors")
_DRAFT = re.compile(r"\.(tensors-[0-9a-f]{16}\.safetensors|explanation\.json)-\w+")
_RANKS = {"inputs": 4, "attribution": 4, "target": 1, "score": 1, "logits": 2}


def save(explanation: Explanation, directory: Path) -> Path:
    """Writes an explanation into a folder, which is made if need be.

    Args:
        explanation: What to save; its tensors keep their dtype to the bit.
        directory: The folder. An explanation already there is replaced in one step.

    Returns:
        The folder.

    Raises:
        StorageError: The folder can't be written, or a parameter can't be stored.
    """
    tensors: dict[str, Tensor] = {}
    fields = {f.name: getattr(explanation, f.name) for f in dataclasses.fields(explanation)}
    try:
        _check(fields)
        record = {name: _to_json(name, value, tensors) for name, value in fields.items()}
        data = save_tensors(tensors)
        digest = hashlib.sha256(data).hexdigest()
        name = f"tensors-{digest[:16]}.safetensors"
        head = {"schema_version": SCHEMA_VERSION, "tensors": name, "tensors_sha256": digest}
        text = json.dumps(_sealed(head | record), indent=2, allow_nan=False)
    except RecursionError as error:
        raise StorageError("can't save the explanation: its parameters nest too deeply") from error
    except (TypeError, ValueError) as error:
        raise StorageError(f"can't save the explanation: {error}") from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / name, data)
        write_atomically(directory / _RECORD, text.encode())
        for other in directory.iterdir():
            stale = _TENSOR_FILE.fullmatch(other.name) and other.name != name
            if stale or _DRAFT.fullmatch(other.name):
                other.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write the explanation into {directory}: {error.strerror or error}"
        ) from error
    return directory


def load(directory: Path) -> Explanation:
    """Reads what `save` wrote.

    Raises:
        StorageError: Nothing is there, or it is incomplete, was changed, or is of a newer version.
    """
    path = directory / _RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"expected a saved explanation at {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"expected JSON in {path}: {error}") from error
    try:
        return _read(record, directory)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise StorageError(
            f"{path} is not a saved explanation, or was changed: {type(error).__name__}: {error}"
        ) from error


def _read(record: Any, directory: Path) -> Explanation:
    version = record["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise StorageError(
            f"expected schema_version {SCHEMA_VERSION} in {directory}, got {version!r}: update "
            "explainkit-vision"
        )
    if record != _sealed({key: value for key, value in record.items() if key != "sha256"}):
        raise StorageError(f"{directory / _RECORD} was changed: its sha256 is another")
    name = record["tensors"]
    if not _TENSOR_FILE.fullmatch(name):
        raise StorageError(f"expected in {directory} the name of a tensor file, got {name!r}")
    try:
        data = (directory / name).read_bytes()
    except OSError as error:
        raise StorageError(f"expected tensors at {directory / name}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != record["tensors_sha256"]:
        raise StorageError(
            f"{directory / name} was changed or cut short: expected sha256 "
            f"{str(record['tensors_sha256'])[:12]}…, got {digest[:12]}…"
        )
    tensors = load_tensors(data)
    values = {f.name: _from_json(record[f.name], tensors) for f in dataclasses.fields(Explanation)}
    for name in ("class_names", "mean", "std"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
    _check(values)
    return Explanation(**values)


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the hash of its content, whatever the layout of the file."""
    content = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return record | {"sha256": hashlib.sha256(content.encode()).hexdigest()}


def _check(fields: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for fields that no `Explanation` can have."""
    for name, rank in _RANKS.items():
        tensor = fields[name]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.ndim != rank or len(tensor) != len(fields["inputs"]):
            raise ValueError(
                f"{name}: expected {rank} axes, the first of them the batch of the inputs, got "
                f"{list(tensor.shape)}"
            )
    for name, kind in {
        "method": str, "model": str, "layer": str | None, "seed": int | np.integer,
        "params": Mapping, "diagnostics": Mapping, "versions": Mapping, "coverage": Mapping | None,
    }.items():  # fmt: skip
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise TypeError(
                f"{name}: expected {getattr(kind, '__name__', kind)}, got {fields[name]!r:.40}"
            )
    names = fields["class_names"]
    if not isinstance(names, list | tuple):
        raise TypeError(f"class_names: expected a list, got {names!r:.40}")
    if not all(isinstance(name, str) for name in (*names, *fields["versions"].values())):
        raise TypeError("class_names, versions: expected text only")
    for name in ("mean", "std"):
        numbers = () if fields[name] is None else fields[name]
        if not isinstance(numbers, list | tuple) or not all(
            isinstance(number, float | int) for number in numbers
        ):
            raise TypeError(f"{name}: expected numbers, got {numbers!r:.40}")


def _to_json(path: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; tensors are put aside and referred to by their number."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        if (
            value.is_complex()
            or value.is_quantized
            or value.is_meta
            or value.layout != torch.strided
        ):
            raise StorageError(
                f"{path}: expected a dense real tensor to save, got {value.dtype}, {value.layout}"
            )
        key = str(len(tensors))
        # a copy: tensors that share memory can't stand in one file
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": key}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise StorageError(
                    f"{path}: expected text as keys to save, got {key!r:.40}; make it str"
                )
        items = {key: _to_json(f"{path}.{key}", inner, tensors) for key, inner in value.items()}
        # such keys would be read as one of our marks
        return {"$mapping": items} if any(key.startswith("$") for key in items) else items
    if isinstance(value, list | tuple):
        return [_to_json(f"{path}.{i}", inner, tensors) for i, inner in enumerate(value)]
    raise StorageError(
        f"{path}: expected a number, text, tensor, list or mapping to save, got "
        f"{type(value).__name__}"
    )


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$tensor"}:
            return tensors[value["$tensor"]]
        if value.keys() == {"$float"}:
            return float(value["$float"])
        items = value["$mapping"] if value.keys() == {"$mapping"} else value
        return {key: _from_json(inner, tensors) for key, inner in items.items()}
    if isinstance(value, list):
        return [_from_json(inner, tensors) for inner in value]
    return value


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        OSError: As raised by the system; nothing is left behind.
    """
    # not tempfile: its files are closed to others, whatever the umask says
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
