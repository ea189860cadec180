"""Options that the study's commands share, beside those of the core, and what they load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from explainkit.cli.names import distinct, file_name
from explainkit.cli.options import OUT as OUT
from explainkit.cli.options import Device as Device
from explainkit.cli.options import Json as Json
from explainkit.cli.options import Out as Out
from explainkit.cli.options import Param as Param
from explainkit.cli.options import Report as Report
from explainkit.cli.options import Seed as Seed
from explainkit.cli.options import Target as Target
from explainkit.cli.options import claim as claim
from explainkit.cli.options import command_line as command_line
from explainkit.cli.options import find_device as find_device
from explainkit.cli.options import find_target as find_target
from explainkit.cli.options import show as show
from explainkit.cli.options import writable as writable
from explainkit.progress import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from explainkit_fer_hw3.data import FaceDataset
    from explainkit_fer_hw3.study.predictions import Predictions

Data = Annotated[
    Path | None,
    typer.Option(
        help="FER2013 in any of its forms: a CSV, a folder `train/<class>/*.jpg`, or a zip of "
        "either. By default: generated synthetic faces."
    ),
]
Split = Annotated[
    str | None, typer.Option(help="train, validation, public_test, private_test or all.")
]
Index = Annotated[
    list[int] | None,
    typer.Option(
        help="Index of an image within the split, in file order (for a folder tree: in sorted path "
        "order). Repeatable."
    ),
]
Image = Annotated[
    list[Path] | None,
    typer.Option(
        help="A photo of a face. It is converted to gray, cropped to its central square and "
        "resized. Anything else gets a warning. Repeatable."
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        help="An attribution method; see `explainkit list methods`. Default: saliency, and beside "
        "it the method named in the model card.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option(help="cnn, dnn, or a .safetensors weights file.")]
Histories = Annotated[
    list[Path] | None,
    typer.Option(
        help="The `history.csv` of a training run, in the order of the networks. Repeatable. By "
        "default: the curves that ship with the weights."
    ),
]
notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def load_model(name: str, device: str) -> "nn.Module":
    """Loads a network onto a device."""
    import explainkit as ek
    from explainkit.errors import ModelError
    from explainkit_fer_hw3.models import CNN

    model = ek.load_model(f"fer_hw3/{name}" if name in {"cnn", "dnn"} else name)
    # a mismatch would give wrong numbers without an error
    for field in ("image_shape", "class_names", "mean", "std"):
        wanted, found = (getattr(spec, field) for spec in (CNN, model.explainkit_spec))
        if found != wanted:
            raise ModelError(
                f"expected a network of this study with {field} {wanted}, got {name} with {found}: "
                "use cnn, dnn or a file with their weights"
            )
    return model.to(find_device(device))


def model_tag(name: str) -> str:
    """A model's part of a file name: ``cnn``, or folder and stem of a weights file."""
    path = Path(name)
    return f"{path.resolve().parent.name}-{path.stem}" if path.suffix else path.name


def model_tags(names: Sequence[str]) -> list[str]:
    """The tags of several models, all different."""
    return distinct([model_tag(name) for name in names])


def data_tags(data: Path | None, split: str | None) -> list[str]:
    """The data's parts of a file name: stem and split where they were given."""
    return [*([] if data is None else [file_name(data.stem)]), *([split] if split else [])]


def check_split(data: Path | None, split: str | None) -> None:
    """Refuses a split that does not exist, and one of a data set that was not given."""
    from explainkit.errors import DatasetError
    from explainkit_fer_hw3.data.splits import SPLITS

    if split is None:
        return
    if split not in (*SPLITS, "all"):
        raise DatasetError(f"--split: expected {', '.join(SPLITS)} or all, got {split!r:.80}")
    if data is None:
        raise DatasetError(f"--split {split}: expected --data, the data set whose split it is")


def load_data(path: Path | None, split: str, seed: int) -> "FaceDataset":
    """FER2013 from a file or folder, or synthetic faces without one."""
    from explainkit_fer_hw3.data import load_fer2013, load_synthetic

    if path is None:
        return load_synthetic(None, split, seed=seed)
    return load_fer2013(path, split, seed=seed)


@dataclass(frozen=True, eq=False)
class Images:
    """The images to explain.

    Attributes:
        images: Normalized, ``[n, 1, 48, 48]``, on the chosen device.
        labels: True class of each; None if unknown.
        indices: Index of each within its split; None for a photo.
        tags: A short, unique name of each, for file names.
    """

    images: "Tensor"
    labels: list[int | None]
    indices: list[int | None]
    tags: list[str]


STUDY_ROW = (14, 10, 12)
"""The default images: an angry, a happy and a surprised synthetic face."""


def load_images(
    data: Path | None,
    split: str | None,
    index: Sequence[int] | None,
    image: Sequence[Path] | None,
    seed: int,
    device: str,
) -> Images:
    """Loads the images that the options select."""
    place = find_device(device)
    if image:
        if index or data or split:
            raise typer.BadParameter("--image stands alone: leave out --data, --split and --index")
        return _photos(image, place)
    check_split(data, split)
    chosen = list(index or (STUDY_ROW if data is None else [0]))
    has = f"{describe_data(data)} ({split or 'all'}) has images"
    if data is None:
        from explainkit_fer_hw3.data.synthetic import COUNTS, load_synthetic

        _check_indices(chosen, COUNTS["all"], has)
        # later faces do not change earlier ones, and take time to draw
        faces = load_synthetic(None, "all", seed=seed, count=max(chosen) + 1)
    else:
        faces = load_data(data, split or "all", seed)
        _check_indices(chosen, len(faces), has)
    subset = faces.subset(chosen)
    labels = [None if label < 0 else label for label in subset.labels.tolist()]
    tags = distinct([str(number) for number in chosen])
    return Images(subset.images.to(place), labels, [*chosen], tags)


def load_image(
    data: Path | None,
    split: str | None,
    index: int | None,
    image: Path | None,
    seed: int,
    device: str,
) -> Images:
    """Like `load_images`, for the options of a command that takes one image: the first."""
    numbers, photos = (None if one is None else [one] for one in (index, image))
    found = load_images(data, split, numbers, photos, seed, device)  # type: ignore[arg-type]
    return Images(found.images[:1], found.labels[:1], found.indices[:1], found.tags[:1])


def _photos(paths: Sequence[Path], device: "torch.device") -> Images:
    import torch

    from explainkit_fer_hw3.data import read_image
    from explainkit_fer_hw3.data.dataset import normalize
    from explainkit_fer_hw3.face_check import face_distance

    images = normalize(torch.stack([read_image(path) for path in paths]))
    for path, distance in zip(paths, face_distance(images).tolist(), strict=True):
        if distance > 1:
            notes.print(
                f"warning: {path} may not be a face, or not a cropped one ({distance:.1f} times "
                "the usual distance to FER2013's faces): the networks were trained on nothing else"
            )
    unknown = [None] * len(paths)
    tags = distinct([f"{file_name(path.stem)}_{path.suffix[1:].lower()}" for path in paths])
    return Images(images.to(device), [*unknown], [*unknown], tags)


def _check_indices(indices: Sequence[int], count: int, what: str) -> None:
    for index in indices:
        if not 0 <= index < count:
            raise typer.BadParameter(f"--index {index}: {what} 0 to {count - 1}")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Networks and their predictions for the same labeled images."""

    networks: list["nn.Module"]
    faces: "FaceDataset"
    split: str
    predictions: list["Predictions"]


def evaluation(
    models: Sequence[str],
    data: Path | None,
    split: str | None,
    seed: int,
    device: str,
    index: Sequence[int] = (),
) -> Evaluation:
    """Loads networks and labeled images, and runs the networks on all of them."""
    networks = [load_model(name, device) for name in models]
    faces, split = labeled(data, split, seed)
    _check_indices(index, len(faces), f"{describe_data(data)} ({split}) has labeled images")
    return Evaluation(networks, faces, split, [predict(one, faces) for one in networks])


def load_labeled(path: Path | None, split: str, seed: int) -> "FaceDataset":
    """The labeled images of a split."""
    from explainkit.errors import DatasetError

    faces = load_data(path, split, seed)
    known = faces.labels >= 0
    if not known.any():
        raise DatasetError(
            f"expected labeled images in split {split!r}, but {describe_data(path)} has none"
        )
    return faces.subset(known)


def labeled(path: Path | None, split: str | None, seed: int) -> tuple["FaceDataset", str]:
    """The labeled images to evaluate on, and the split they belong to."""
    check_split(path, split)
    split = split or test_split(path)
    if split in {"train", "validation", "all"}:
        notes.print(
            f"note: {split} may contain images that the weights were trained on (the shipped "
            "weights: FER2013's training images), so this is not a test score"
        )
    return load_labeled(path, split, seed), split


def test_split(path: Path | None) -> str:
    """The split to evaluate on: public_test if the data has it, else validation."""
    from explainkit_fer_hw3.data import known_splits

    return "public_test" if path is None or "public_test" in known_splits(path) else "validation"


def describe_data(path: Path | None) -> str:
    """The name of the data, for a title or a JSON file."""
    return "synthetic faces" if path is None else str(path)


def predict(model: "nn.Module", faces: "FaceDataset", batch: int = 64) -> "Predictions":
    """A network's predictions, on the CPU."""
    import torch

    from explainkit_fer_hw3.study.predictions import Predictions

    # convolutions run fastest in this layout; set on the weights, as one channel can't carry it
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode(), progress("images", len(faces)) as advance:
        for part in faces.split(batch):
            parts.append(model(part.images.to(device)).cpu())
            advance(len(part), "")
    return Predictions(faces.labels, torch.cat(parts), faces.class_names)
