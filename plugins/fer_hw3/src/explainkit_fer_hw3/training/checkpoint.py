"""The state of a run on disk: one file, replaced whole or not at all."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from explainkit.errors import StorageError
from explainkit.files import write_atomically

FILE = "checkpoint.safetensors"


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes tensors, and facts as JSON; after a kill the old file or the new one is there.

    Raises:
        StorageError: It can't be written.
    """
    write(path, tensors, {key: json.dumps(value) for key, value in metadata.items()})


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file that appears whole or not at all.

    Raises:
        StorageError: It can't be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomically(path, safetensors.torch.save(held, metadata))
    except OSError as error:
        raise StorageError(f"can't write {path}: {error.strerror or error}") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save` wrote.

    Raises:
        StorageError: No such file, or a damaged one.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _facts(file)  # noqa: SIM118


def facts(path: Path) -> dict[str, Any]:
    """The facts alone, without the tensors.

    Raises:
        StorageError: No such file, or a damaged one.
    """
    with _opened(path) as file:
        return _facts(file)


def differing(facts: Mapping[str, Any], saved: Mapping[str, Any], of: str = "") -> list[str]:
    """What a saved run was started with that this one was not, in words."""
    found = []
    for key, value in facts.items():
        mine, other = json.loads(json.dumps(value)), saved.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += differing(mine, other, f"{key} ")
        elif mine != other:
            found.append(f"its {of}{key} is {other}, not {mine}")
    return found


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise StorageError(
            f"expected a checkpoint at {path}, found none: leave out --resume to start a run"
        ) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise StorageError(f"expected a checkpoint, got {path}: {error}") from error


def _facts(file: Any) -> dict[str, Any]:
    return {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
