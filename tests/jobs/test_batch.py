"""Jobs: the same as explain(), in whatever order, by whatever number of processes."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.errors import DatasetError, InputError, MethodError, StorageError, TargetError
from explainkit.jobs import shards
from explainkit.jobs.sources import Registered
from explainkit.jobs.worker import Worker
from explainkit_fer_hw3.data.synthetic import COUNTS

METHODS = ["saliency", "smoothgrad"]


def files(store):
    """Name to content of a store's tensors, and its records without what depends on the run."""
    found = {}
    for path in sorted((Path(store) / "shards").iterdir()):
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            found[path.name] = {k: v for k, v in record.items() if k not in {"facts", "sha256"}}
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_maps_are_those_of_explain(images, model, tmp_path):
    store = ek.batch(
        images, model, METHODS, tmp_path / "out", samples=3, batch_size=4, shard_size=8
    )
    paths = sorted(images.rglob("*.png"))
    found = ek.explain(model, paths, method=METHODS, samples=3, batch_size=4)
    assert len(store) == 20
    for i, path in enumerate(paths):
        for stored, direct in zip(store[i], found, strict=True):
            assert stored.names == (str(path.relative_to(images)),)
            assert (stored.method, stored.params) == (direct.method, direct.params)
            assert (stored.mean, stored.std, stored.class_names) == (
                direct.mean, direct.std, direct.class_names,
            )  # fmt: skip
            for name in ("attribution", "inputs", "logits", "target", "score"):
                assert torch.equal(getattr(stored, name), getattr(direct, name)[i : i + 1]), name
            assert np.array_equal(stored.originals[0], direct.originals[i])
            [here], [there] = stored.on_original(), direct[i].on_original()
            assert torch.equal(here.nan_to_num(-1), there.nan_to_num(-1))
    errors = store[3][1].diagnostics["standard_error"]
    assert torch.equal(errors, found[1].diagnostics["standard_error"][3:4])


def test_the_same_bits_in_any_parts(images, model, tmp_path, monkeypatch):
    options = {"batch_size": 4, "shard_size": 4, "samples": 2}
    ek.batch(images, model, METHODS, tmp_path / "whole", **options)
    for i in (2, 0, 1):
        ek.batch(images, model, METHODS, tmp_path / "parts", shard=f"{i}/3", **options)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ek.batch(images, model, METHODS, tmp_path / "ranks", **options)
    assert len(files(tmp_path / "ranks")) == 2 * 3
    monkeypatch.setenv("RANK", "1")
    ek.batch(images, model, METHODS, tmp_path / "ranks", **options)
    assert files(tmp_path / "whole") == files(tmp_path / "parts") == files(tmp_path / "ranks")
    assert len(files(tmp_path / "whole")) == 2 * 5


def test_a_call_goes_on_where_the_last_one_ended(images, model, tmp_path, monkeypatch):
    options = {"batch_size": 4, "shard_size": 4}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ek.batch(images, model, "saliency", whole, **options)
    run, computed = Worker.run, []

    def failing(self, number, keep):
        computed.append(number)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return run(self, number, keep)

    monkeypatch.setattr(Worker, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        ek.batch(images, model, "saliency", cut, **options)
    assert ek.Store(cut).progress().done == 2
    ek.batch(images, model, "saliency", cut, **options)
    assert computed == [0, 1, 2, 2, 3, 4]
    assert files(whole) == files(cut)
    ek.batch(images, model, "saliency", cut, **options)
    assert len(computed) == 6


def test_damaged_shards_are_computed_again(images, model, tmp_path):
    out = tmp_path / "out"
    options = {"batch_size": 4, "shard_size": 4}
    store = ek.batch(images, model, "saliency", out, **options)
    before = files(out)
    tensors = out / "shards" / "part-00001.safetensors"
    data = tensors.read_bytes()
    tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (out / "shards" / "part-00003.safetensors").unlink()
    record = out / "shards" / "part-00002.json"
    record.write_text(record.read_text().replace('"ok"', '"failed"', 1))
    (out / "shards" / ".part-00004.json-abc").write_text("a draft of a killed writer")
    fresh = ek.Store(out)
    with pytest.raises(StorageError, match="was changed or truncated"):
        fresh[4]
    assert torch.equal(fresh[0].attribution, store[0].attribution)
    assert len(fresh.progress(check=True).damaged) == 3
    ek.batch(images, model, "saliency", out, **options)
    assert files(out) == before


def test_another_call_is_refused_with_the_difference(images, model, tmp_path):
    out = tmp_path / "out"
    ek.batch(images, model, "saliency", out, batch_size=4)

    def differs(text, method="saliency", **options):
        with pytest.raises(StorageError, match=text):
            ek.batch(images, model, method, out, **options)

    differs("seed: null in the store, 3 now", seed=3)
    differs("target: null in the store, b now", target="b")
    differs("methods: .*saliency.* in the store, .*input_x_gradient.* now", "input_x_gradient")
    differs("images: 20, list .* in the store, 5, list", limit=5)
    differs("dtype: float32 in the store, float16 now", dtype="float16")
    differs("batch_size: 4 in the store, 8 now", batch_size=8)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    differs("model weights: .* in the store")
    changed = ek.batch(images, model, "saliency", out, overwrite=True, target="b")
    assert {one.target.item() for one in changed} == {1}
    assert changed.progress().ok == 20


def test_what_an_interrupted_start_leaves_is_replaced(images, model, tmp_path):
    out = tmp_path / "out"
    whole = files(ek.batch(images, model, "saliency", out, batch_size=4, shard_size=8).path)
    (out / "shards" / "notes.txt").write_text("mine")
    (out / "plan.json").unlink()
    ek.batch(images, model, "saliency", out, batch_size=2, shard_size=4)
    assert (out / "shards" / "notes.txt").read_text() == "mine"
    (out / "shards" / "notes.txt").unlink()
    assert len(files(out)) == 2 * 5
    (out / "items.txt").write_text("damaged")
    (out / "shards" / "part-00000.json").unlink()
    ek.batch(images, model, "saliency", out)
    (out / "plan.json").write_text("{}")
    with pytest.raises(StorageError, match="was changed"):
        ek.batch(images, model, "saliency", out)
    ek.batch(images, model, "saliency", out, batch_size=4, shard_size=8, overwrite=True)
    assert files(out) == whole


def test_a_folder_with_other_files_is_not_touched(images, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="other files"):
        ek.batch(images, model, "saliency", tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def break_images(folder):
    """Eight images broken in eight ways."""
    good = next(folder.rglob("*.png")).read_bytes()
    (folder / "b0.png").write_bytes(b"")
    (folder / "b1.png").write_bytes(good[: len(good) // 2])
    (folder / "b2.png").write_text("<html>404</html>")
    (folder / "b3.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 50)
    (folder / "b4.png").symlink_to(folder / "nothing")
    (folder / "b5.png").mkdir()
    (folder / "b5.png" / "inside.png").write_bytes(good[:40])
    (folder / "b6.tif").write_bytes(b"II*\0" + b"\xff" * 20)
    (folder / "b7.png").write_bytes(good[:30] + b"\0" * 20 + good[50:])


def test_broken_images_stop_nothing(images, model, tmp_path):
    whole = ek.batch(images, model, "saliency", tmp_path / "whole", batch_size=4)
    maps = {one.names[0]: one.attribution for one in whole}
    break_images(images)
    store = ek.batch(images, model, "saliency", tmp_path / "out", batch_size=4, shard_size=8)
    progress = store.progress()
    assert (progress.ok, progress.failed, progress.refused, progress.left) == (20, 8, 0, 0)
    for item in store.where(status="failed").items:
        assert item.id.startswith("b")
        assert item.reason
        assert "\n" not in item.reason
        with pytest.raises(StorageError, match="failed"):
            store[item.id]
    assert {one.names[0] for one in store} == maps.keys()
    for one in store:
        assert torch.equal(one.attribution, maps[one.names[0]])
    (images / "b1.png").write_bytes(next(images.glob("part*/*.png")).read_bytes())
    again = ek.batch(images, model, "saliency", tmp_path / "out", retry_failed=True)
    assert again.progress().failed == 7
    assert again["b1.png"].names == ("b1.png",)


class Picky(nn.Module):
    """Fails on dark images, and is infinite on bright ones."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        if bool((mean < 0).any()):
            raise RuntimeError("too dark\nfor me")
        return torch.stack([mean, 1 / (mean < 10).to(x)], 1)


def test_one_image_does_not_take_others_along(tmp_path):
    images = {f"image {i}": torch.full((1, 2, 2), float(i)) for i in range(8)}
    images["image 3"] = torch.full((1, 2, 2), -1.0)
    images["image 4"] = torch.full((1, 2, 2), 11.0)
    images["image 5"] = torch.full((1, 2, 2), torch.nan)
    images["image 6"] = torch.ones(2, 2)
    store = ek.batch(images, Picky(), "input_x_gradient", tmp_path / "out", target=0, batch_size=4)
    reasons = {item.id: item.reason for item in store.items if item.status == "failed"}
    assert reasons.keys() == {f"image {i}" for i in (3, 4, 5, 6)}
    assert "too dark" in reasons["image 3"]
    assert "finite outputs" in reasons["image 4"]
    assert "NaN" in reasons["image 5"]
    assert "[channel, height, width]" in reasons["image 6"]
    for i in (0, 1, 2, 7):
        assert store[f"image {i}"].attribution.sum() == pytest.approx(i)


def test_what_fails_for_all_images_is_an_error_and_leaves_no_plan(images, model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TargetError, match="d"):
        ek.batch(images, model, "saliency", out, target="d")
    with pytest.raises(MethodError, match="stepz"):
        ek.batch(images, model, "integrated_gradients", out, stepz=3)
    with pytest.raises(TargetError, match="one target for all images"):
        ek.batch(images, model, "saliency", out, target=[1, 2])
    with pytest.raises(InputError, match="shard"):
        ek.batch(images, model, "saliency", out, shard="3/3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="found none"):
        ek.batch(tmp_path / "empty", model, "saliency", out)
    assert not (out / "plan.json").exists()


def test_sources(images, model, tmp_path):
    reference = ek.batch(images, model, "saliency", tmp_path / "folder", batch_size=4)
    paths = sorted(path.relative_to(images) for path in images.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in paths:
            archive.write(images / path, path)
        archive.writestr("readme.txt", "not an image")
    (images / "list.txt").write_text("\n".join(map(str, reversed(paths))) + "\n\n")
    pairs = [(str(path), Image.open(images / path)) for path in paths]
    arrays = {str(path): np.asarray(Image.open(images / path)) for path in paths}
    sources = {
        "zip": tmp_path / "all.zip", "list": images / "list.txt", "pairs": pairs, "mapping": arrays,
    }  # fmt: skip
    for name, source in sources.items():
        store = ek.batch(source, model, "saliency", tmp_path / name, batch_size=4)
        assert len(store) == 20
        for path in map(str, paths[:3]):
            assert torch.equal(store[path].attribution, reference[path].attribution)
            assert torch.equal(store[path].inputs, reference[path].inputs)


def test_a_registered_data_set(tmp_path, monkeypatch):
    monkeypatch.setitem(COUNTS, "validation", 14)
    source = Registered("fer_hw3/synthetic", split="validation", seed=1)
    store = ek.batch(source, "fer_hw3/cnn", "saliency", tmp_path / "out", limit=5)
    data = ek.load_dataset("fer_hw3/synthetic", split="validation", seed=1)
    first = min(range(len(data)), key=lambda i: data.names[i])
    assert torch.equal(store[0].inputs[0], data[first][0])
    assert store[0].names == (data.names[first],)
    assert store[0].class_names == data.class_names


def test_images_of_several_sizes(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    sizes = [5, 7, 5, 9, 7, 5]
    images = {str(i): torch.rand(1, size, size) for i, size in enumerate(sizes)}
    store = ek.batch(images, net, "saliency", tmp_path / "out", batch_size=2)
    for name, image in images.items():
        direct = ek.explain(net, image[None], batch_size=2)
        assert torch.equal(store[name].attribution, direct.attribution)
        assert torch.equal(store[name].inputs[0], image)


def test_half_the_bytes_keep_small_maps(images, model, tmp_path):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1e-5  # gradients below the smallest float16
    whole = ek.batch(images, model, "saliency", tmp_path / "whole", batch_size=4)
    half = ek.batch(images, model, "saliency", tmp_path / "half", batch_size=4, dtype="float16")
    for one, other in zip(whole, half, strict=True):
        largest = one.attribution.abs().max()
        assert 0 < largest < 6e-8
        assert (one.attribution - other.attribution).abs().max() <= largest * 2**-11
        assert other.attribution.dtype == torch.float32


def test_a_changed_image_is_an_error(images, model, tmp_path):
    store = ek.batch(images, model, "saliency", tmp_path / "out")
    path = images / "part 0" / "image_000.png"
    Image.new("RGB", (12, 12)).save(path)
    with pytest.raises(StorageError, match="was changed since"):
        store["part 0/image_000.png"]


def test_a_full_disk_leaves_no_shard(images, model, tmp_path, monkeypatch):
    write, count = shards.write_atomically, []

    def full(path, data):
        count.append(path)
        if len(count) == 4:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(shards, "write_atomically", full)
    options = {"batch_size": 4, "shard_size": 4}
    with pytest.raises(StorageError, match="No space left"):
        ek.batch(images, model, "saliency", tmp_path / "out", **options)
    assert ek.Store(tmp_path / "out").progress().done == 1  # the second one has no record
    ek.batch(images, model, "saliency", tmp_path / "out", **options)
    ek.batch(images, model, "saliency", tmp_path / "whole", **options)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_nothing_is_left_on_the_caller(images, model, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    model.train()
    ek.batch(images, model, "smoothgrad", tmp_path / "out", samples=2, threads=2)
    assert model.training
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_filters_and_slices(images, model, tmp_path):
    store = ek.batch(images, model, "saliency", tmp_path / "out", batch_size=4, shard_size=8)
    classes = [one.target.item() for one in store]
    for label in set(classes):
        assert len(store.where(target=label)) == classes.count(label)
    part = store[5:15]
    assert [one.names for one in part] == [store[i].names for i in range(5, 15)]
    assert part[-1].names == store[14].names
    sure = store.where(confidence=(0.4, 1.0))
    assert all(0.4 <= one.probabilities[0, one.target[0]] <= 1 for one in sure)
    assert 0 < len(sure) < 20
    with pytest.raises(IndexError):
        store[20]
    with pytest.raises(IndexError, match="no item 'nobody'"):
        store["nobody"]
    with pytest.raises(StorageError, match="expected a plan"):
        ek.Store(tmp_path)


class Cramped(nn.Module):
    """Has memory for two images, and for none that is bright."""

    def forward(self, x):
        if len(x) > 2 or bool((x > 9).any()):
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], 1)


def test_out_of_memory_halves_what_runs_at_once(tmp_path):
    images = {str(i): torch.full((1, 2, 2), float(i)) for i in range(8)}
    images["5"] = torch.full((1, 2, 2), 10.0)
    store = ek.batch(
        images, Cramped(), "input_x_gradient", tmp_path / "out", target=1, batch_size=4
    )
    [failed] = store.where(status="failed").items
    assert failed.id == "5"
    assert "out of memory" in failed.reason
    for one in store:
        value = float(one.names[0])
        assert one.attribution.sum().item() == pytest.approx(2 * value**2)
