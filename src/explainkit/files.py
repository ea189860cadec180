"""Atomic writing of files."""

import os
import secrets
from pathlib import Path

from explainkit.errors import ExplainkitError


def write_file(path: str | Path, data: bytes, error: type[ExplainkitError]) -> Path:
    """Writes a file atomically, in a folder that is created if needed; returns its path.

    Raises:
        ExplainkitError: Of the given class, with the system's reason.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as refused:
        raise error(f"can't write {path}: {refused.strerror or refused}") from refused
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file atomically: other processes see the whole new file or the old one.

    Raises:
        OSError: As raised by the system; no partial file is left.
    """
    # not tempfile, which ignores the umask and makes files private
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
