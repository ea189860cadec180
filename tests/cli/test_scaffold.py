"""`new-plugin` creates a package whose own test passes, or nothing."""

import subprocess
import sys
import zipfile

import pytest

from explainkit.cli.scaffold import PARTS, new_plugin
from explainkit.errors import PluginError


def test_its_tests_pass_right_after_the_installation(tmp_path, monkeypatch):
    backend = pytest.importorskip("hatchling.build")
    folder = new_plugin("bright_spots", tmp_path, list(PARTS))
    site = tmp_path / "site"
    monkeypatch.chdir(folder)
    with zipfile.ZipFile(tmp_path / backend.build_wheel(str(tmp_path))) as wheel:
        wheel.extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import pytest, explainkit as ek, explainkit_bright_spots\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'bright_spots/bright_spots' in ek.list_methods(), ek.list_methods()\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "1x",
        "a b",
        "../x",
        "a/b",
        "class",
        "é",
        "a.b",
        "true",
        "none",
        "_",
        "vision",
        "fer_hw3",
        "a" * 65,
        "a" * 5000,
        "a\0b",
    ],
)
def test_names_that_cannot_be(name, tmp_path):
    with pytest.raises(PluginError, match="expected a name of lowercase"):
        new_plugin(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_dashes_are_understood(tmp_path):
    assert (new_plugin("two-words", tmp_path) / "src/explainkit_two_words/__init__.py").is_file()


def test_nothing_is_overwritten(tmp_path):
    folder = new_plugin("mine", tmp_path)
    (folder / "README.md").write_text("precious")
    with pytest.raises(PluginError, match="already exists"):
        new_plugin("mine", tmp_path)
    assert (folder / "README.md").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["explainkit-mine"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    from pathlib import Path

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PluginError, match="No space left"):
        new_plugin("mine", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", PARTS)
def test_a_part_comes_alone(part, tmp_path):
    folder = new_plugin("mine", tmp_path, [part])
    files = sorted(path.name for path in folder.rglob("*.py"))
    assert files == sorted(["__init__.py", *(path.rpartition("/")[2] for path in PARTS[part])])
    hooks = (folder / "src/explainkit_mine/__init__.py").read_text()
    compile(hooks, "__init__", "exec")
    assert hooks.count("@hookimpl") == 1


@pytest.mark.parametrize("parts", [[], ["method", "networks"], [""]])
def test_parts_that_do_not_exist(parts, tmp_path):
    with pytest.raises(PluginError, match="expected some of method, model"):
        new_plugin("mine", tmp_path, parts)
    assert not list(tmp_path.iterdir())
