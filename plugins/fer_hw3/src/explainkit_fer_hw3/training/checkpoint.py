"""Checkpoints: the state of a run in one file that is replaced atomically."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from explainkit.errors import StorageError
from explainkit.files import write_file

FILE = "checkpoint.safetensors"

FORMAT = 2
"""Raised whenever training changes so that a run saved before can't continue identically."""


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes tensors, and metadata as JSON; a kill leaves either the old file or the new one."""
    facts = {"format": FORMAT, **metadata}
    write(path, tensors, {key: json.dumps(value) for key, value in facts.items()})


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file atomically."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(held, metadata), StorageError)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors and metadata of a checkpoint."""
    with _opened(path) as file:
        metadata = _metadata(file, path)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def facts(path: Path) -> dict[str, Any]:
    """Reads the metadata only."""
    with _opened(path) as file:
        return _metadata(file, path)


def differing(facts: Mapping[str, Any], saved: Mapping[str, Any], of: str = "") -> list[str]:
    """Describes each setting in which a saved run differs from this one."""
    found = []
    for key, value in facts.items():
        mine, other = json.loads(json.dumps(value)), saved.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += differing(mine, other, f"{key} ")
        elif mine != other:
            found.append(f"{of}{key} {other}, not {mine}")
    return found


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, which is removed."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise StorageError(
            f"expected a checkpoint at {path}, found none: omit --resume to start a new run"
        ) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise StorageError(f"expected a checkpoint, got {path}: {error}") from error


def _metadata(file: Any, path: Path) -> dict[str, Any]:
    found = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
    if found.get("format") != FORMAT:
        raise StorageError(
            f"expected a checkpoint of this version, got {path}, which another version saved and "
            "this one can't continue: choose another --out and start a new run"
        )
    return found
