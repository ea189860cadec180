"""The command ``train``: its outputs, its errors, and resuming after interruptions."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from forms import table, text
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import explainkit as ek
from explainkit.errors import DatasetError, ModelError, StorageError
from explainkit_fer_hw3.commands import app
from explainkit_fer_hw3.faces import draw
from explainkit_fer_hw3.training import folder
from explainkit_fer_hw3.training.run import Training

SHORT = ("--epochs", 2, "--batch", 32, "--model", "dnn", "--seed", 4)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A CSV of 70 training images: 63 for training, 7 for validation."""
    faces = draw(np.arange(70) % 7, seed=12)
    rows = zip(faces.labels.tolist(), map(text, faces.pixels[:, 0]), strict=True)
    path = tmp_path_factory.mktemp("data") / "f.csv"
    path.write_text("emotion,pixels,Usage\n" + "".join(f"{e},{p},Training\n" for e, p in rows))
    return path


def run(*arguments):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    assert run(*SHORT, "--data", data, "--out", path).exit_code == 0
    return path


@pytest.fixture
def whole(undisturbed, here):
    """The folder of an uninterrupted run."""
    return shutil.copytree(undisturbed, here / "whole")


def assert_same(one, two):
    assert (one / "history.csv").read_bytes() == (two / "history.csv").read_bytes()
    assert (one / "dnn.safetensors").read_bytes() == (two / "dnn.safetensors").read_bytes()
    assert (one / "curves.png").read_bytes() == (two / "curves.png").read_bytes()
    tensors, others = (load_file(path / "checkpoint.safetensors") for path in (one, two))
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_outputs(data, here):
    result = run(*SHORT, "--data", data, "--out", "new/run", "--json")
    found = json.loads(result.stdout)
    assert found["images"] == 63
    assert found["validation_images"] == 7
    assert (found["epochs"], found["seed"], found["recipe"]["batch"]) == (2, 4, 32)
    assert found["peak_memory_mb"] > 100
    assert sorted(os.listdir("new/run")) == [
        "checkpoint.safetensors", "curves.png", "dnn.safetensors", "history.csv",
    ]  # fmt: skip
    with open(found["files"]["history"]) as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == list(folder.COLUMNS)
    for name in folder.COLUMNS:
        assert float(rows[-1][name]) == found["last"][name]
    with Image.open(found["files"]["curves"]) as image:
        image.load()
    held = ek.load_dataset("fer_hw3/fer2013", data, split="validation", seed=4)
    with torch.inference_mode():
        predicted = ek.load_model(found["files"]["weights"])(held.images).argmax(1)
    correct = (predicted == held.labels).double().mean()
    assert found["last"]["validation_accuracy"] == pytest.approx(float(correct))
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "\x1b" not in result.stderr


def test_text_output(data):
    lines = run(*SHORT, "--epochs", 1, "--data", data, "--out", "d").stdout.splitlines()
    assert lines[0].startswith("dnn, 1 epoch of 63 images of ")
    assert re.search(r", peak memory \d[\d,]* MB$", lines[0])
    assert lines[1].startswith("validation (7 images): accuracy 0.")
    assert "weights: d/dnn.safetensors" in lines


KILLED = """
import os, signal, sys
from explainkit.cli.app import main
from explainkit_fer_hw3.training import folder, run

folder.SAVE_EVERY = 0
update = run.Training._update_average

def killed(self):
    if self.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    update(self)

run.Training._update_average = killed
main(sys.argv[1:])
"""


def test_it_survives_kill_9(data, whole, here):
    """Killed in the middle of a step of a later epoch, and resumed by another process."""
    command = [*map(str, SHORT), "--data", str(data), "--out", "d"]
    start = ["run", "fer_hw3", "train", *command]
    killed = subprocess.run([sys.executable, "-c", KILLED.format(step=5), *start], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len((here / "d/history.csv").read_text().splitlines()) == 2
    (here / "d/.checkpoint.safetensors-0123456789abcdef").write_bytes(b"half of it")
    subprocess.run([sys.executable, "-m", "explainkit", *start, "--resume"], check=True)
    assert_same(whole, here / "d")
    assert not list((here / "d").glob(".checkpoint*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save(number, data, whole, here, monkeypatch):
    advance = Training.advance

    def interrupted(self):
        if self.step == 4:
            os.kill(os.getpid(), number)
        return advance(self)

    before = signal.getsignal(number)
    monkeypatch.setattr(Training, "advance", interrupted)
    result = run(*SHORT, "--data", data, "--out", "d")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "stopped after step 5 of 6 and saved in d: run the same command with --resume to continue"
    )
    assert signal.getsignal(number) == before
    monkeypatch.setattr(Training, "advance", advance)
    again = run(*SHORT, "--data", data, "--out", "d", "--resume")
    assert again.exit_code == 0
    assert_same(whole, here / "d")


def test_divergence_leaves_the_last_good_checkpoint(data, whole, monkeypatch):
    good = (whole / "checkpoint.safetensors").read_bytes()
    loss = Training._loss

    def spoiled(self, images, labels):
        found, logits = loss(self, images, labels)
        return found * (float("nan") if self.step == 8 else 1), logits

    monkeypatch.setattr(Training, "_loss", spoiled)
    arguments = (*SHORT, "--data", data, "--out", whole, "--resume")
    with pytest.raises(ModelError, match="expected a finite loss .* in step 8, got loss nan"):
        run(*arguments, "--epochs", 3)
    assert (whole / "checkpoint.safetensors").read_bytes() == good
    monkeypatch.setattr(Training, "_loss", loss)
    assert run(*arguments, "--epochs", 3).exit_code == 0


def test_a_longer_run(data, whole):
    result = run(*SHORT, "--data", data, "--out", whole, "--resume", "--epochs", 3)
    assert result.stderr.splitlines()[0] == (
        "note: the run was started with 2 epochs; from here on its learning rate follows the "
        "schedule for 3"
    )
    rows = (whole / "history.csv").read_text().splitlines()
    assert len(rows) == 4
    shorter = (*SHORT, "--data", data, "--out", whole, "--resume", "--epochs", 1)
    with pytest.raises(StorageError, match="at least 3 epochs"):
        run(*shorter)
    arguments = ("--model", "dnn", "--batch", 32, "--seed", 4, "--resume", "--out", whole)
    result = run(*arguments, "--data", data)  # complete already, and not longer
    assert result.exit_code == 0
    assert result.stderr == ""
    assert (whole / "history.csv").read_text().splitlines() == rows


class TestRefusals:
    def test_folders(self, data, whole, here):
        (here / "file").write_text("")
        with pytest.raises(StorageError, match="whole already holds a training run: continue it"):
            run(*SHORT, "--data", data, "--out", whole)
        with pytest.raises(StorageError, match="found none: omit --resume"):
            run(*SHORT, "--data", data, "--out", "empty", "--resume")
        refused = run(*SHORT, "--data", data, "--out", "file")
        assert refused.exit_code == 2
        assert "can't write into file: file is not a folder" in refused.output
        with (
            folder.claimed(whole, resume=True),
            pytest.raises(StorageError, match="whole is in use by another training run"),
        ):
            run(*SHORT, "--data", data, "--out", whole, "--resume")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (["--seed", 5], r"a different run \(seed 4, not 5; images "),
            (["--batch", 16], r"a different run \(recipe batch 32, not 16\)"),
            (["--lr", 0.01], r"a different run \(recipe lr 0.05, not 0.01\)"),
            (["--recipe", "study"], r"a different run \(recipe optimizer sgd, not adam; "),
            (["--model", "cnn"], r"a different run \(model dnn, not cnn; "),
        ],
    )
    def test_other_runs(self, change, message, data, whole):
        before = (whole / "checkpoint.safetensors").read_bytes()
        with pytest.raises(StorageError, match=message):
            run(*SHORT, "--data", data, "--out", whole, "--resume", *change)
        assert (whole / "checkpoint.safetensors").read_bytes() == before

    def test_other_images(self, data, whole, here):
        lines = data.read_text().splitlines()
        (here / "other.csv").write_text("\n".join([lines[0], *lines[8:]]))
        with pytest.raises(StorageError, match=r"a different run \(images \w+, not \w+\)"):
            run(*SHORT, "--data", here / "other.csv", "--out", whole, "--resume")

    @pytest.mark.parametrize("saved", [{"recipe": '{"drawn": 24}', "epochs": "2"}, None])
    def test_checkpoints_of_earlier_versions(self, saved, data, whole):
        path = whole / "checkpoint.safetensors"
        save_file(load_file(path), path, saved)
        with pytest.raises(StorageError, match="which another version saved .* start a new run$"):
            run(*SHORT, "--data", data, "--out", whole, "--resume")

    def test_data_and_weights(self, data, images, here):
        (here / "t.csv").write_bytes(table(images, "test"))
        with pytest.raises(DatasetError, match="no split 'train'"):
            run(*SHORT, "--data", here / "t.csv")
        with pytest.raises(ModelError, match="weights of fer_hw3/dnn, got cnn with weights of"):
            run(*SHORT, "--data", data, "--start", "cnn")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--epochs", 0], "--epochs"),
            (["--batch", 0], "--batch"),
            (["--lr", -1], "--lr -1.0: expected a number above 0"),
            (["--lr", "nan"], "--lr nan"),
            (["--seed", -1], "--seed -1"),
            (["--model", "rnn"], "--model"),
            (["--recipe", "best"], "--recipe"),
            (["--recipe", "finish"], "expected --start with the initial weights"),
            (["--device", "warp"], "--device warp"),
        ],
    )
    def test_wrong_use(self, arguments, message):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())
        assert not os.listdir()


def test_it_starts_from_weights(data):
    """With a learning rate of nearly 0 the weights stay the same."""
    found = run(*SHORT, "--epochs", 1, "--lr", 1e-9, "--start", "dnn", "--data", data, "--out", "d")
    assert found.exit_code == 0
    shipped, mine = ek.load_model("fer_hw3/dnn"), ek.load_model("d/dnn.safetensors")
    for one, two in zip(shipped.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_dnn_has_no_finish_recipe(data):
    with pytest.raises(ModelError, match=r"a recipe for the dnn \(default, study\), got finish"):
        run("--model", "dnn", "--recipe", "finish", "--start", "dnn", "--data", data)
    assert not os.listdir()


def test_refitting_trains_on_validation_images(data):
    again = (*SHORT, "--epochs", 1, "--data", data)
    found = run(*again, "--refit", "--out", "d", "--json")
    output = json.loads(found.stdout)
    assert (output["images"], output["validation_images"], output["refit"]) == (70, 7, True)
    assert "note: --refit: the validation images are also used for training" in found.stderr
    with pytest.raises(StorageError, match=r"a different run \(images \w+, not \w+\)"):
        run(*again, "--resume", "--out", "d")
    assert "7 images, also used for training): " in run(*again, "--refit", "--out", "e").stdout


def test_without_data_it_trains_on_synthetic_faces(monkeypatch):
    from explainkit_fer_hw3.data import load_synthetic

    few = {"count": 28}
    monkeypatch.setattr(
        "explainkit_fer_hw3.data.load_synthetic",
        lambda path, split, seed: load_synthetic(path, split, seed=seed, **few),
    )
    found = json.loads(run("--model", "dnn", "--epochs", 1, "--json").stdout)
    assert found["data"] == "synthetic faces"
    assert (found["images"], found["validation_images"]) == (28, 28)
    assert found["files"]["weights"] == "explainkit-out/train-dnn/dnn.safetensors"
