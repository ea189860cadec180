"""Options that several commands share, each declared once, and what is made from them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import torch

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
Out = Annotated[Path, typer.Option(help="The output folder.")]
Dtype = Annotated[
    Literal["float32", "float64", "float16", "bfloat16"] | None,
    typer.Option(help="The number format to run the model in. By default: the model's own."),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or a torch device such as cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print a single JSON object on stdout.")]
JsonValue = Annotated[bool, typer.Option("--json", help="Print one JSON value to stdout.")]
Report = Annotated[bool, typer.Option("--report", help="Also write an interactive HTML report.")]

OUT = Path("explainkit-out")


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


def find_dtype(name: str) -> "torch.dtype":
    """The torch dtype with this name."""
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def find_target(text: str | None) -> str | int | None:
    """What ``--target`` names: a class by name or number, or the text of an expression."""
    try:
        return text if text is None else int(text)
    except ValueError:
        return text


def command_line(context: typer.Context) -> str:
    """The command line that was called, with the options that differ from their defaults."""
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value == option.default or value is None or option.name is None:
            continue
        flag = [] if option.param_type_name == "argument" else [option.opts[0]]
        for one in value if isinstance(value, list | tuple) else [value]:
            words += flag if one is True else [*flag, str(one)]
    return shlex.join(words)


def show(table: Table) -> None:
    """Prints a table at its full width, so a narrow terminal wraps lines and cuts no numbers."""
    console = Console(emoji=False)
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
