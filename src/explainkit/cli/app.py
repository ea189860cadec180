"""The command line. Nothing here imports torch before a command needs it."""

import dataclasses
import inspect
import json
import os
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

import explainkit
from explainkit.catalog import discovery
from explainkit.catalog.registry import resolve
from explainkit.errors import ExplainkitError, PluginError, UnknownNameError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""

errors = Console(stderr=True, highlight=False, emoji=False)


class PluginGroup(TyperGroup):
    """The group ``run``: its commands are the plugins, each imported only when it is named."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Ids of the installed plugins, from metadata alone."""
        return discovery.default().names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command that says only that the plugin is there: enough for ``run --help``."""
        if cmd_name not in self.list_commands(ctx):
            return None
        stub = typer.Typer(name=cmd_name, add_completion=False)
        stub.callback(help=f"Commands of {discovery.default().version_of(cmd_name)}.")(lambda: None)
        return typer.main.get_group(stub)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Loads the one plugin that was named, and mounts its own commands."""
        name, *rest = args
        if name not in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        commands = discovery.default().offer(name, "explainkit_commands")
        if isinstance(commands, str):
            commands = resolve(commands, f"plugin {name!r} offers commands")
        if not isinstance(commands, typer.Typer):
            raise PluginError(
                f"plugin {name!r} offers {type(commands).__name__} as commands, not a typer.Typer"
            )
        # the group decides how its commands' help is read, whatever the plugin's own app says
        mounted = typer.Typer(add_completion=False, rich_markup_mode=commands.rich_markup_mode)
        mounted.add_typer(commands, name=name)
        return name, typer.main.get_group(mounted).commands[name], rest


app = typer.Typer(
    name="explainkit",
    help="Visual explanations of PyTorch image models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
run = typer.Typer(
    cls=PluginGroup,
    help="Run a plugin's commands, e.g. [bold]explainkit run fer_hw3 saliency[/bold].",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(run, name="run")


def _version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "not installed"
        typer.echo(f"explainkit {explainkit.__version__}")
        typer.echo(f"python {platform.python_version()}, torch {torch}")
        for name in discovery.default().names():
            typer.echo(f"{name}: {discovery.default().version_of(name)}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True,
            help="Versions of explainkit, torch and the plugins: what a bug report needs.",
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:  # fmt: skip
    """Visual explanations of PyTorch image models."""


@app.command("list")
def list_names(
    kind: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(discovery.KINDS)}; all by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Everything that can be named: methods, models, data sets."""
    kinds = _kinds(kind)
    rows = [
        {"kind": one, "name": name, "summary": summary}
        for one in kinds
        for name, summary in discovery.described(one).items()
    ]
    _mention_broken()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for one in kinds:
        table = Table(title=one, title_justify="left", box=None)
        table.add_column("name", min_width=max((len(row["name"]) for row in rows), default=0))
        table.add_column("what it is")
        for row in rows:
            if row["kind"] == one:
                table.add_row(escape(row["name"]), escape(row["summary"]))
        Console(emoji=False).print(table)


def _kinds(kind: str | None) -> Sequence[str]:
    if kind is None:
        return tuple(discovery.KINDS)
    if kind not in discovery.KINDS:
        raise typer.BadParameter(f"expected {', '.join(discovery.KINDS)}, got {kind!r}")
    return (kind,)


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="A method, a model or a data set.")],
    as_json: Json = False,
) -> None:
    """What something is: formula, parameters with defaults, source."""
    kind, full, value = _find(name)
    _mention_broken()
    text = inspect.getdoc(value) if isinstance(value, type) else discovery.summary(value)
    fields = {
        field.name: {"type": _type(field.type), "default": _default(field, value)}
        for field in dataclasses.fields(value)
        if field.name != "summary"
    }
    if as_json:
        typer.echo(
            json.dumps(
                {"kind": kind, "name": full, "text": text, "fields": fields}, indent=2, default=str
            )
        )
        return
    console = Console(emoji=False)
    console.print(f"[bold]{escape(full)}[/bold] ({kind})\n")
    console.print(escape(text or ""), highlight=False, soft_wrap=True, end="\n\n")
    if fields:
        table = Table("field", "type", "default" if isinstance(value, type) else "value", box=None)
        for field, facts in fields.items():
            table.add_row(field, escape(facts["type"]), escape(str(facts["default"])))
        console.print(table)


def _find(name: str) -> tuple[str, str, Any]:
    """The kind, qualified name and object of anything that has a name."""
    for kind, singular in discovery.KINDS.items():
        registry = discovery.registry(kind)
        if any(name in (full, full.partition("/")[2]) for full in registry.names()):
            full = registry.qualify(name)
            return singular, full, registry.get(full)
    methods = discovery.registry("methods")
    try:
        full = methods.qualify(name)
    except UnknownNameError as error:
        text = str(error).replace("no method is named", "nothing is named")
        raise UnknownNameError(text.replace("list methods", "list")) from None
    return discovery.KINDS["methods"], full, methods.get(full)


def _type(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(annotation)))
    return text


def _default(field: dataclasses.Field[Any], value: Any) -> Any:
    if not isinstance(value, type):
        return getattr(value, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)"


@app.command("plugins")
def list_plugins(as_json: Json = False) -> None:
    """The installed plugins: version, hooks, status, and what is wrong with a broken one."""
    reports = discovery.default().reports()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(report) for report in reports], indent=2))
        return
    table = Table("plugin", "distribution", "version", "status", "offers", box=None)
    for report in reports:
        hooks = ", ".join(hook.removeprefix("explainkit_") for hook in report.hooks)
        table.add_row(
            *map(escape, (report.name, report.distribution, report.version, report.status, hooks))
        )
    Console(emoji=False).print(table)
    for report in reports:
        if report.error:
            Console(highlight=False, emoji=False).print(
                f"{escape(str(report))}: {escape(report.error)}"
            )


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Its id, e.g. my_method.")],
    path: Annotated[
        Path, typer.Option("--path", help="The folder in which its own folder is made.")
    ] = Path(),
) -> None:
    """Write a working plugin with its test."""
    from explainkit.cli.scaffold import new_plugin as write

    folder = write(name, path)
    typer.echo(f"{folder}: a working plugin. Next:")
    typer.echo(f"  pip install -e '{folder}[test]'")
    typer.echo(f"  python -m pytest {folder}")
    typer.echo(f"  explainkit describe {name}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this installation: versions, devices, plugins, packages that don't fit."""
    from explainkit.cli.doctor import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        console = Console(highlight=False, emoji=False)
        for check in checks:
            color = {"ok": "green", "warning": "yellow", "problem": "red"}[check.status]
            console.print(
                f"[{color}]{check.status:8}[/{color}] {escape(check.name)}: {escape(check.found)}"
            )
            if check.remedy:
                console.print(f"         → {escape(check.remedy)}")
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(1)


gallery = typer.Typer(
    help="Pages that the library itself made: scripts, run, with their figures and tables.",
    no_args_is_help=True,
)
app.add_typer(gallery, name="gallery")


@gallery.callback()
def gallery_root() -> None:
    """Pages that the library itself made: scripts, run, with their figures and tables."""


@gallery.command("build")
def build_gallery(
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")] = Path(
        "docs/gallery"
    ),
    plugin: Annotated[
        str | None, typer.Option("--plugin", help="Build this plugin's pages only.")
    ] = None,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=1, help="What one script may take.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Of everything drawn at random.")] = 0,
) -> None:
    """Run the gallery scripts of the core and of every plugin, and write them as Markdown pages.

    A page is reused if its script, the library, the plugin and the weights are unchanged. A script
    that fails stops the build and shows its traceback.
    """
    from explainkit.errors import GalleryError
    from explainkit.gallery import build

    try:
        for page in build(out, plugin, seed=seed, max_seconds=max_seconds):
            how = f"run in {page.seconds:.1f} s"
            if page.missing:
                how = f"left out: it needs the plugin {page.missing}"
            typer.echo(f"{page.page}: {'unchanged' if page.reused else how}")
    except GalleryError as error:
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        raise
    _mention_broken()
    typer.echo(f"gallery: {out / 'index.md'}")


def _mention_broken() -> None:
    """One line on stderr for each plugin that is broken."""
    for report in discovery.default().broken():
        errors.print(
            f"warning: plugin {escape(str(report))}: {escape(report.error)}; "
            "see 'explainkit plugins'",
            soft_wrap=True,
        )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process with its exit code.

    0: done; 1: it failed, in one line; 2: wrong use, with a way out; 130: interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in arguments
    # an error of any command asks for --traceback, so it is understood at any place
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        app(arguments, prog_name="explainkit")
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer has swallowed the interrupt itself
            errors.print("interrupted")
        raise
    except ExplainkitError as error:
        if traceback:
            raise
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(2 if isinstance(error, UnknownNameError) else 1)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # the reader has gone: nothing is left to say, and flushing at exit must not say it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)
