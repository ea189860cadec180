"""The options that say which model a command loads, and what is known about it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
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


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the command line says about a model, beside its source."""

    weights: Annotated[
        Path | None, typer.Option(help="A weights file to load into the model.", dir_okay=False)
    ] = None
    pretrained: Annotated[
        bool, typer.Option(help="Whether to load the weights that come with the model.")
    ] = True
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Also read weights saved by torch.save.")
    ] = False
    classes: Annotated[
        Path | None,
        typer.Option(help="A file with the class names: one per line, or JSON.", dir_okay=False),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of pixel / 255 in training, per channel: 0.485,0.456,0.406."),
    ] = None
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of pixel / 255 in training, per channel.")
    ] = None
    size: Annotated[
        str | None, typer.Option(help="Size of the model's input: 224, or height x width: 224x320.")
    ] = None
    crop: Annotated[
        float | None,
        typer.Option(help="Share of the shorter side that the model sees; the rest is cropped."),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(help="Which of several outputs holds the scores: index, key or path."),
    ] = None
    task: Annotated[
        Literal["classification", "multilabel", "regression"] | None,
        typer.Option(
            metavar="TASK",
            help="What the scores mean: classification (one class, the default), multilabel or "
            "regression.",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `load_model` that the options stand for.

        Raises:
            typer.BadParameter: A value is not of its form.
            ModelError: The file of class names can't be read.
        """
        from explainkit.adapters.class_names import read_class_names

        output = self.output
        return {
            "weights": self.weights,
            "pretrained": self.pretrained,
            "allow_pickle": self.allow_pickle,
            "class_names": None if self.classes is None else read_class_names(self.classes),
            "mean": None if self.mean is None else _numbers("--mean", self.mean),
            "std": None if self.std is None else _numbers("--std", self.std),
            "size": None if self.size is None else read_size("--size", self.size),
            "crop": self.crop,
            "output": int(output) if output and output.lstrip("-").isdigit() else output,
            "task": self.task,
        }

    def load(self, source: str) -> "nn.Module":
        """Loads the model that a source and the options describe.

        Raises:
            typer.BadParameter: A value is not of its form.
            ExplainkitError: The model can't be loaded.
        """
        from explainkit.catalog.models import load_model
        from explainkit.catalog.registry import foreign_code

        with foreign_code():
            return load_model(source, **self.arguments())


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the model's options where it has a parameter ``known: ModelOptions``."""
    signature, added = (inspect.signature(one) for one in (command, ModelOptions))
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += added.parameters.values() if name == "known" else [parameter]

    @wraps(command)
    def run(**values: Any) -> None:
        known = {name: values.pop(name) for name in added.parameters}
        command(**values, known=ModelOptions(**known))

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


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
