"""`explainkit evaluate`: tables, files, exit codes."""

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
    return nn.Sequential(nn.Flatten(), nn.Linear(24 * 24 * 3, 3, bias=False)).eval()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model of three classes and four images of two of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "names.txt").write_text("cat\ndog\nfox\n")
    random = np.random.default_rng(0)
    for i in range(4):
        place = tmp_path / "val" / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


MODEL = ["--model", "nets.py:make", "--classes", "names.txt", "--device", "cpu"]


def test_tables_files_and_labels(here):
    method = ["--method", "input_x_gradient,saliency", "--metric", "gini"]
    done = run(
        "val", *MODEL, *method, "--labels", "folder", "--limit", 3,
        "--out", "new/a.html", "--out", "a.json", "--out", "a.png",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "All images: 3 (verdicts in %)" in done.stdout
    assert "Rankings of methods need at least 10 judged images." in done.stdout
    found = ek.Evaluation.load("a.json")
    assert [image.label for image in found.images] == ["cat", "cat", "dog"]
    assert found.results[0].verdict == ("supported",) * 3
    line = next(one for one in done.stdout.splitlines() if one.strip().startswith("input_x"))
    assert " 100 " in line
    assert "explainkit evaluate val" in (here / "new/a.html").read_text()
    with Image.open("a.png") as figure:
        assert figure.width > 500


def test_json_and_a_method_that_does_not_explain(here):
    (here / "labels.csv").write_text("cat/0.png,dog\n")
    done = run(
        "val", *MODEL, "--method", "gradcam,saliency", "--json", "--limit", 1,
        "--labels", "labels.csv",
    )  # fmt: skip
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["results"][0]["verdict"] == ["not explained"]
    assert found["images"][0]["label"] == "dog"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--method", "saliency", "--out", "a.txt"], "expected a file .html, .json, .png"),
        (["--method", "saliency", "--data", "x"], "expected the name of a data set as SOURCE"),
    ],
)
def test_wrong_values_end_before_work_starts(here, words, text):
    done = run("val", *MODEL, *words)
    assert done.exit_code == 2
    assert text in " ".join(done.output.split()).replace("│ ", "")


def test_a_registered_data_set_has_labels():
    done = run(
        "fer_hw3/synthetic", "--split", "public_test", "--model", "fer_hw3/dnn", "--limit", 1,
        "--method", "input_x_gradient", "--json",
    )  # fmt: skip
    (image,) = json.loads(done.stdout)["images"]
    assert image["label"] in ek.load_model("fer_hw3/dnn").explainkit_spec.class_names
    assert image["correct"] is not None
