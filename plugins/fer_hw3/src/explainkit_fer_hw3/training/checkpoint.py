"""The state of a run on disk: one file, replaced whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from explainkit.errors import StorageError

FILE = "checkpoint.safetensors"


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes tensors and facts; after a crash at any moment the old file or the new one is there.

    Raises:
        StorageError: It can't be written.
    """
    part = path.with_suffix(".part")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(held, part, {key: json.dumps(value) for key, value in metadata.items()})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: can't be written: {error}") from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save` wrote.

    Raises:
        StorageError: No such file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
    except FileNotFoundError:
        raise StorageError(f"expected a checkpoint at {path}, found none") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise StorageError(f"expected a checkpoint, got {path}: {error}") from error
    return tensors, metadata
