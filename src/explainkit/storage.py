"""Saving and loading results: tensors as safetensors, everything else as JSON, never half of it.

The tensor file is named by its content and written first; the JSON that names it is replaced in
one step; then tensor files that nothing names are removed. A kill at any moment leaves the old
result or the new one.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_TENSOR_FIELDS = ("inputs", "attribution", "target", "score", "logits")


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
    record = {name: _to_json(name, value, tensors) for name, value in fields.items()}
    data = save_tensors(tensors)
    digest = hashlib.sha256(data).hexdigest()
    name = f"tensors-{digest[:16]}.safetensors"
    text = json.dumps(
        {"schema_version": SCHEMA_VERSION, "tensors": name, "sha256": digest, **record}, indent=2
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / name, data)
        write_atomically(directory / _RECORD, text.encode())
        for other in directory.iterdir():
            if _TENSOR_FILE.fullmatch(other.name) and other.name != name:
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
    except ValueError as error:
        raise StorageError(f"expected JSON in {path}: {error}") from error
    try:
        return _read(record, directory)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise StorageError(
            f"{path} is not a saved explanation, or was changed: {type(error).__name__}: {error}"
        ) from error


def _read(record: Any, directory: Path) -> Explanation:
    version = record["schema_version"]
    if version != SCHEMA_VERSION:
        raise StorageError(
            f"expected schema_version {SCHEMA_VERSION} in {directory}, got {version!r}: update "
            "explainkit-vision"
        )
    name = record["tensors"]
    if not _TENSOR_FILE.fullmatch(name):
        raise StorageError(f"expected in {directory} the name of a tensor file, got {name!r}")
    try:
        data = (directory / name).read_bytes()
    except OSError as error:
        raise StorageError(f"expected tensors at {directory / name}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != record["sha256"]:
        raise StorageError(
            f"{directory / name} was changed or cut short: expected sha256 "
            f"{str(record['sha256'])[:12]}…, got {digest[:12]}…"
        )
    tensors = load_tensors(data)
    values = {f.name: _from_json(record[f.name], tensors) for f in dataclasses.fields(Explanation)}
    missing = [name for name in _TENSOR_FIELDS if not isinstance(values[name], Tensor)]
    if missing or not isinstance(values["method"], str):
        raise TypeError(f"{', '.join(missing) or 'method'} has the wrong type")
    for name in ("class_names", "mean", "std"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    return Explanation(**values)


def _to_json(path: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; tensors are put aside and referred to by their path."""
    if isinstance(value, Tensor):
        # a copy: tensors that share memory can't stand in one file
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": path}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_json(f"{path}.{key}", inner, tensors) for key, inner in value.items()}
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
        return {key: _from_json(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_from_json(inner, tensors) for inner in value]
    return value


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        OSError: As raised by the system; nothing is left behind.
    """
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
