"""The commands: one line says what happened, exit codes say how, and the last line how to resume."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app, main
from explainkit.jobs.worker import Worker
from explainkit_fer_hw3.data.synthetic import COUNTS

NETS = """
import multiprocessing, os, pathlib, signal
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()

class Dying(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()
    def forward(self, x):
        once = pathlib.Path(__file__).with_name("died")
        if multiprocessing.parent_process() is not None and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)

def dying():
    return Dying()
"""
OPTIONS = ["--method", "smoothgrad", "--param", "samples=2", "--size", "8", "--device", "cpu"]


@pytest.fixture
def words(images, tmp_path, monkeypatch):
    """The arguments of a batch of 20 images in 5 shards, run in a folder with the model."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    sizes = ["--batch-size", "4", "--shard-size", "4", "--threads", "1"]
    return ["batch", "images", "--model", "nets.py:make", *OPTIONS, *sizes, "--out"]


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def contents(store):
    """Hashes of tensors, which tell everything that does not depend on the run."""
    return {
        path.name: json.loads(path.read_text())["tensors_sha256"]
        for path in sorted((Path(store) / "shards").glob("*.json"))
    }


def test_a_batch_and_its_status(words, images):
    done = run(*words, "out")
    assert done.exit_code == 0, done.output
    assert done.stdout == "out: 20 images: 20 ok; 5 of 5 shards\n"
    (images / "broken.png").write_text("not an image")
    done = run(*words, "other", "--json")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert (facts["ok"], facts["failed"], facts["complete"]) == (20, 1, True)
    [failure] = facts["failures"]
    assert failure["id"] == "broken.png"
    assert "expected an image" in failure["reason"]
    assert json.loads(run("status", "other", "--json").stdout)["failures"] == [failure]
    refused = run(*words, "out")
    assert "images: 20" in str(refused.exception)


def test_ctrl_c_finishes_the_shard_and_says_how_to_go_on(words, monkeypatch, capsys):
    compute = Worker.compute

    def interrupted(self, number):
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return compute(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "compute", interrupted)
        with pytest.raises(SystemExit) as end:
            main([*words, "out"])
    assert end.value.code == 130
    assert len(contents("out")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("resume with: explainkit batch images ")
    assert "resume with" in run("status", "out").stdout
    assert run(*shlex.split(last.partition(": ")[2])[1:]).exit_code == 0
    assert run(*words, "whole").exit_code == 0
    assert contents("out") == contents("whole")


def test_ctrl_c_twice_stops_at_once(words, monkeypatch, capsys):
    compute = Worker.compute

    def interrupted(self, number):
        found = compute(self, number)
        if number == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Worker, "compute", interrupted)
    with pytest.raises(SystemExit) as end:
        main([*words, "out"])
    assert end.value.code == 130
    assert len(contents("out")) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_dry_run_writes_nothing(words):
    done = run(*words, "out", "--dry-run", "--json")
    facts = json.loads(done.stdout)
    assert (facts["items"], facts["shards"]) == (20, 5)
    assert facts["seconds"] > 0
    assert not Path("out").exists()
    assert run(*words, "out").exit_code == 0
    size = sum(path.stat().st_size for path in Path("out").rglob("*") if path.is_file())
    assert facts["bytes"] / 3 < size < facts["bytes"] * 3


def test_a_registered_data_set(tmp_path, monkeypatch):
    monkeypatch.setitem(COUNTS, "validation", 14)
    done = run(
        "batch", "synthetic", "--split", "validation", "--model", "fer_hw3/cnn", "--method",
        "saliency", "--limit", "3", "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(ek.Store(tmp_path / "out")) == 3
    assert run("batch", tmp_path / "nothing", "--model", "cnn", "--out", tmp_path / "x").exit_code
    assert not (tmp_path / "x").exists()


def test_a_shard_whose_worker_dies_is_done_again(words):
    assert run(*words, "whole").exit_code == 0
    dying = ["nets.py:dying" if word == "nets.py:make" else word for word in words]
    done = run(*dying, "out", "--workers", "2")
    assert done.exit_code == 0, done.output
    assert Path("died").exists()
    assert len(contents("out")) == 5
    # another module around the same weights: the maps are the same
    for one, other in zip(ek.Store("whole"), ek.Store("out"), strict=True):
        assert one.attribution.equal(other.attribution)


def started(words, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "explainkit", *words, *more],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_attacks_lose_nothing():
    """Kills, interrupts and full disks; `make attack-batch` has more of them."""
    script = Path(__file__).with_name("attack_batch.py")
    done = subprocess.run([sys.executable, str(script), "--small"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[2:7] for line in done.stdout.splitlines()[2:]]
    assert [int(row[0]) for row in rows[:2]] == [4, 2]
    assert [int(count) for row in rows for count in row[1:]] == [0] * 12


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_a_store(words, count):
    processes = [started(words, "out", "--shard", f"{i}/{count}") for i in range(count)]
    assert [process.wait(120) for process in processes] == [0] * count
    assert "--shard " not in ek.Store("out").plan.command
    assert run(*words, "whole").exit_code == 0
    assert contents("out") == contents("whole")
