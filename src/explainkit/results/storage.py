"""Saves and loads results atomically: tensors as safetensors, everything else as JSON.

The tensor file is written first, under a name made from its hash. The JSON record that refers to it
is then replaced atomically. Finally, old tensor files and temporary files of interrupted writes are
removed. An interruption at any moment leaves either the old result or the new one. The record
contains the hashes of the tensor file and of itself. Several writers of one folder take turns, and
the last one wins.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from explainkit.errors import StorageError
from explainkit.files import locked, read_regular, reason, remove_drafts, write_atomically
from explainkit.results import originals
from explainkit.results.forms import EXPLANATION, VISUALIZATION, Form, check, form_of

SCHEMA_VERSION = 5

RENAMED = {
    "uncovered": "unsupported",
    "grid": "patch_grid",
    "prefix": "prefix_tokens",
    "rate": "lr",
    "spread": "init_std",
    "starts": "restarts",
    "centred": "centered",
    "explainkit/study": "explainkit/plain",
    "fer_hw3/drawn": "fer_hw3/synthetic",
}
"""Names in records of version 1 to today's: parameters of the library's own methods and maximizers,
and qualified names as values."""

T = TypeVar("T")


def save(result: Any, directory: Path) -> Path:
    """Writes a result into a folder, which is created if necessary.

    Args:
        result: An explanation, a visualization or concepts. Tensors are stored bit for bit.
        directory: The folder. An existing result of the same type is replaced atomically. Results
            of different types can share a folder.

    Returns:
        The folder.

    Raises:
        StorageError: The folder can't be written, or a parameter can't be stored.
    """
    form = form_of(type(result))
    tensors: dict[str, Tensor] = {}
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    try:
        check(form, fields)
        if form is EXPLANATION:
            fields |= originals.storable(fields)
        record = {name: to_json(name, value, tensors) for name, value in fields.items()}
        data = save_tensors(tensors)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{form.tensors}-{digest[:16]}.safetensors"
        head = {"schema_version": SCHEMA_VERSION, "tensors": name, "tensors_sha256": digest}
        text = json.dumps(_sealed(head | record), indent=2, allow_nan=False)
    except RecursionError as error:
        raise StorageError(f"can't save the {form.noun}: its parameters nest too deeply") from error
    except (TypeError, ValueError) as error:
        raise StorageError(f"can't save the {form.noun}: {error}") from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory / f".{form.noun}.lock", wait=True):
            write_atomically(directory / name, data)
            write_atomically(directory / form.record, text.encode())
            for other in directory.iterdir():
                if form.names_tensors(other.name) and other.name != name:
                    other.unlink(missing_ok=True)
            remove_drafts(directory, form.names_file)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"can't write the {form.noun} into {directory}: {reason(error)}"
        ) from error
    return directory


def load(result: type[T], directory: Path) -> T:
    """Loads a result that `save` wrote, also in older versions of the format.

    Args:
        result: The type of the result.
        directory: The folder.

    Raises:
        StorageError: There is no result, or it is incomplete, was changed, or has a newer version.
    """
    names = [field.name for field in dataclasses.fields(result)]  # type: ignore[arg-type]
    return result(**_load(form_of(result), names, directory))


def _load(form: Form, names: Sequence[str], directory: Path) -> dict[str, Any]:
    text = _read_record(form, directory)
    while True:
        try:
            return _read(form, names, text, directory)
        except StorageError:
            before, text = text, _read_record(form, directory)
            if text == before:
                raise
            # a writer has replaced the result after its record was read


def _read_record(form: Form, directory: Path) -> bytes:
    path = directory / form.record
    try:
        return read_regular(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"expected a saved {form.noun} at {path}: {reason(error)}") from error


def _read(form: Form, names: Sequence[str], text: bytes, directory: Path) -> dict[str, Any]:
    path = directory / form.record
    try:
        record = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise StorageError(f"expected JSON in {path}: {error}") from error
    try:
        return _from_record(form, names, record, directory)
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
            f"{path} is not a saved {form.noun}, or was changed: {type(error).__name__}: {error}"
        ) from error


def _from_record(form: Form, names: Sequence[str], record: Any, directory: Path) -> dict[str, Any]:
    version = record["schema_version"]
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise StorageError(
            f"expected schema_version 1 to {SCHEMA_VERSION} in {directory}, got {version!r}: "
            "update explainkit-vision"
        )
    if record != _sealed({key: value for key, value in record.items() if key != "sha256"}):
        raise StorageError(f"{directory / form.record} was changed: its sha256 does not match")
    if version == 1:
        record = _upgraded(record)
    name = record["tensors"]
    if not form.names_tensors(name):
        raise StorageError(f"expected the name of a tensor file in {directory}, got {name!r}")
    try:
        data = read_regular(directory / name)
    except OSError as error:
        raise StorageError(f"expected tensors at {directory / name}: {reason(error)}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != record["tensors_sha256"]:
        raise StorageError(
            f"{directory / name} was changed or truncated: expected sha256 "
            f"{str(record['tensors_sha256'])[:12]!r}…, got {digest[:12]!r}…"
        )
    tensors = load_tensors(data)
    if version < 3:
        # a single output was a value of its own
        one = form is EXPLANATION and tensors[record["logits"]["$tensor"]].shape[1:] == (1,)
        task = "regression" if one or form is VISUALIZATION else "classification"
        record = record | {"task": task, "output": None, "squashed": False}
    if version < 4 and form is EXPLANATION:
        record = record | originals.NONE
    if version < 5 and form is EXPLANATION:
        record = record | {"precision": None, "receipt": None, "input": None}
    values = {name: from_json(record[name], tensors) for name in names}
    if form is EXPLANATION:
        values |= originals.loaded(values)
    for name in (*form.texts, "mean", "std"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
    check(form, values)
    return values


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of version 1 under today's names; a plugin's own parameters keep theirs."""

    def renamed(value: Any, core: bool) -> Any:
        if isinstance(value, dict):
            if "method" in value:  # a nested method
                core = str(value["method"]).startswith("explainkit/")
            return {
                RENAMED.get(key, key) if core else key: renamed(inner, core)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [renamed(inner, core) for inner in value]
        # a name that is a value is qualified, so that no other text is taken for one
        return RENAMED.get(value, value) if isinstance(value, str) and "/" in value else value

    maker = "method" if "method" in record else "maximizer"
    core = record[maker].startswith("explainkit/")
    found = {name: renamed(record[name], core) for name in (maker, "params", "diagnostics")}
    if "objective" in record:
        found["objective"] = [
            re.sub(r"\blead\(", "log_odds(", text) for text in record["objective"]
        ]
    return record | found


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the hash of its content, which does not depend on the file's formatting."""
    content = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return record | {"sha256": hashlib.sha256(content.encode()).hexdigest()}


def to_json(path: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Converts a value to JSON; tensors are collected in ``tensors`` and referenced by number."""
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
        # a copy, since safetensors rejects tensors that share memory
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
                    f"{path}: expected strings as keys to save, got {key!r:.40}: use str()"
                )
        items = {key: to_json(f"{path}.{key}", inner, tensors) for key, inner in value.items()}
        # such keys could be mistaken for the markers above
        return {"$mapping": items} if any(key.startswith("$") for key in items) else items
    if isinstance(value, list | tuple):
        return [to_json(f"{path}.{i}", inner, tensors) for i, inner in enumerate(value)]
    raise StorageError(
        f"{path}: expected a number, string, tensor, list or mapping to save, got "
        f"{type(value).__name__}"
    )


def from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `to_json` converted; tensors are looked up by their key."""
    if isinstance(value, dict):
        if value.keys() == {"$tensor"}:
            return tensors[value["$tensor"]]
        if value.keys() == {"$float"}:
            return float(value["$float"])
        items = value["$mapping"] if value.keys() == {"$mapping"} else value
        return {key: from_json(inner, tensors) for key, inner in items.items()}
    if isinstance(value, list):
        return [from_json(inner, tensors) for inner in value]
    return value
