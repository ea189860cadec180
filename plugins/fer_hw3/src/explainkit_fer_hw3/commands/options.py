"""The options that commands share, each declared once, and what they stand for."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from explainkit_fer_hw3.data import FaceDataset
    from explainkit_fer_hw3.study.predictions import Predictions

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="FER2013 in any of its forms: a CSV, a folder `train/<class>/*.jpg`, or a zip of "
        "either. Without it: faces drawn on the spot.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="train, validation, public_test, private_test or all."),
]
Index = Annotated[
    list[int] | None,
    typer.Option(
        "--index",
        help="Number of an image within the split, in file order (a folder tree: in sorted path "
        "order). May be repeated.",
    ),
]
Image = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        help="Any photo of a face: it is made gray, cropped to its central square and resized. "
        "May be repeated.",
    ),
]
Model = Annotated[str, typer.Option("--model", help="cnn, dnn, or a .safetensors file of weights.")]
MethodName = Annotated[
    str, typer.Option("--method", help="A saliency method; `explainkit list methods` shows all.")
]
Param = Annotated[
    list[str] | None,
    typer.Option("--param", help="A parameter of the method, `name=value`. May be repeated."),
]
Target = Annotated[
    str | None,
    typer.Option("--target", help="The class to explain, by name or number; else the predicted."),
]
Histories = Annotated[
    list[Path] | None,
    typer.Option(
        "--history",
        help="The `history.csv` of a training run, the first network's first. May be repeated; "
        "without it: the curves that ship with the weights.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The folder to write into.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn at random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, or a torch device such as cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and only it.")]

Report = Annotated[
    bool,
    typer.Option("--report", help="Write an HTML file too, to look into the maps in a browser."),
]

OUT = Path("explainkit-out")

notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def load_model(name: str, device: str) -> "nn.Module":
    """The network, on its device.

    Raises:
        ModelError: A file that is no such network, or a network for other images or classes.
        typer.BadParameter: A device that this machine doesn't have.
    """
    import explainkit as ek
    from explainkit.errors import ModelError
    from explainkit_fer_hw3.models import CNN

    model = ek.load_model(f"fer_hw3/{name}" if name in {"cnn", "dnn"} else name)
    # other numbers would come out of these, and look right
    for field in ("image_shape", "class_names", "mean", "std"):
        wanted, found = (getattr(spec, field) for spec in (CNN, model.explainkit_spec))
        if found != wanted:
            raise ModelError(
                f"expected a network of this study with {field} {wanted}, got {name} with {found}: "
                "use cnn, dnn or a file of their weights"
            )
    return model.to(find_device(device))


def model_tag(name: str) -> str:
    """A model's part of a file name: ``cnn``, or folder and name of a file of weights."""
    path = Path(name)
    return f"{path.resolve().parent.name}-{path.stem}" if path.suffix else path.name


def find_device(name: str) -> "torch.device":
    """The torch device of a name; ``auto`` takes a GPU where there is one.

    Raises:
        typer.BadParameter: This machine doesn't have it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"--device {name}: {reason}; try auto or cpu") from error


def load_data(path: Path | None, split: str, seed: int) -> "FaceDataset":
    """FER2013 from a file or folder, or synthetic faces without one.

    Raises:
        DatasetError: It can't be read, or has no such split.
    """
    from explainkit_fer_hw3.data import load_fer2013, load_synthetic

    if path is None:
        return load_synthetic(None, split, seed=seed)
    return load_fer2013(path, split, seed=seed)


def labeled(path: Path | None, split: str | None, seed: int) -> tuple["FaceDataset", str]:
    """The labeled images to measure on, and the split they are of.

    Raises:
        DatasetError: The data can't be read, or its images have no labels.
    """
    from explainkit.errors import DatasetError

    split = split or test_split(path)
    if split in ({"train"} if path is None else {"train", "validation", "all"}):
        notes.print(
            f"note: {split} may hold images that the weights were trained on (the shipped ones "
            "were, on FER2013's training images and drawn ones): this is no test"
        )
    faces = load_data(path, split, seed)
    known = (faces.labels >= 0).nonzero().flatten()
    if not len(known):
        raise DatasetError(f"expected images with labels, {describe_data(path)} has none")
    return faces.subset(known), split


def test_split(path: Path | None) -> str:
    """The split to measure on: public_test where the data has it, else validation.

    Raises:
        DatasetError: The data can't be read.
    """
    from explainkit_fer_hw3.data import known_splits

    return "public_test" if path is None or "public_test" in known_splits(path) else "validation"


def describe_data(path: Path | None) -> str:
    """What the images are, for a title or a record."""
    return "synthetic faces" if path is None else str(path)


def command_line(context: typer.Context) -> str:
    """The command that was called, with the options that were given."""
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value == option.default or value is None or option.name is None:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return shlex.join(words)


def show(table: Table) -> None:
    """Prints a table at its full width: a narrow terminal wraps lines, it cuts no numbers."""
    console = Console()
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def read(model: "nn.Module", faces: "FaceDataset", batch: int = 64) -> "Predictions":
    """What a network reads in images, on the CPU, with a progress bar on a terminal."""
    import torch

    from explainkit_fer_hw3.study.predictions import Predictions

    # the layout in which convolutions run fastest; one channel can't carry it, the weights can
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode(), progress(len(faces), "images") as advance:
        for start in range(0, len(faces), batch):
            images = faces.subset(range(start, min(start + batch, len(faces)))).images
            parts.append(model(images.to(device)).cpu())
            advance(len(images))
    return Predictions(faces.labels, torch.cat(parts), faces.class_names)


@contextmanager
def progress(total: int, what: str) -> Iterator[Any]:
    """A progress bar on stderr, none where that is no terminal; gives a function to advance it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=notes, transient=True, disable=not notes.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
