"""What must not import torch, or a plugin, doesn't: checked in fresh processes."""

import subprocess
import sys

import pytest

import explainkit

HEAVY = ("torch", "numpy", "matplotlib", "PIL")


def loaded_by(code):
    """Which heavy modules and plugins a fresh process has loaded after running code."""
    report = (
        "\nimport sys\nprint([m for m in sys.modules if m in "
        f"{HEAVY!r} or m.startswith('explainkit_')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return done.stderr.strip().splitlines()[-1]


def command(*arguments):
    return (
        "import contextlib\nfrom explainkit.cli.app import main\n"
        f"with contextlib.suppress(SystemExit): main({list(arguments)!r})"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import explainkit",
        "import explainkit; explainkit.hookimpl; explainkit.ExplainkitError; dir(explainkit)",
        "import explainkit.cli.app",
        command("--help"),
        command("--version"),
        command("run", "--help"),
        command("list", "--help"),
    ],
)
def test_nothing_heavy(code):
    assert loaded_by(code) == "[]"


def test_a_plugins_help_imports_that_plugin_and_no_torch():
    found = loaded_by(command("run", "fer_hw3", "--help"))
    assert "explainkit_fer_hw3" in found
    assert "'torch'" not in found
    found = loaded_by(command("run", "fer_hw3", "saliency", "--help"))
    assert "'torch'" not in found


def test_the_plugins_table_needs_no_torch():
    assert "'torch'" not in loaded_by(command("plugins", "--json"))


@pytest.mark.parametrize("first", ["", "import explainkit.methods.gradient; "])
def test_methods_is_a_function_and_a_package(first):
    code = (
        f"{first}import explainkit as ek; assert 'explainkit/saliency' in ek.methods(); "
        "from explainkit.methods.gradient import Saliency; assert ek.methods()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    for name in explainkit._LAZY:
        assert getattr(explainkit, name) is not None
    assert set(explainkit._LAZY) <= set(dir(explainkit))
    with pytest.raises(AttributeError, match="no attribute 'maximise'"):
        _ = explainkit.maximise
