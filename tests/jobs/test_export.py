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
    assert not (tmp_path / "npz").exists()
    with pytest.raises(StorageError, match="expected npz, parquet, zarr, hf, png"):
        export(store, "csv", tmp_path / "csv")


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError])
def test_half_written_exports_have_no_name(store, tmp_path, monkeypatch, error):
    shard = type(store).shard

    def cut_short(self, number):
        if number == 2:
            raise error
        return shard(self, number)

    out = tmp_path / "npz"
    (tmp_path / ".npz.part").mkdir()  # of an export that was killed
    (tmp_path / ".npz.part" / "part-00009.npz").touch()
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "shard", cut_short)
        with pytest.raises(error):
            export(store, "npz", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]
    files = export(store, "npz", out)
    assert sorted(out.iterdir()) == sorted(files)
    with pytest.raises(StorageError, match="expected a new or empty folder"):
        export(store, "npz", out)


def test_zarr(store, tmp_path):
    zarr = pytest.importorskip("zarr")
    [path, _] = export(store, "zarr", tmp_path / "zarr")
    root = zarr.open_group(path, mode="r")
    assert root.metadata.zarr_format == 3
    assert root.attrs["explainkit"]["plan"] == store.plan.hash
    group = root["8x8"]
    assert group["id"].shape == (20,)
    for row, name in enumerate(group["id"][:]):
        for one in store[str(name)]:
            assert np.array_equal(group[one.method][row], one.attribution[0].numpy())
        assert group["target"][row] == one.target[0]


def test_a_data_set_for_the_hub(store, images, tmp_path):
    datasets = pytest.importorskip("datasets")
    [_data, card, _] = export(store, "hf", tmp_path / "hf")
    assert "path: data/*.parquet" in card.read_text()
    found = datasets.load_dataset(str(tmp_path / "hf"), split="maps", cache_dir=str(tmp_path / "c"))
    assert found.features["target"].names == ["a", "b", "c"]
    assert found.features["explainkit/saliency"] == datasets.Array3D((3, 8, 8), "float32")
    assert len(found) == 20
    arrays = found.with_format("numpy", columns=["explainkit/saliency"])
    for row, plain in zip(found, arrays, strict=True):
        one = store[row["id"]].get(method="saliency")
        assert np.array_equal(plain["explainkit/saliency"], one.attribution[0].numpy())
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(images / row["id"])))
        assert row["target"] == int(one.target[0])


def test_the_hub_reads_features_from_the_files(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    [path, *_] = export(store, "hf", tmp_path / "hf")
    field = parquet.read_schema(path).field("explainkit/saliency")
    # a type once `datasets` is imported, metadata before
    assert "Array3D" in str(field.type) or b"Array3D" in field.metadata[b"ARROW:extension:name"]
    features = json.loads(parquet.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["explainkit/saliency"]["shape"] == [3, 8, 8]
    row = parquet.read_table(path).slice(0, 1).to_pylist()[0]
    assert row["image"]["bytes"].startswith(b"\x89PNG")


def test_images_of_several_sizes_for_the_hub(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = {str(i): torch.rand(1, size, size) for i, size in enumerate([5, 7, 5])}
    store = ek.batch(images, net, "saliency", tmp_path / "out")
    [path, _] = export(store, "hf", tmp_path / "hf")
    rows = {row["id"]: row for row in parquet.read_table(path).to_pylist()}
    for name, image in images.items():
        values = np.float32(rows[name]["explainkit/saliency"])
        assert values.shape == image.shape
        assert np.array_equal(values, store[name].attribution[0].numpy())


def test_verdicts_are_exported(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 2)).eval()
    images = {str(i): torch.rand(1, 24, 24) for i in range(2)}
    store = ek.batch(images, net, "saliency", tmp_path / "out", scorecard=True, map_size=6)
    [path] = export(store, "npz", tmp_path / "npz")
    arrays = np.load(path)
    verdicts = [item.judged[0].verdict for item in store.items]
    assert arrays["explainkit/saliency verdict"].tolist() == verdicts
    assert arrays["explainkit/saliency"].shape == (2, 1, 6, 6)
