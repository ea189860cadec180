"""The command line; torch is imported only by commands that need it."""

import dataclasses
import json
import sys
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
from explainkit.cli import process
from explainkit.cli.batch import batch
from explainkit.cli.concepts import concepts
from explainkit.cli.describe import describe
from explainkit.cli.evaluate import evaluate
from explainkit.cli.explain import explain
from explainkit.cli.options import JsonValue, Seed, show, writable
from explainkit.cli.printing import complain, mention_broken
from explainkit.cli.stores import export, report_index, status
from explainkit.cli.verify import verify
from explainkit.errors import PluginError, line


class PluginGroup(TyperGroup):
    """The group ``run``: its commands are the plugins, each imported only when named."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Ids of the installed plugins, read from metadata."""
        return discovery.default().names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A placeholder for the plugin, which is all that ``run --help`` needs."""
        if cmd_name not in self.list_commands(ctx):
            return None
        stub = typer.Typer(name=cmd_name, add_completion=False)
        stub.callback(help=f"Commands of {discovery.default().version_of(cmd_name)}.")(lambda: None)
        return typer.main.get_group(stub)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Loads the named plugin and mounts its commands."""
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
        # Typer takes the markup mode from the outer app and ignores that of a mounted one
        mounted = typer.Typer(add_completion=False, rich_markup_mode=commands.rich_markup_mode)
        mounted.add_typer(commands, name=name)
        try:
            group = typer.main.get_group(mounted)
        except Exception as error:
            # Typer raises various errors for parameters that it does not support
            raise PluginError(
                f"plugin {name!r} offers commands that Typer refuses: {line(error)}"
            ) from error
        return name, group.commands[name], rest


app = typer.Typer(
    name="explainkit",
    help="Visual explanations of PyTorch image models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
run = typer.Typer(
    cls=PluginGroup,
    help="Run a plugin's commands, e.g. `explainkit run fer_hw3 saliency`.",
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
            help="Print the versions of explainkit, Python, torch and the plugins.",
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the full traceback of an error.")
    ] = False,
) -> None:  # fmt: skip
    """Visual explanations of PyTorch image models."""


app.command()(explain)
app.command()(batch)
app.command()(evaluate)
app.command()(concepts)
app.command()(status)
app.command("report")(report_index)
app.command()(export)
app.command()(verify)
app.command()(describe)


@app.command("list")
def list_names(
    kind: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(discovery.KINDS)}. Default: all.")
    ] = None,
    as_json: JsonValue = False,
) -> None:
    """List the available methods, metrics, models, data sets and maximizers."""
    if kind not in (None, *discovery.KINDS):
        raise typer.BadParameter(f"expected {', '.join(discovery.KINDS)}, got {kind!r}")
    kinds = [*discovery.KINDS] if kind is None else [kind]
    rows = [
        {"kind": one, "name": name, "summary": summary}
        for one in kinds
        for name, summary in discovery.described(one).items()
    ]
    mention_broken()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    longest = max((len(row["name"]) for row in rows), default=0)  # all tables are aligned
    for one in kinds:
        table = Table(title=one, title_justify="left", box=None)
        table.add_column("name".ljust(longest))
        table.add_column("summary")
        for row in rows:
            if row["kind"] == one:
                table.add_row(escape(row["name"]), escape(row["summary"]))
        show(table)


@app.command("plugins")
def list_plugins(as_json: JsonValue = False) -> None:
    """List the installed plugins: version, hooks, status, and the error of a broken one."""
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
    show(table)
    for report in reports:
        if report.error:
            Console(highlight=False, emoji=False).print(
                f"{escape(str(report))}: {escape(report.error)}"
            )


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's id, e.g. my_method.")],
    path: Annotated[
        Path, typer.Option(help="Parent of the new folder.", callback=writable)
    ] = Path(),
    parts: Annotated[
        str,
        typer.Option(
            "--with", help="What it provides: method, model, dataset, metric, command, gallery."
        ),
    ] = "method",
) -> None:
    """Create a working plugin with its tests."""
    from explainkit.cli.scaffold import new_plugin as write

    folder = write(name, path, [part.strip() for part in parts.split(",")])
    typer.echo(f"{folder}: a working plugin. Next:")
    typer.echo(f"  pip install -e '{folder}[test]'")
    typer.echo(f"  python -m pytest {folder}")
    typer.echo("  explainkit plugins")


@app.command()
def doctor(as_json: JsonValue = False) -> None:
    """Check this installation: versions, devices, plugins, incompatible packages."""
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
    help="Build example pages from scripts, with their figures and tables.", no_args_is_help=True
)
app.add_typer(gallery, name="gallery")


@gallery.callback()
def gallery_root() -> None:
    """Build example pages from scripts, with their figures and tables."""


@gallery.command("build")
def build_gallery(
    out: Annotated[Path, typer.Option(help="The output folder.", callback=writable)] = Path(
        "docs/gallery"
    ),
    plugin: Annotated[str | None, typer.Option(help="Build only this plugin's pages.")] = None,
    max_seconds: Annotated[float, typer.Option(min=1, help="CPU time limit of a script.")] = 300,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Number of scripts to run at a time.")] = 1,
) -> None:
    """Run the gallery scripts of the core and of all plugins, and write Markdown pages.

    A page is reused if its script, the library, the plugin and the weights are unchanged.
    The build stops at the first script that fails and shows its traceback.
    """
    from explainkit.errors import GalleryError
    from explainkit.gallery import build

    try:
        for page in build(out, plugin, seed=seed, max_seconds=max_seconds, jobs=jobs):
            how = f"run in {page.seconds:.1f} s"
            if page.missing:
                how = f"skipped: it needs the plugin {page.missing}"
            if page.uninstalled:
                how = f"skipped: pip install {' '.join(page.uninstalled)}"
            typer.echo(f"{page.page}: {'unchanged' if page.reused else how}")
    except GalleryError as error:
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        raise
    mention_broken()
    typer.echo(f"gallery: {out / 'index.md'}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits.

    Exit codes: 0 success; 1 failure; 2 the command is wrong: a name, a value or a file that can't
    be used; 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in arguments
    # --traceback works at any position, also after a command
    arguments = [argument for argument in arguments if argument != "--traceback"]
    process.prepare_streams()
    try:
        with process.ending_signals():
            try:
                app(arguments, prog_name="explainkit")
            finally:
                sys.stdout.flush()
    except SystemExit as end:
        if process.was_interrupted(end):
            complain("interrupted")
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(process.INTERRUPTED)
    except BaseException as error:
        if traceback:
            raise
        sys.exit(process.report(error))
    sys.exit(0)
