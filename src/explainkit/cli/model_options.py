"""The options that say which model a command loads, and what is known about it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from torch import nn

SOURCES = (
    "timm:NAME, torchvision:NAME, transformers:NAME or a folder of it, FILE.py:NAME, "
    "PACKAGE.MODULE:NAME, onnx:FILE, or a registered name; see `explainkit list models`."
)

Source = Annotated[str, typer.Option("--model", help=f"The model: {SOURCES}")]
Weights = Annotated[
    Path | None, typer.Option(help="A weights file to load into the model.", dir_okay=False)
]
Pretrained = Annotated[
    bool, typer.Option(help="Whether to load the weights that come with the model.")
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Also read weights saved by torch.save.")
]
Classes = Annotated[
    Path | None,
    typer.Option(help="A file with the class names: one per line, or JSON.", dir_okay=False),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean of pixel / 255 in training, per channel: 0.485,0.456,0.406."),
]
Std = Annotated[
    str | None, typer.Option(help="Standard deviation of pixel / 255 in training, per channel.")
]
Size = Annotated[
    str | None, typer.Option(help="Size of the model's input: 224, or height x width: 224x320.")
]
Crop = Annotated[
    float | None,
    typer.Option(help="Share of the shorter side that the model sees; the rest is cropped."),
]
Output = Annotated[
    str | None, typer.Option(help="Which of several outputs holds the scores: index, key or path.")
]
TaskName = Annotated[
    Literal["classification", "multilabel", "regression"] | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="What the scores mean: classification (one class, the default), multilabel or "
        "regression.",
    ),
]


def load(source: str, **options: Any) -> "nn.Module":
    """Loads the model that the options describe; see `arguments`.

    Raises:
        typer.BadParameter: A value is not of its form.
        ExplainkitError: The model can't be loaded.
    """
    from explainkit.catalog.models import load_model
    from explainkit.catalog.registry import foreign_code

    with foreign_code():
        return load_model(source, **arguments(**options))


def arguments(
    *,
    weights: Path | None,
    pretrained: bool,
    allow_pickle: bool,
    classes: Path | None,
    mean: str | None,
    std: str | None,
    size: str | None,
    crop: float | None,
    output: str | None,
    task: Any,
) -> dict[str, Any]:
    """The arguments of `load_model` that the options stand for.

    Raises:
        typer.BadParameter: A value is not of its form.
        ModelError: The file of class names can't be read.
    """
    from explainkit.adapters.class_names import read_class_names

    return {
        "weights": weights,
        "pretrained": pretrained,
        "allow_pickle": allow_pickle,
        "class_names": None if classes is None else read_class_names(classes),
        "mean": None if mean is None else _numbers("--mean", mean),
        "std": None if std is None else _numbers("--std", std),
        "size": None if size is None else read_size("--size", size),
        "crop": crop,
        "output": int(output) if output is not None and output.lstrip("-").isdigit() else output,
        "task": task,
    }


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{option}: expected numbers separated by commas, got {text!r}"
        ) from None


def read_size(option: str, text: str) -> int | tuple[int, int]:
    """A number for height and width, or both: 224, 224x320.

    Raises:
        typer.BadParameter: The text is not of this form.
    """
    sides = text.lower().replace(",", "x").split("x")
    if not 1 <= len(sides) <= 2 or not all(side.strip().isdigit() for side in sides):
        raise typer.BadParameter(
            f"{option}: expected 224 or height x width (224x320), got {text!r}"
        )
    numbers = [int(side) for side in sides]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
