"""The gallery: pages show what scripts did, are reused only if unchanged, and fail loudly."""

import json
import os
import shutil
import subprocess
import sys
import threading
from base64 import b64decode
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from explainkit.catalog import discovery
from explainkit.catalog.discovery import Plugins
from explainkit.cli.app import app
from explainkit.errors import GalleryError, PluginError, UnknownNameError
from explainkit.gallery import build
from explainkit.gallery.page import notebook, thumbnail
from explainkit.gallery.run import run
from explainkit.gallery.script import OUTPUTS, read

SCRIPT = '''
"""A page about numbers.

What it is *about*.

Topic: Sums
Order: 5
Command: explainkit list
"""

# %% First
# Text with `code`.
#
# Alt: An empty
# figure.
from matplotlib.figure import Figure

Figure(figsize=(2, 1))

# %%
print("shown")
[{"name": "a|b", "value": 0.123456}, {"name": "c", "value": -2}]

# %% [markdown]
# Only text.
'''
FAILING = SCRIPT.replace('print("shown")', "a_name_that_is_not_there")


@pytest.fixture
def site(fakes, tmp_path, monkeypatch):
    """A plugin with one gallery script, and a function that builds its pages."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    page = folder / "numbers.py"
    page.write_text(SCRIPT)
    fakes.add(
        "sums",
        f"""
        from pathlib import Path
        from explainkit import hookimpl

        @hookimpl
        def explainkit_gallery():
            return Path({str(folder)!r})
        """,
    )
    found = Plugins(fakes.entry_points())
    monkeypatch.setattr(discovery, "default", lambda: found)

    def make(**options):
        return list(build(tmp_path / "out", "sums", **options))

    make.script, make.out = page, tmp_path / "out"
    return make


@pytest.fixture
def here(monkeypatch):
    """Runs scripts in this process, which has imported torch, for tests of other things."""

    def in_process(script, folder, work, seed, max_seconds):
        (folder / OUTPUTS).write_text(json.dumps(run(script.path, folder, seed)))

    monkeypatch.setattr("explainkit.gallery.builder._run", in_process)


def test_a_script_is_read(tmp_path):
    path = tmp_path / "numbers.py"
    path.write_text(SCRIPT)
    script = read(path)
    assert (script.title, script.lead) == ("A page about numbers", "What it is *about*.")
    assert (script.topic, script.order, script.command) == ("Sums", 5, "explainkit list")
    first, second, third = script.cells
    assert (first.title, first.text) == ("First", "Text with `code`.")
    assert first.alt == "An empty figure."
    assert path.read_text().splitlines()[first.line - 1] == "from matplotlib.figure import Figure"
    assert second.code.startswith("print")
    assert (third.title, third.text, third.code) == ("", "Only text.", "")


@pytest.mark.parametrize(
    "text", ["x = 1", '"""Title."""\nx = 1', "# %%\nx = 1", '"""T."""\n# %%\n(']
)
def test_a_file_that_is_not_a_script_is_refused(text, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(GalleryError, match="expected"):
        read(path)


def test_a_new_plugins_page_appears_with_its_hook_alone(site, here):
    (built,) = site()
    assert (built.page, built.reused) == ("sums/numbers", False)
    page = (site.out / "sums/numbers.md").read_text()
    assert page.startswith("---\nhide: [toc]\n---\n\n# A page about numbers\n\n")
    assert "numbers\n\nWhat it is *about*.\n\n## First\n\nText with" in page
    assert "![An empty figure.](numbers-1.png)" in page
    assert "```text\nshown\n```" in page
    assert "| a\\|b | 0.1235 |" in page
    assert "| c | -2 |" in page
    assert "```sh\nexplainkit list\n```" in page
    for name in ("numbers.py", "numbers.ipynb"):
        assert f"({name})" in page
    assert "Built by `explainkit gallery build --plugin sums` in" in page
    with Image.open(site.out / "sums/numbers-1.png") as image:
        assert image.size == (200, 100)
    index = (site.out / "index.md").read_text()
    assert "## sums" in index
    assert "### Sums" in index
    assert "(sums/numbers-thumbnail.png)](sums/numbers.md)" in index
    entry = json.loads((site.out / "manifest.json").read_text())["pages"]["sums/numbers"]
    assert {"script", "library", "weights", "seconds"} <= set(entry)


def test_unchanged_pages_are_reused_and_changed_ones_are_not(site, here):
    site()
    before = (site.out / "sums/numbers.md").stat().st_mtime_ns
    (again,) = site()
    assert again.reused
    assert (site.out / "sums/numbers.md").stat().st_mtime_ns == before
    site.script.write_text(SCRIPT.replace("shown", "other"))
    (changed,) = site()
    assert not changed.reused
    assert "other" in (site.out / "sums/numbers.md").read_text()
    (seeded,) = site(seed=1)
    assert not seeded.reused
    (site.out / "sums/numbers-1.png").unlink()
    (lost,) = site(seed=1)
    assert not lost.reused


@pytest.mark.parametrize("suffix", [".py", ".safetensors", ".css"])
def test_a_change_of_library_or_weights_is_seen(suffix, site, here, tmp_path, monkeypatch):
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery.default(), "package_of", lambda name: "a_package")
    site()
    assert site()[0].reused
    (package / f"new{suffix}").write_text("1")
    assert not site()[0].reused
    (package / f"new{suffix}").write_text("2")
    assert not site()[0].reused
    assert site()[0].reused


def test_a_failing_script_fails_the_build_and_writes_nothing(site):
    site.script.write_text(FAILING)
    with pytest.raises(GalleryError, match="NameError") as caught:
        site()
    (trace,) = caught.value.__notes__
    line = FAILING.splitlines().index("a_name_that_is_not_there") + 1
    assert f'numbers.py", line {line}' in trace
    assert not site.out.exists()


def test_finished_pages_stay_when_a_later_script_fails(site, here):
    later = site.script.with_name("zebra.py")
    later.write_text(FAILING)
    with pytest.raises(NameError):
        site()
    later.unlink()
    assert site()[0].reused


def test_scripts_run_at_the_same_time_and_their_pages_are_the_same(site, monkeypatch):
    site.script.with_name("letters.py").write_text(SCRIPT.replace("numbers", "letters"))

    def pages(jobs):
        met = threading.Barrier(jobs)

        def wait(script, folder, work, seed, max_seconds):
            met.wait(timeout=10)
            (folder / OUTPUTS).write_text(json.dumps([[{"kind": "text", "text": script.name}]] * 3))

        monkeypatch.setattr("explainkit.gallery.builder._run", wait)
        assert [built.page for built in site(jobs=jobs)] == ["sums/letters", "sums/numbers"]
        (site.out / "manifest.json").unlink()  # it has the seconds, as have the pages' last lines
        files = [path for path in site.out.rglob("*") if path.is_file()]
        written = {path: path.read_bytes().partition(b"Built by")[0] for path in files}
        shutil.rmtree(site.out)
        return written

    assert pages(2) == pages(1)


def test_a_script_that_computes_too_long_is_stopped(site):
    site.script.write_text(SCRIPT.replace('print("shown")', "while True: pass"))
    with pytest.raises(GalleryError, match="more than 2 s of CPU time: .* --max-seconds"):
        site(max_seconds=2)


def test_waiting_for_the_machine_does_not_count_but_waiting_forever_ends(site, monkeypatch):
    monkeypatch.setattr("explainkit.gallery.builder._WAIT", 0.1)
    site.script.write_text(SCRIPT.replace('print("shown")', "import time; time.sleep(600)"))
    with pytest.raises(GalleryError, match="did not end within 3 s"):
        site(max_seconds=30)


def test_a_figure_without_alt_text_is_refused(tmp_path):
    path = tmp_path / "mute.py"
    path.write_text(SCRIPT.replace("# Alt: An empty\n# figure.\n", ""))
    with pytest.raises(GalleryError, match="# Alt: …"):
        run(path, tmp_path)


def test_pages_of_removed_scripts_are_removed_and_other_files_stay(site, here):
    site()
    own = site.out / "sums/notes.md"
    own.write_text("mine")
    site.script.rename(site.script.with_name("other.py"))
    site()
    assert {path.name for path in (site.out / "sums").iterdir() if "numbers" in path.name} == set()
    assert own.read_text() == "mine"


def test_a_page_that_needs_a_missing_plugin_is_skipped(site):
    site.script.write_text(SCRIPT.replace("Topic:", "Needs: nobody_has_this\nTopic:"))
    (built,) = site()
    assert built.missing == "nobody_has_this"
    assert not (site.out / "sums").exists()


def test_the_same_seed_gives_the_same_page(tmp_path):
    path = tmp_path / "dice.py"
    path.write_text(
        dedent('''
        """Dice."""
        # %%
        import random, numpy, torch

        [random.random(), float(numpy.random.rand()), float(torch.rand(1))]
        ''')
    )
    first, second, other = (run(path, tmp_path, seed) for seed in (3, 3, 4))
    assert first == second != other


def test_numbers_of_a_column_have_the_same_decimals(tmp_path):
    path = tmp_path / "table.py"
    path.write_text('"""T."""\n# %%\n[{"a": -0.7, "b": 1e-9}, {"a": 0.744444, "b": 0.5}]')
    (((table,),),) = (run(path, tmp_path),)
    assert table["text"].splitlines()[2:] == ["| −0.7000 | 1e−09 |", "| 0.7444 | 0.5 |"]


def test_small_numbers_do_not_widen_the_column_of_a_large_one(tmp_path):
    path = tmp_path / "table.py"
    path.write_text('"""T."""\n# %%\n[{"a": 159.8967}, {"a": -0.001949}]')
    (((table,),),) = (run(path, tmp_path),)
    assert table["text"].splitlines()[2:] == ["| 159.9 |", "| 0.0 |"]


def test_a_thumbnail_keeps_images_whole(tmp_path):
    """Six dark squares in a row: as many from the right as fill it, none of them cut."""
    figure = np.full((300, 1500), 255, np.uint8)
    for left in range(10, 1500, 250):
        figure[120:280, left : left + 200] = 50
    Image.fromarray(figure).save(tmp_path / "figure.png")
    thumbnail(tmp_path / "figure.png", tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        assert image.size == (640, 400)
        row = np.asarray(image.convert("L"))[200] < 128
    starts = np.flatnonzero(row[1:] & ~row[:-1])
    ends = np.flatnonzero(~row[1:] & row[:-1])
    assert len(starts) == 2
    assert np.ptp(ends - starts) <= 1
    assert starts[0] < 20 < 620 < ends[-1]


def test_a_page_that_needs_packages_names_them_or_is_skipped(site, here):
    site.script.write_text(SCRIPT.replace("Topic:", "Packages: numpy, pillow\nTopic:"))
    assert not site()[0].uninstalled
    assert "needs `pip install numpy pillow`" in (site.out / "sums/numbers.md").read_text()
    site.script.write_text(SCRIPT.replace("Topic:", "Packages: numpy, no-such-package\nTopic:"))
    done = CliRunner().invoke(app, ["gallery", "build", "--plugin", "sums", "--out", str(site.out)])
    assert "sums/numbers: skipped: pip install no-such-package\n" in done.output
    assert not (site.out / "sums/numbers.md").exists()


def test_a_page_is_not_reused_with_another_version_of_a_package(site, here, monkeypatch):
    site.script.write_text(SCRIPT.replace("Topic:", "Packages: rich\nTopic:"))
    site()
    assert site()[0].reused
    monkeypatch.setattr(
        "explainkit.gallery.builder.version", lambda name: "1" if name == "rich" else version(name)
    )
    assert not site()[0].reused


def test_the_notebook_is_valid_and_has_the_outputs(tmp_path):
    path = tmp_path / "numbers.py"
    path.write_text(SCRIPT)
    book = json.loads(notebook(read(path), run(path, tmp_path), tmp_path))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert [cell["cell_type"] for cell in book["cells"]] == [
        "markdown", "markdown", "code", "code", "markdown",
    ]  # fmt: skip
    assert len({cell["id"] for cell in book["cells"]}) == 5
    code = "".join(book["cells"][2]["source"])
    assert code == "from matplotlib.figure import Figure\n\nFigure(figsize=(2, 1))"
    (drawn,), (printed, table) = (book["cells"][i]["outputs"] for i in (2, 3))
    assert [book["cells"][i]["execution_count"] for i in (2, 3)] == [1, 2]
    assert drawn["execution_count"] == 1
    assert b64decode(drawn["data"]["image/png"]) == (tmp_path / "numbers-1.png").read_bytes()
    assert drawn["metadata"] == {"image/png": {"width": 192}}
    assert drawn["data"]["text/plain"] == "An empty figure."
    assert printed == {"output_type": "stream", "name": "stdout", "text": "shown\n"}
    assert "| a\\|b | 0.1235 |" in table["data"]["text/markdown"]


def test_a_damaged_manifest_and_unknown_plugins_are_errors(site, here):
    site()
    (site.out / "manifest.json").write_text("{")
    with pytest.raises(GalleryError, match="damaged"):
        site()
    with pytest.raises(UnknownNameError):
        list(build(site.out / "elsewhere", "nobody"))


@pytest.mark.parametrize(
    ("value", "match"), [("'a'", "not a pathlib"), ("Path('/no/such')", "not a folder")]
)
def test_a_hook_that_returns_no_folder_is_a_broken_plugin(value, match, fakes):
    fakes.add(
        "odd",
        f"""
        from pathlib import Path
        from explainkit import hookimpl

        @hookimpl
        def explainkit_gallery():
            return {value}
        """,
    )
    with pytest.raises(PluginError, match=match):
        Plugins(fakes.entry_points()).offer("odd", "explainkit_gallery")


def test_the_command_fails_for_an_unknown_plugin(tmp_path):
    """An unknown plugin is an error with exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "explainkit", "gallery", "build", "--out", tmp_path, "--plugin", "no"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no plugin is named 'no'" in done.stderr


def test_the_page_of_an_installed_third_party_plugin_is_built_then_reused(tmp_path):
    """An installed package needs only a module, an entry point and a folder of scripts."""
    lib = tmp_path / "lib"
    for name, text in {
        "stranger-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n",
        "stranger-1.0.dist-info/entry_points.txt": "[explainkit]\nstranger = stranger\n",
        "stranger/pages/numbers.py": SCRIPT,
        "stranger/__init__.py": """
            from pathlib import Path
            from explainkit import hookimpl

            @hookimpl
            def explainkit_gallery():
                return Path(__file__).parent / "pages"
        """,
    }.items():
        (lib / name).parent.mkdir(parents=True, exist_ok=True)
        (lib / name).write_text(dedent(text))
    for outcome in ("run in", "unchanged"):
        done = subprocess.run(
            [sys.executable, "-m", "explainkit", "gallery", "build", "--out", tmp_path / "out",
             "--plugin", "stranger"],
            env=os.environ | {"PYTHONPATH": str(lib)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"stranger/numbers: {outcome}" in done.stdout
    assert "(stranger/numbers.md)" in (tmp_path / "out/index.md").read_text()
    assert (tmp_path / "out/stranger/numbers.ipynb").is_file()


@pytest.mark.parametrize(
    "path",
    sorted(Path(discovery.__file__).parents[1].glob("gallery/pages/*.py")),
    ids=lambda p: p.stem,
)
def test_the_core_scripts_are_valid(path):
    script = read(path)
    assert script.lead
    assert script.topic != "Pages"
