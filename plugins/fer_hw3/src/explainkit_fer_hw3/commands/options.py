"""The options that commands share, each declared once, and what the commands load with them."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

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
        "resized. Repeatable."
    ),
]
Model = Annotated[str, typer.Option(help="cnn, dnn, or a .safetensors weights file.")]
MethodName = Annotated[
    str, typer.Option(help="An attribution method; see `explainkit list methods`.")
]
Param = Annotated[
    list[str] | None, typer.Option(help="A parameter of the method, `name=value`. Repeatable.")
]
Target = Annotated[
    str | None,
    typer.Option(help="The class to explain, by name or number. By default: the predicted class."),
]
Histories = Annotated[
    list[Path] | None,
    typer.Option(
        help="The `history.csv` of a training run, in the order of the networks. Repeatable. By "
        "default: the curves that ship with the weights."
    ),
]
Out = Annotated[Path, typer.Option(help="The output folder.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or a torch device such as cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print a single JSON object on stdout.")]

Report = Annotated[bool, typer.Option("--report", help="Also write an interactive HTML report.")]

OUT = Path("explainkit-out")

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


def file_name(text: str) -> str:
    """A text as part of a file name; one that loses characters gets a digest, to stay unique.

    Examples:
        >>> file_name("sad"), file_name("sad - fear"), file_name("sad + fear")
        ('sad', 'sad_-_fear_514c9f38', 'sad_fear_2f4e4379')
    """
    words = "".join(c if c.isalnum() or c in "_-" else " " for c in text).split()
    name = "_".join(words)[:40]
    return name if name == text else f"{name}_{_digest(text)}"


def joined(names: Sequence[str], longest: int = 80) -> str:
    """Names as one part of a file name; a list that is cut ends in a digest of the whole list."""
    text = "-".join(names)
    return text if len(text) <= longest else f"{text[: longest - 9]}_{_digest(text)}"


def distinct(names: Sequence[str]) -> list[str]:
    """The names, repeated ones numbered.

    Examples:
        >>> distinct(["face", "me", "face"])
        ['face', 'me', 'face_2']
    """
    found: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found.append(unique)
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def find_device(name: str) -> "torch.device":
    """The torch device with this name; ``auto`` is the GPU if there is one, else the CPU."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"--device {name}: {reason}; try auto or cpu") from error


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
    faces = load_data(data, split or "all", seed)
    chosen = list(index or (STUDY_ROW if data is None else [0]))
    _check_indices(chosen, len(faces), f"{describe_data(data)} ({split or 'all'}) has images")
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

    pixels = torch.stack([read_image(path) for path in paths])
    unknown = [None] * len(paths)
    tags = distinct([f"{file_name(path.stem)}_{path.suffix[1:].lower()}" for path in paths])
    return Images(normalize(pixels).to(device), [*unknown], [*unknown], tags)


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
    split = split or test_split(path)
    if split in ({"train"} if path is None else {"train", "validation", "all"}):
        notes.print(
            f"note: {split} may contain images that the weights were trained on (the shipped "
            "weights: FER2013's training images and synthetic faces), so this is not a test score"
        )
    return load_labeled(path, split, seed), split


def test_split(path: Path | None) -> str:
    """The split to evaluate on: public_test if the data has it, else validation."""
    from explainkit_fer_hw3.data import known_splits

    return "public_test" if path is None or "public_test" in known_splits(path) else "validation"


def describe_data(path: Path | None) -> str:
    """The name of the data, for a title or a JSON file."""
    return "synthetic faces" if path is None else str(path)


def command_line(context: typer.Context) -> str:
    """The command line that was called, with the options that differ from their defaults."""
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value == option.default or value is None or option.name is None:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return shlex.join(words)


def show(table: Table) -> None:
    """Prints a table at its full width, so a narrow terminal wraps lines and cuts no numbers."""
    console = Console()
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


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
