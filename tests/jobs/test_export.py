"""Exports: the same numbers in other formats."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app
from explainkit.errors import StorageError
from explainkit.jobs.export import export

METHODS = ["saliency", "input_x_gradient"]


@pytest.fixture
def store(images, model, tmp_path):
    (images / "broken.png").write_text("not an image")
    return ek.batch(images, model, METHODS, tmp_path / "out", batch_size=4, shard_size=8)


def test_npz(store, tmp_path):
    files = export(store, "npz", tmp_path / "npz")
    assert [path.name for path in files] == [
        "part-00000.npz", "part-00001.npz", "part-00002.npz", "failures.json",
    ]  # fmt: skip
    seen = 0
    for path in files[:-1]:
        arrays = np.load(path)
        for row, name in enumerate(arrays["id"].tolist()):
            for one in store[name]:
                assert np.array_equal(arrays[one.method][row], one.attribution[0].numpy())
            assert np.array_equal(arrays["logits"][row], one.logits[0].numpy())
            assert arrays["target"][row] == one.target[0]
            seen += 1
    assert seen == 20
    [failure] = json.loads(files[-1].read_text())
    assert failure["id"] == "broken.png"


def test_npz_of_several_sizes(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = {str(i): torch.rand(1, size, size) for i, size in enumerate([5, 7, 5])}
    store = ek.batch(images, net, "saliency", tmp_path / "out")
    first, second = map(np.load, export(store, "npz", tmp_path / "npz"))
    assert first["id"].tolist() == ["0", "2"]
    assert second["explainkit/saliency"].shape == (1, 1, 7, 7)


def test_png(store, images, tmp_path):
    done = CliRunner().invoke(
        app, ["export", str(store.path), "--to", "png", "--out", str(tmp_path / "png")]
    )
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "png").glob("*.png"))
    assert len(files) == 2 * 20
    assert files[0].name == "00000001_image_000_input_x_gradient.png"  # broken.png is item 0
    with Image.open(files[0]) as drawn, Image.open(images / "part 0" / "image_000.png") as original:
        assert drawn.size == original.size


def test_parquet(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    [path, _] = export(store, "parquet", tmp_path / "parquet")
    rows = parquet.read_table(path).to_pylist()
    assert len(rows) == 20
    assert parquet.ParquetFile(path).num_row_groups == 3
    for row in rows:
        for one in store[row["id"]]:
            values = np.float32(row[one.method]).reshape(row[f"{one.method} shape"])
            assert np.array_equal(values, one.attribution[0].numpy())
        assert row["target"] == one.target[0]


def test_damaged_shards_are_not_exported(store, tmp_path):
    next((store.path / "shards").glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(StorageError, match="changed or truncated"):
        export(store, "npz", tmp_path / "npz")
    with pytest.raises(StorageError, match="expected npz, parquet, png"):
        export(store, "zarr", tmp_path / "zarr")
