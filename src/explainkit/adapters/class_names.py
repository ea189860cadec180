"""Files with the names of classes, and those of ImageNet."""

import json
from pathlib import Path
from typing import Any

from explainkit.errors import InputError


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Reads the names of a model's classes, in the order of its outputs.

    Args:
        path: A text file with one name a line; or JSON: a list of names, a dictionary from index to
            name, or from name to index. Where an entry is a list, as in ImageNet's
            ``imagenet_class_index.json``, its last element is the name.

    Raises:
        InputError: The file can't be read, or a name is missing.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "classes.json"
        >>> _ = file.write_text('{"1": "dog", "0": "cat"}')
        >>> read_class_names(file)
        ('cat', 'dog')
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"{path}: can't be read as class names: {reason}") from error
    if path.suffix.lower() == ".json":
        try:
            names = _ordered(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: expected JSON: {error}") from error
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not names or not all(map(_is_name, names)):
        at = next((i for i, name in enumerate(names or ()) if not _is_name(name)), 0)
        raise InputError(
            f"{path}: expected one class name per line, or JSON with a list of names or with names "
            f"and indices from 0 on; class {at} has none"
        )
    return tuple(names)


def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet's challenge of 2012, named and ordered as in torchvision.

    Networks that are trained on it have their outputs in this order, the order of the synsets,
    whatever library they are from.

    Source: Russakovsky et al., 2015, arXiv:1409.0575.

    Examples:
        >>> names = imagenet_class_names()
        >>> len(set(names)), names[281:283]
        (1000, ('tabby', 'tiger cat'))
    """
    return read_class_names(Path(__file__).with_name("imagenet.txt"))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _ordered(found: Any) -> list[Any] | None:
    """The entries of a list or dictionary by their indices; None: they have none."""
    if isinstance(found, dict):
        if found and all(type(value) is int for value in found.values()):
            found = {index: name for name, index in found.items()}
        by_index = {str(index): value for index, value in found.items()}
        if by_index.keys() != {str(i) for i in range(len(by_index))}:
            return None
        found = [by_index[str(i)] for i in range(len(by_index))]
    if not isinstance(found, list):
        return None
    return [entry[-1] if isinstance(entry, list) and entry else entry for entry in found]
