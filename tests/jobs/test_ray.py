"""Real Ray clusters; run by `make test-ray`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app
from explainkit.errors import InputError, StorageError
from explainkit.jobs import ray as engine

NETS = """
import os, pathlib, signal, sys
import torch
from torch import nn

class Dying(nn.Module):
    '''Kills the first actor that it runs in, once it is told to.'''
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    def forward(self, x):
        told = pathlib.Path(__file__).with_name("die")
        if sys.argv[0].endswith("default_worker.py") and told.exists():
            told.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)

def make():
    return Dying().eval()
"""
WORDS = [
    "batch", "images", "--model", "nets.py:make", "--method", "smoothgrad", "--param", "samples=2",
    "--size", "8", "--device", "cpu", "--batch-size", "4", "--shard-size", "4", "--threads", "1", "--out",
]  # fmt: skip
ON_RAY = ["--engine", "ray", "--workers", "2"]


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="`make test-ray` installs it")


def hashes(store):
    return {
        path.name: json.loads(path.read_text())["tensors_sha256"]
        for path in sorted((Path(store) / "shards").glob("*.json"))
    }


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_kills_of_driver_and_actor_cost_nothing(ray, images, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    driver = subprocess.Popen(
        [sys.executable, "-m", "explainkit", *WORDS, "out", *ON_RAY[:-1], "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert run(*WORDS, "whole").exit_code == 0
    begin = time.monotonic()
    while not hashes("out") and time.monotonic() - begin < 100:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    assert ek.Store("out").progress(check=True).damaged == ()
    for record in sorted(Path("out/shards").glob("*.json"))[1:]:
        record.unlink()  # in case that the driver was faster
    environment, ended = dict(os.environ), signal.getsignal(signal.SIGTERM)
    run_pool = engine.run_pool

    def watched(*arguments):
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert ray.cluster_resources()["CPU"] > 2
        assert signal.getsignal(signal.SIGTERM) == ended
        return run_pool(*arguments)

    monkeypatch.setattr(engine, "run_pool", watched)
    Path("die").touch()
    done = run(*WORDS, "out", *ON_RAY)
    assert done.stdout == "out: 20 images: 20 ok; 5 of 5 shards\n", done.output
    assert not Path("die").exists()
    assert hashes("out") == hashes("whole")
    assert not ray.is_initialized()
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGTERM) == ended


def test_a_cluster_without_room_is_an_error(ray, images, model, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 2.0)
    monkeypatch.setattr(engine, "TOLD", 0.5)
    said = []
    monkeypatch.setattr("explainkit.jobs.batch.Stop", lambda _say: engine.Stop(said.append))
    with engine._connected(None, 1):
        with pytest.raises(StorageError, match="a worker needs 64 CPU, the cluster has 1"):
            ek.batch(
                images, model, "saliency", tmp_path / "out", engine="ray", threads=64, batch_size=4
            )
        with pytest.raises(InputError, match="ray_address"):
            ek.batch(images, model, "saliency", tmp_path / "out", engine="ray", ray_address="auto")
        assert said[0].startswith("waiting for room on the Ray cluster: a worker needs 64 CPU")
        assert ray.is_initialized()


def test_ray_is_named_if_it_is_missing(images, model, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'explainkit-vision\[ray\]'"):
        ek.batch(images, model, "saliency", tmp_path / "out", engine="ray")
    with pytest.raises(InputError, match="expected engine ray, got local"):
        ek.batch(images, model, "saliency", tmp_path / "out", ray_address="auto")
    with pytest.raises(InputError, match="engine: expected local or ray, got 'dask'"):
        ek.batch(images, model, "saliency", tmp_path / "out", engine="dask")
    assert not (tmp_path / "out").exists()
