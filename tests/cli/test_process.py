"""The process around a command: exit codes, streams that are odd or full, and signals."""

import io
import os
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from explainkit import errors
from explainkit.cli import process
from explainkit.cli.app import app, main
from explainkit.cli.options import claim
from explainkit.errors import StorageError
from explainkit.files import locked

posix = pytest.mark.skipif(os.name != "posix", reason="signals and devices as POSIX has them")


def ended(monkeypatch, capsys, error, *arguments):
    """Exit code and stderr of a command that raises this."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("explainkit.cli.app.app", fail)
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UnknownNameError, 2),
        (errors.InputError, 2),
        (errors.TargetError, 2),
        (errors.MethodError, 2),
        (errors.DatasetError, 2),
        (errors.ModelLookupError, 2),
        (errors.ModelError, 1),
        (errors.PluginError, 1),
        (errors.StorageError, 1),
        (errors.RenderError, 1),
        (errors.GalleryError, 1),
    ],
)
def test_two_is_the_code_of_what_was_given_wrongly(kind, code, monkeypatch, capsys):
    assert ended(monkeypatch, capsys, kind("no [red]such[/red]\nthing")) == (
        code,
        "error: no [red]such[/red] thing\n",
    )


def test_what_nobody_foresaw_is_one_line_and_a_traceback_on_request(monkeypatch, capsys):
    assert ended(monkeypatch, capsys, ZeroDivisionError("by\nzero")) == (
        1,
        "internal error: ZeroDivisionError: by; --traceback shows where; please report it\n",
    )
    with pytest.raises(ZeroDivisionError):
        main(["--traceback"])


def test_a_file_that_the_system_refuses(monkeypatch, capsys):
    error = FileNotFoundError(2, "No such file or directory", "x.png")
    assert ended(monkeypatch, capsys, error) == (1, "error: x.png: No such file or directory\n")


def test_long_messages_and_control_characters(monkeypatch, capsys):
    _, printed = ended(monkeypatch, capsys, errors.TargetError("\x1b[2J" + "9" * 10**5))
    assert printed.startswith("error: �[2J999")
    assert len(printed) < 2100


@posix
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_signals_end_a_command_as_ctrl_c_does(number, monkeypatch, capsys, tmp_path):
    number = getattr(signal, number)
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    later = typer.Typer()

    @later.command()
    def work(context: typer.Context) -> None:
        claim(context, tmp_path, "stem")
        os.kill(os.getpid(), number)
        raise AssertionError

    monkeypatch.setattr("explainkit.cli.app.app", later)
    try:
        with pytest.raises(SystemExit) as caught:
            main([])
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not list(tmp_path.iterdir())


@posix
def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.ending_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_exit_with_the_code_of_an_interrupt_keeps_its_own_words(monkeypatch, capsys):
    stopped = typer.Typer()

    @stopped.command()
    def work() -> None:
        raise typer.Exit(130)

    monkeypatch.setattr("explainkit.cli.app.app", stopped)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert (caught.value.code, capsys.readouterr().err) == (130, "")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"2x3 - ... 5 a \xff?"), ("latin-1", b"2\xd73 - ... 5 \xe4 \xff?")],
)
def test_terminals_that_lack_characters(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", None)
    process.prepare_streams()
    print("2×3 − … ⁵ ä \udcff∇", end="", flush=True)
    print("nowhere", file=sys.stderr)
    sys.stderr.close()
    assert raw.getvalue() == shown


def test_file_names_that_are_not_text(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    process.prepare_streams()
    print("a\udcff × é", end="", flush=True)
    assert raw.getvalue() == b"a" + b"\xff" + " × é".encode()


def shell(command, **environment):
    text = command.replace("explainkit", f"{sys.executable} -m explainkit", 1)
    return subprocess.run(
        text, shell=True, capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "80"} | environment,
    )  # fmt: skip


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_and_closed_streams():
    done = shell("explainkit --version > /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "error: can't write to stdout: No space left on device\n",
    )
    done = shell("explainkit describe nothing 2> /dev/full")
    assert (done.returncode, done.stdout) == (2, "")
    done = shell("explainkit --version >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_ascii_terminals():
    done = shell(
        "explainkit run fer_hw3 --help", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@pytest.mark.parametrize("columns", [20, 33, 47, 80])
def test_narrow_terminals_show_whole_names(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    listed = CliRunner().invoke(app, ["list", "maximizers"]).stdout
    assert "explainkit/fourier" in listed.split()
    listed = CliRunner().invoke(app, ["plugins"]).stdout
    assert {"explainkit-vision", "explainkit-fer-hw3", "fer_hw3"} <= set(listed.split())


def test_output_paths_are_checked_first(tmp_path):
    (tmp_path / "file").touch()
    for command in ["gallery build --out", "new-plugin mine --path"]:
        result = CliRunner().invoke(app, [*command.split(), str(tmp_path / "file")])
        assert result.exit_code == 2
        assert "is not a folder" in " ".join(result.output.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_commands_that_typer_refuses(fakes, monkeypatch, capsys):
    from explainkit.catalog import discovery

    fakes.add(
        "odd",
        """
        import typer
        from explainkit import hookimpl
        app = typer.Typer()
        @app.command()
        def go(x: complex | bytes = 1j): ...
        @hookimpl
        def explainkit_commands(): return app
        """,
    )
    found = discovery.Plugins(fakes.entry_points(), strict=False)
    monkeypatch.setattr(discovery, "default", lambda: found)
    with pytest.raises(SystemExit) as caught:
        main(["run", "odd", "go"])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: plugin 'odd' offers commands that Typer refu")


def test_two_commands_of_one_name(tmp_path):
    with locked(tmp_path / ".stem.lock", wait=False):
        command = typer.Typer()

        @command.command()
        def work(context: typer.Context) -> None:
            claim(context, tmp_path, "other")
            claim(context, tmp_path, "stem")

        result = CliRunner().invoke(command)
        assert isinstance(result.exception, StorageError)
        assert "in use by another command" in str(result.exception)
    assert not list(tmp_path.iterdir())
