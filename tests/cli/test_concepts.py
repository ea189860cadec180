"""`explainkit concepts`: the table, files, exit codes."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app

NETS = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    ).eval()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model of three classes and twelve images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "names.txt").write_text("cat\ndog\n[red]fox\n")
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i:02}.png")
    return tmp_path


MODEL = ["--model", "nets.py:make", "--classes", "names.txt", "--device", "cpu", "--n", "2"]


def run(*arguments):
    return CliRunner().invoke(app, ["concepts", *map(str, arguments)])


def test_the_table_and_every_kind_of_file(here):
    done = run(
        "photos", *MODEL, "--layer", "1", "--limit", 8, "--steps", 2, "--out", "new/a.html",
        "--out", "a.png", "--out", "a.json", "--out", "found",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 concepts of layer 1, 8 images" in done.stdout
    assert "8 images are few" in done.stdout
    found = ek.Concepts.load("found")
    for k in range(2):
        line = next(one for one in done.stdout.splitlines() if one.strip().startswith(f"{k} "))
        assert found.class_name(found.strongest(k)) in line
        assert ("fails" in line) == bool(found.failures(k))
        for reason in found.failures(k):
            (said,) = [one for one in done.stdout.splitlines() if reason[1:] in one]
            assert str(k) in said.partition(": ")[2]
    assert found.to_dict() == json.loads((here / "a.json").read_text())
    assert found.names[0].startswith("0")
    page = (here / "new/a.html").read_text()
    assert "explainkit concepts photos" in page
    assert page.count("Maximizing image") == 2
    with Image.open("a.png") as figure:
        assert figure.width > 500


def test_json_is_one_object_and_the_same_again(here):
    first, again = (run("photos", *MODEL, "--seed", 3, "--json") for _ in range(2))
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert facts == json.loads(again.stdout)
    assert facts["class_names"] == ["cat", "dog", "[red]fox"]
    assert facts["layer"] == "1"
    module = ek.load_model("nets.py:make", class_names=facts["class_names"])
    with pytest.warns(ek.errors.ExplainkitWarning):
        found = ek.concepts(module, "photos", n=2, seed=3)
    assert facts["concepts"] == found.to_dict()["concepts"]


def test_a_report_without_maximizing_images(here):
    done = run("photos", *MODEL, "--steps", 0, "--out", "a.html", "--json")
    assert done.exit_code == 0, done.output
    assert "Maximizing image" not in (here / "a.html").read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--out", "a.txt"], "expected a file .html, .json, .png, or a folder"),
        (["--out", "names.txt/a.png"], "can't write into names.txt"),
        (["--data", "x"], "expected the name of a data set as SOURCE"),
        (["--n", "0"], "--n"),
        (["--n", "9"], "1 to 6 concepts"),
        (["--layer", "9"], "got '9'; names near it"),
    ],
)
def test_wrong_values_are_one_message_and_leave_nothing(here, words, text):
    before = sorted(here.rglob("*"))
    done = run("photos", *MODEL, "--out", "a.json", *words)
    said = f"{done.output} {done.exception}"
    assert text in " ".join(said.split()).replace("│ ", "")
    assert done.exit_code != 0
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in str(path)] == before
