"""The images of an evaluation and their true classes, read one at a time."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from PIL import Image
from torch import Tensor, nn

from explainkit.adapters.decoding import suffixes
from explainkit.adapters.images import ImageBatch, open_image, preprocessing_of
from explainkit.errors import DatasetError, InputError
from explainkit.files import reason
from explainkit.jobs.inputs import batch_of, checked_image
from explainkit.jobs.labels import Labels, by_label
from explainkit.jobs.opening import source_of
from explainkit.jobs.store import Store

Images: TypeAlias = "Tensor | ImageBatch | str | Path | Sequence[Any] | Mapping[str, Any] | Any"
"""What `explainkit.evaluate` takes."""

Read = tuple[Tensor | Image.Image, Any]
"""An image, and the class that comes with it, or None."""


@dataclass(frozen=True)
class Given:
    """Images that are read when they are needed.

    Attributes:
        names: Of the images.
        rows: Their places among all images that were given.
        total: Number of all images that were given.
        read: Gives the image of a row, and its true class.
        label: Gives the true class of a row, if it is known without the image.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    total: int
    read: Callable[[int], Read]
    label: Callable[[int], Any]


def given(images: Images, labels: Labels = None, limit: int | None = None) -> Given:
    """The images that a caller's value stands for.

    Args:
        images: A tensor, a batch, a path, a list, a mapping, a data set or a store; see
            `explainkit.evaluate`.
        labels: The true classes; None: those that come with the images.
        limit: Only so many of the images, evenly spread over all.

    Raises:
        DatasetError: There are no images.
        InputError: The number of labels is another, or none belongs to an image.
    """
    names, read = _opened(images)
    count = len(names)
    if not count:
        raise DatasetError("expected at least one image, got none")
    if limit is not None and limit < 1:
        raise InputError(f"limit: expected at least 1, got {limit}")
    chosen = count if limit is None else min(limit, count)
    # spread over all, since sorted images of one class are neighbors
    rows = tuple(i * count // chosen for i in range(chosen))
    label = by_label(labels, names)

    def labeled(row: int) -> Read:
        image, own = read(row)
        return image, own if labels is None else label(row)

    return Given(tuple(names[row] for row in rows), rows, count, labeled, label)


def as_the_model_takes_it(module: nn.Module, images: Given, row: int) -> tuple[Tensor, Any]:
    """An image ``[1, channel, height, width]``, on the device and in the dtype of the model.

    Returns:
        The image, and its true class if it is known.

    Raises:
        InputError: It is no image.
    """
    value, label = images.read(row)
    if isinstance(value, Image.Image):
        value, _ = preprocessing_of(module)(value)
    batch: Tensor = batch_of([checked_image(value)], module)
    return batch, label


def read_labels(path: Path) -> dict[str, str]:
    """The classes in a CSV file with lines ``image,class``; a header is ignored.

    Raises:
        InputError: It can't be read, or a line has another form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"can't read {path}: {why}") from error
    for number, line in enumerate(lines, 1):
        if len(line) != 2:
            raise InputError(f"{path}, line {number}: expected image,class, got {line!r:.60}")
    return {name.strip(): label.strip() for name, label in lines}


def _opened(images: Images) -> tuple[list[str], Callable[[int], Read]]:
    """The names of all images, and what reads one."""
    if isinstance(images, ImageBatch):
        inputs = images.inputs
        return list(images.names), lambda row: (inputs[row], None)
    if isinstance(images, Store):
        explained = images.where(status="ok")
        return [item.id for item in explained.items], lambda row: (explained.image(row), None)
    if isinstance(images, Tensor):
        if images.dim() != 4:
            raise InputError(
                f"expected images [batch, channel, height, width], got {list(images.shape)}"
            )
        return _numbered(len(images)), lambda row: (images[row], None)
    if isinstance(images, str | Path):
        path = Path(images)
        if path.suffix.lower() in suffixes() and not path.is_dir():
            return [path.name], lambda _row: _separated(path, 0)
        source = source_of(path)
        found = sorted(name for name, _ in source.entries())
        return found, lambda row: (cast(Image.Image, source.read(found[row]).value), None)
    if isinstance(images, Mapping):
        keys = list(images)
        return list(map(str, keys)), lambda row: _separated(images[keys[row]], row)
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise InputError(
            "expected a tensor, a folder, a list of images, a mapping of names to images or a data "
            f"set, got {type(images).__name__}"
        )
    own = getattr(images, "names", ())
    if len(own) != len(images):
        listed = isinstance(images, list | tuple)  # an item of a data set takes time to read
        own = [
            images[i] if listed and isinstance(images[i], str | Path) else name
            for i, name in enumerate(_numbered(len(images)))
        ]
    return list(map(str, own)), lambda row: _separated(images[row], row)


def _separated(item: Any, row: int) -> Read:
    """An item of a list or a data set as an image and its class."""
    value, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    return value if isinstance(value, Tensor) else open_image(value, row)[0], label


def _numbered(count: int) -> list[str]:
    return [f"image {i}" for i in range(count)]
