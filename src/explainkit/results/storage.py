"""Saves and loads results atomically: tensors as safetensors, everything else as JSON.

The tensor file is written first, under a name made from its hash. The JSON record that refers to it
is then replaced atomically. Finally, old tensor files and temporary files of interrupted writes are
removed. An interruption at any moment leaves either the old result or the new one. The record
contains the hashes of the tensor file and of itself. A folder supports one writer at a time.
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
from explainkit.files import write_atomically
from explainkit.scores import TASKS

SCHEMA_VERSION = 3

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


@dataclasses.dataclass(frozen=True)
class _Form:
    """How one type of result is stored.

    Attributes:
        noun: The type's name, in lowercase.
        tensors: Prefix of its tensor files.
        axes: For each tensor field, its number of axes and the index of its batch axis.
        kinds: Types of the other fields.
        texts: Fields that are tuples of strings.
    """

    noun: str
    tensors: str
    axes: Mapping[str, tuple[int, int]]
    kinds: Mapping[str, Any]
    texts: tuple[str, ...]

    @property
    def record(self) -> str:
        """The name of the JSON file."""
        return f"{self.noun}.json"

    def names_tensors(self, name: str) -> bool:
        """Whether a file name is that of a tensor file."""
        return re.fullmatch(rf"{self.tensors}-[0-9a-f]{{16}}\.safetensors", name) is not None

    def names_draft(self, name: str) -> bool:
        """Whether a file name is that of a temporary file of an interrupted write."""
        found = re.fullmatch(r"\.(.+)-\w+", name)
        return found is not None and (self.names_tensors(found[1]) or found[1] == self.record)


_EXPLANATION = _Form(
    "explanation",
    "tensors",
    {"inputs": (4, 0), "attribution": (4, 0), "target": (1, 0), "score": (1, 0), "logits": (2, 0)},
    {
        "method": str, "model": str, "layer": str | None, "at": str | None,
        "expression": str | None, "seed": int | np.integer,
        "task": str, "output": int | str | None,
        "params": Mapping, "diagnostics": Mapping, "versions": Mapping, "coverage": Mapping | None,
    },
    ("class_names",),
)  # fmt: skip
_VISUALIZATION = _Form(
    "visualization",
    "visualization",
    {
        "images": (4, 0), "opacity": (4, 0), "score": (1, 0), "trace": (2, 1), "rank": (1, 0),
        "dead": (1, 0), "converged": (1, 0), "frames": (5, 1),
    },
    {
        "maximizer": str, "model": str, "layer": str | None, "seed": int | np.integer,
        "task": str, "output": int | str | None,
        "params": Mapping, "diagnostics": Mapping, "versions": Mapping, "quality": Mapping,
    },
    ("class_names", "objective"),
)  # fmt: skip


_FORMS = {form.noun: form for form in (_EXPLANATION, _VISUALIZATION)}


def _form_of(result: type) -> _Form:
    return _FORMS[result.__name__.lower()]


def save(result: Any, directory: Path) -> Path:
    """Writes a result into a folder, which is created if necessary.

    Args:
        result: An explanation or a visualization. Tensors are stored bit for bit.
        directory: The folder. An existing result of the same type is replaced atomically. An
            explanation and a visualization can share a folder.

    Returns:
        The folder.

    Raises:
        StorageError: The folder can't be written, or a parameter can't be stored.
    """
    form = _form_of(type(result))
    tensors: dict[str, Tensor] = {}
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    try:
        _check(form, fields)
        record = {name: _to_json(name, value, tensors) for name, value in fields.items()}
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
        write_atomically(directory / name, data)
        write_atomically(directory / form.record, text.encode())
        for other in directory.iterdir():
            stale = form.names_tensors(other.name) and other.name != name
            if stale or form.names_draft(other.name):
                other.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"can't write the {form.noun} into {directory}: {error.strerror or error}"
        ) from error
    return directory


def load(result: type[T], directory: Path) -> T:
    """Loads a result that `save` wrote, also in versions 1 and 2 of the format.

    Args:
        result: The type of the result.
        directory: The folder.

    Raises:
        StorageError: There is no result, or it is incomplete, was changed, or has a newer version.
    """
    names = [field.name for field in dataclasses.fields(result)]  # type: ignore[arg-type]
    return result(**_load(_form_of(result), names, directory))


def _load(form: _Form, names: Sequence[str], directory: Path) -> dict[str, Any]:
    path = directory / form.record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"expected a saved {form.noun} at {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"expected JSON in {path}: {error}") from error
    try:
        return _read(form, names, record, directory)
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


def _read(form: _Form, names: Sequence[str], record: Any, directory: Path) -> dict[str, Any]:
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
        data = (directory / name).read_bytes()
    except OSError as error:
        raise StorageError(f"expected tensors at {directory / name}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != record["tensors_sha256"]:
        raise StorageError(
            f"{directory / name} was changed or truncated: expected sha256 "
            f"{str(record['tensors_sha256'])[:12]!r}…, got {digest[:12]!r}…"
        )
    tensors = load_tensors(data)
    if version < 3:
        # a single output was a value of its own
        one = form is _EXPLANATION and tensors[record["logits"]["$tensor"]].shape[1:] == (1,)
        task = "regression" if one or form is _VISUALIZATION else "classification"
        record = record | {"task": task, "output": None, "squashed": False}
    values = {name: _from_json(record[name], tensors) for name in names}
    for name in (*form.texts, "mean", "std"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
    _check(form, values)
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


def _check(form: _Form, fields: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for fields that are invalid in a result of this form."""
    first = next(iter(form.axes))
    for name, (rank, axis) in form.axes.items():
        tensor = fields[name]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if name == "attribution" and fields["at"] is not None:
            rank = tensor.ndim  # a layer's output can have any number of axes
        if tensor.ndim != rank or tensor.shape[axis] != len(fields[first]):
            raise ValueError(
                f"{name}: expected {rank} axes, with axis {axis} as long as {first}, "
                f"got {list(tensor.shape)}"
            )
    for name, kind in form.kinds.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise TypeError(
                f"{name}: expected {getattr(kind, '__name__', kind)}, got {fields[name]!r:.40}"
            )
    if fields["task"] not in TASKS:
        raise ValueError(f"task: expected {', '.join(TASKS)}, got {fields['task']!r:.40}")
    if not isinstance(fields.get("squashed", False), bool):
        raise TypeError(f"squashed: expected a bool, got {fields['squashed']!r:.40}")
    for name in form.texts:
        if not isinstance(fields[name], list | tuple):
            raise TypeError(f"{name}: expected a list, got {fields[name]!r:.40}")
        if not all(isinstance(text, str) for text in fields[name]):
            raise TypeError(f"{name}: expected strings only")
    if not all(isinstance(version, str) for version in fields["versions"].values()):
        raise TypeError("versions: expected strings only")
    for name in ("mean", "std"):
        numbers = () if fields[name] is None else fields[name]
        if not isinstance(numbers, list | tuple) or not all(
            isinstance(number, float | int) for number in numbers
        ):
            raise TypeError(f"{name}: expected numbers, got {numbers!r:.40}")


def _to_json(path: str, value: Any, tensors: dict[str, Tensor]) -> Any:
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
        items = {key: _to_json(f"{path}.{key}", inner, tensors) for key, inner in value.items()}
        # such keys could be mistaken for the markers above
        return {"$mapping": items} if any(key.startswith("$") for key in items) else items
    if isinstance(value, list | tuple):
        return [_to_json(f"{path}.{i}", inner, tensors) for i, inner in enumerate(value)]
    raise StorageError(
        f"{path}: expected a number, string, tensor, list or mapping to save, got "
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
