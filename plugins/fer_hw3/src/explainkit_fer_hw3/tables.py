"""CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from explainkit.errors import StorageError
from explainkit.files import write_atomically


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a CSV file atomically.

    Args:
        path: The file.
        columns: Column names.
        rows: Values.

    Returns:
        The path.

    Raises:
        StorageError: The file can't be written.
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
