"""Options that several commands share, each declared once, and what is made from them."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from explainkit.errors import StorageError, line
from explainkit.files import check_writable, reason, reserved, write_file

if TYPE_CHECKING:
    import torch

Folder = TypeVar("Folder", Path, Path | None)


def writable(out: Folder) -> Folder:
    """Checks an output folder before work starts that would be lost."""
    if out is None:
        return out
    try:
        check_writable(out)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"can't write into {out}: {reason(error)}") from error
    return out


def valid_seed(seed: int) -> int:
    """Checks a seed, which all generators must accept."""
    if not 0 <= seed < 2**32:
        raise typer.BadParameter(f"--seed {seed}: expected 0 to {2**32 - 1}")
    return seed


MethodNames = Annotated[
    str,
    typer.Option(
        "--method", help="A method, or several separated by commas; see `explainkit list methods`."
    ),
]
ImageSet = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of images, a text file with one path per line, a zip file, or the name of a "
        "registered data set.",
    ),
]
Data = Annotated[Path | None, typer.Option(help="Path to the files of a registered data set.")]
Split = Annotated[str, typer.Option(help="Split of a registered data set.")]
Layer = Annotated[str | None, typer.Option(help="Dotted path of the layer that the method uses.")]
Param = Annotated[
    list[str] | None, typer.Option(help="A parameter of the method, `name=value`. Repeatable.")
]
Target = Annotated[
    str | None,
    typer.Option(help="The class to explain, by name or number. By default: the predicted class."),
]
Out = Annotated[Path, typer.Option(help="The output folder.", callback=writable)]
Dtype = Annotated[
    Literal["float32", "float64", "float16", "bfloat16"] | None,
    typer.Option(
        metavar="DTYPE", help="float32, float64, float16 or bfloat16. By default: the model's own."
    ),
]
Precision = Annotated[
    Literal["bfloat16"] | None,
    typer.Option(
        metavar="bfloat16",
        help="Run the model in bfloat16, for methods that only run it, such as occlusion or rise; "
        "the rank agreement with float32 is measured on the first image.",
    ),
]
Sample = Annotated[
    int | None, typer.Option(min=1, help="Use only this many images, evenly spread over all.")
]
Seed = Annotated[int, typer.Option(help="Random seed.", callback=valid_seed)]
Device = Annotated[str, typer.Option(help="auto, cpu, or a torch device such as cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print a single JSON object on stdout.")]
JsonValue = Annotated[bool, typer.Option("--json", help="Print one JSON value to stdout.")]
Report = Annotated[bool, typer.Option("--report", help="Also write an interactive HTML report.")]

OUT = Path("explainkit-out")
FILES = (".html", ".json", ".png")
"""Endings of the files that a command writes where ``--out`` names files."""


def find_device(name: str) -> "torch.device":
    """The torch device with this name; ``auto`` is the GPU if there is one, else the CPU."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.zeros(1, device=name).device
    except Exception as error:
        # a device's backend raises what it likes
        why = line(error).partition(": ")[2] or line(error)
        raise typer.BadParameter(f"--device {name}: {why}; try auto or cpu") from error
    if device.type == "meta":
        raise typer.BadParameter("--device meta: it holds no values; try auto or cpu")
    return device


def claim(context: typer.Context, out: Path, *stems: str) -> None:
    """Reserves the files of ``out`` whose names start with these stems, until the command ends.

    Raises:
        StorageError: Another command is writing some of them.
    """
    for stem in stems:
        context.with_resource(reserved(out / f".{stem}.lock", StorageError))


def names_in(text: str) -> list[str]:
    """The names in a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_registered(source: str, data: Path | None) -> bool:
    """Whether a source of images is the name of a registered data set.

    Raises:
        typer.BadParameter: It is not, although a path of its files is given.
    """
    from explainkit.catalog import discovery

    if not Path(source).exists() and discovery.registry("datasets").candidates(source):
        return True
    if data is not None:
        raise typer.BadParameter(f"--data: expected the name of a data set as SOURCE, got {source}")
    return False


def find_images(source: str, data: Path | None, split: str) -> Any:
    """The registered data set that a source of images names, or else the source itself."""
    from explainkit.catalog.factories import load_dataset

    return load_dataset(source, data, split) if is_registered(source, data) else source


def check_files(out: list[Path] | None, *, folders: bool = False) -> None:
    """Refuses files to write that are of no known kind, or in places that can't be written.

    Args:
        out: Files ``.html``, ``.json`` and ``.png``.
        folders: Whether a name without an ending is a folder to write.

    Raises:
        typer.BadParameter: There is one.
    """
    for path in out or []:
        is_folder = folders and not path.suffix
        if path.suffix.lower() not in FILES and not is_folder:
            wanted = f"{', '.join(FILES)}{', or a folder' if folders else ''}"
            raise typer.BadParameter(f"--out {path}: expected a file {wanted}")
        writable(path if is_folder else path.parent)


def write_result(found: Any, path: Path, command: str, **report: Any) -> None:
    """Writes an evaluation or concepts as the kind of file that a name says, or as a folder.

    Args:
        found: The result.
        path: As `check_files` allows it.
        command: The command line, which a report shows.
        **report: More of what the report shows.
    """
    match path.suffix.lower():
        case ".html":
            found.report(path, command=command, **report)
        case ".json":
            text = json.dumps(found.to_dict(), indent=1, allow_nan=False)
            write_file(path, text.encode(), StorageError)
        case ".png":
            from explainkit.render.figure import save_figure

            save_figure(found.plot(), path)
        case _:
            found.save(path)


def find_target(text: str | None) -> str | int | None:
    """What ``--target`` names: a class by name or number, or the text of an expression."""
    try:
        return text if text is None else int(text)
    except ValueError:
        return text


def command_line(context: typer.Context, *without: str) -> str:
    """The command line that was called, with the options that differ from their defaults.

    Args:
        context: Of the command.
        *without: Names of parameters that are left out.
    """
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value == option.default or value is None or option.name in (None, *without):
            continue
        flag = [] if option.param_type_name == "argument" else [option.opts[0]]
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is False:
                words.append(option.secondary_opts[0])
            else:
                words += flag if one is True else [*flag, str(one)]
    return shlex.join(words)


def show(table: Table) -> None:
    """Prints a table with whole words, even if that is wider than the terminal."""
    console = Console(emoji=False)
    for column in table.columns:
        texts = (Text.from_markup(str(cell)).plain for cell in (column.header, *column.cells))
        column.min_width = max(
            (cell_len(word) for text in texts for word in text.split()), default=0
        )
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).minimum)
    console.print(table, crop=False)
