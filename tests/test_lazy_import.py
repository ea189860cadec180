"""Imports stay lazy: help and listings load neither torch nor plugins, in fresh processes."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import explainkit

HEAVY = ("torch", "numpy", "matplotlib", "PIL")


def loaded_by(code):
    """The heavy modules and plugins that a fresh process has loaded after running code."""
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


def test_a_scorecard_does_not_import_the_compiler():
    code = (
        "import sys, torch, explainkit as ek; from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),\n"
        "                    nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()\n"
        "ek.explain(net, torch.rand(1, 1, 48, 48), method='saliency', scorecard=True)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plugins_table_needs_no_torch():
    assert "'torch'" not in loaded_by(command("plugins", "--json"))


def test_methods_load_when_they_are_imported():
    assert loaded_by("import explainkit.methods; dir(explainkit.methods)") == "[]"
    assert "'torch'" in loaded_by("from explainkit.methods import GradCAM; GradCAM()")


def test_every_method_can_be_imported_by_its_class_and_type_checkers_see_all():
    from explainkit import methods
    from explainkit.catalog import builtin

    paths = set(builtin.explainkit_methods().values())
    made = [getattr(methods, name) for name in dir(methods)]
    assert {f"{one.__module__}:{one.__qualname__}" for one in made} == paths
    tree = ast.parse(Path(methods.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {f"{one.module}:{alias.asname}" for one in block.body for alias in one.names}
    assert seen == paths
    with pytest.raises(AttributeError, match="did you mean explainkit.methods.GradCAM"):
        _ = methods.GradCam
    with pytest.raises(AttributeError, match="here it is called smoothgrad"):
        _ = methods.NoiseTunnel
    with pytest.raises(AttributeError, match=r"explainkit.methods.IntegratedGradients\?"):
        _ = explainkit.IntegratedGradients


def test_no_package_is_callable_and_no_module_shares_a_functions_name():
    for module in pkgutil.walk_packages(explainkit.__path__, "explainkit."):
        assert not callable(sys.modules.get(module.name))
        parent, _, name = module.name.rpartition(".")
        assert parent != "explainkit" or name not in explainkit._LAZY


def test_public_names_exist():
    for name in explainkit.__all__:
        assert getattr(explainkit, name) is not None
    assert dir(explainkit) == sorted(explainkit.__all__)
    errors = {name for name, value in vars(explainkit.errors).items() if isinstance(value, type)}
    assert errors <= set(dir(explainkit))
    with pytest.raises(AttributeError, match="no attribute 'optimize'"):
        _ = explainkit.optimize
