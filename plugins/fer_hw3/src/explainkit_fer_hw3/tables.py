"""Tables of numbers as files that other programs read."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from explainkit.errors import StorageError
from explainkit.files import write_atomically


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a CSV file that appears whole or not at all.

    Args:
        path: The file.
        columns: Names at the head.
        rows: Values below them.

    Returns:
        The path.

    Raises:
        StorageError: It can't be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    try:
        write_atomically(path, text.getvalue().encode())
    except OSError as error:
        raise StorageError(f"can't write {path}: {error.strerror or error}") from error
    return path
