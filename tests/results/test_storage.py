"""Results are saved and loaded bit for bit; damaged ones are refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from safetensors.torch import save as save_bytes
from torch import Tensor

import explainkit as ek
from explainkit.errors import StorageError
from explainkit.files import read_regular, write_atomically
from explainkit.results.storage import RENAMED, save
from explainkit.testing import toy_models

VERSION_1 = Path(__file__).with_name("version_1")


@pytest.fixture(scope="module")
def explanation():
    model, images = toy_models()["plain"]
    return ek.explain(
        model, images, 0, "integrated_gradients", steps=3, baseline=torch.rand(3, 12, 10)
    )


def same(one, other):
    if isinstance(one, Tensor):
        bits = one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other or (one != one and other != other)


def assert_same(one, other):
    for field in fields(one):
        assert same(getattr(one, field.name), getattr(other, field.name)), field.name


def sealed(record):
    record = {key: value for key, value in record.items() if key != "sha256"}
    content = json.dumps(record, separators=(",", ":"))
    return record | {"sha256": hashlib.sha256(content.encode()).hexdigest()}


def edit(folder, **changes):
    """Changes a record and recomputes its hash."""
    path = folder / "explanation.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))


def test_round_trip(explanation, tmp_path):
    folder = explanation.save(tmp_path / "a/b")
    assert_same(explanation.with_receipt(), ek.Explanation.load(folder))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
    assert json.loads((folder / "explanation.json").read_text())["schema_version"] == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(explanation, tmp_path, dtype):
    one = replace(explanation, inputs=explanation.inputs.to(dtype))
    assert_same(one, ek.Explanation.load(save(one, tmp_path)))


def test_layouts(explanation, tmp_path):
    one = replace(explanation, attribution=explanation.attribution.transpose(2, 3))
    assert_same(one, ek.Explanation.load(save(one, tmp_path)))
    shared = replace(explanation, attribution=explanation.inputs)
    assert_same(shared, ek.Explanation.load(save(shared, tmp_path)))


KEYS = st.text(max_size=8) | st.sampled_from(
    ["$tensor", "$float", "$mapping", "$", "a", "b", "a.b", "b.a", "0", "1"]
)
TENSORS = st.tuples(st.integers(-9, 9), st.sampled_from([torch.float32, torch.int64])).map(
    lambda drawn: torch.full((2,), drawn[0], dtype=drawn[1])
)


def nested(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    )


PLAIN = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats()
PLAIN |= st.text(max_size=20) | KEYS
JSON = nested(PLAIN)


@given(st.dictionaries(KEYS, nested(PLAIN | TENSORS), max_size=4))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_parameters(explanation, tmp_path, params):
    one = replace(explanation, params=params)
    assert same(ek.Explanation.load(save(one, tmp_path)).params, params)


def test_ambiguous_key_paths_are_distinguished(explanation, tmp_path):
    params = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "params": {"a.b": torch.ones(2)}}
    assert same(
        ek.Explanation.load(save(replace(explanation, params=params), tmp_path)).params, params
    )


def test_numpy_scalars_are_numbers(explanation, tmp_path):
    params = {"n": np.int32(3), "x": np.float32(0.5), "y": np.bool_(True), "z": np.float64("nan")}
    found = ek.Explanation.load(
        save(replace(explanation, params=params, seed=np.int64(5)), tmp_path)
    )
    assert same(found.params, {"n": 3, "x": 0.5, "y": True, "z": float("nan")})
    assert [type(value) for value in found.params.values()] == [int, float, bool, float]
    assert found.seed == 5


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("params", "message"),
    [({"a": {1: 2}}, "params.a: expected strings as keys to save, got 1"),
     ({None: 2}, "params: expected strings as keys to save, got None"),
     ({"a": deep(100_000)}, "nest too deeply"),
     ({"a": torch.zeros(2, dtype=torch.complex64)}, "params.a: expected a dense real tensor"),
     ({"a": torch.eye(2).to_sparse()}, "params.a: expected a dense real tensor"),
     ({"a": np.complex64(1j)}, "params.a: expected a number"),
     ({"a": [np.zeros(2)]}, "params.a.0: expected a number"),
     ({"a": 10**5000}, "can't save")],
)  # fmt: skip
def test_parameters_that_are_refused(explanation, tmp_path, params, message):
    save(explanation, tmp_path)
    with pytest.raises(StorageError, match=message):
        save(replace(explanation, params=params), tmp_path)
    assert_same(ek.Explanation.load(tmp_path), explanation)


def test_fields_that_are_refused_when_saved(explanation, tmp_path):
    with pytest.raises(StorageError, match="target: expected 1 axes, .* got \\[1\\]"):
        save(replace(explanation, target=explanation.target[:1]), tmp_path)
    with pytest.raises(StorageError, match="seed: expected int"):
        save(replace(explanation, seed="1"), tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "f", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_temporary_files_of_interrupted_writes_are_removed(explanation, tmp_path):
    tensors = f"tensors-{'0' * 16}.safetensors"
    stale = (".explanation.json-0f3a", f".{tensors}-ab", tensors, ".explanation.lock")
    for name in (*stale, ".mine", "mine"):
        (tmp_path / name).write_text("")
    save(explanation, tmp_path)
    kept = {path.name for path in tmp_path.iterdir() if not path.name.startswith("tensors-")}
    assert kept == {"explanation.json", ".mine", "mine"}


def test_indexing_keeps_scalar_tensors(explanation):
    one = replace(explanation, diagnostics={"steps": torch.tensor(3), "gap": torch.rand(4)})
    cut = one[1]
    assert cut.diagnostics["steps"].item() == 3
    assert torch.equal(cut.diagnostics["gap"], one.diagnostics["gap"][1:2])


def test_what_cannot_be_stored(explanation, tmp_path):
    with pytest.raises(StorageError, match="params.f: expected a number.* got function"):
        save(replace(explanation, params={"f": same}), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("step", range(3))
def test_an_interruption_leaves_the_old_or_the_new(explanation, tmp_path, monkeypatch, step):
    new = replace(explanation, attribution=explanation.attribution * 2, seed=7)
    save(explanation, tmp_path)
    done = []
    replace_file, unlink = Path.replace, Path.unlink

    def counted(original):
        def call(self, *args, **kwargs):
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(self)
            return original(self, *args, **kwargs)

        return call

    monkeypatch.setattr(Path, "replace", counted(replace_file))
    monkeypatch.setattr(Path, "unlink", counted(unlink))
    with pytest.raises(KeyboardInterrupt):
        save(new, tmp_path)
    monkeypatch.undo()
    assert_same(ek.Explanation.load(tmp_path), new if step == 2 else explanation)
    save(new, tmp_path)
    assert_same(ek.Explanation.load(tmp_path), new)
    assert len([p for p in tmp_path.iterdir() if p.suffix == ".safetensors"]) == 1


def test_writers_of_one_folder_take_turns(explanation, tmp_path, monkeypatch):
    """One writer starts while another is between its two files, each of which the other sweeps."""
    one, two = (replace(explanation, attribution=explanation.attribution * k) for k in (2, 3))
    others = []

    def write(path, data):
        if path.name == "explanation.json" and not others:
            others.append(threading.Thread(target=save, args=(two, tmp_path)))
            others[0].start()
            others[0].join(0.2)
        write_atomically(path, data)

    monkeypatch.setattr("explainkit.results.storage.write_atomically", write)
    save(one, tmp_path)
    others[0].join()
    assert_same(ek.Explanation.load(tmp_path), two)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_gets_the_new_result_if_the_old_one_disappears(explanation, tmp_path, monkeypatch):
    new = replace(explanation, attribution=explanation.attribution * 2)
    save(explanation, tmp_path)

    def read(path):
        if path.suffix == ".safetensors":
            monkeypatch.undo()
            save(new, tmp_path)
        return read_regular(path)

    monkeypatch.setattr("explainkit.results.storage.read_regular", read)
    assert_same(ek.Explanation.load(tmp_path), new)


WRITERS = """
import dataclasses, os, pathlib, signal, sys, time, torch, explainkit as ek

root = pathlib.Path(sys.argv[1])
one = ek.Explanation.load(root / "source")


def write(number):
    while True:
        for name in range(3):
            changed = dataclasses.replace(one, attribution=one.attribution * number, seed=number)
            changed.save(root / str(name))
            number += 2


for kill in range(int(sys.argv[2])):
    writers = []
    for number in (2, 3):
        if not (child := os.fork()):
            write(number)
        writers.append(child)
    time.sleep(0.05 + 0.001 * kill)
    for child in writers:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for name in range(3):
        if (root / str(name) / "explanation.json").exists():
            found = ek.Explanation.load(root / str(name))
            assert torch.equal(found.attribution, one.attribution * found.seed)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX has them")
def test_two_writers_of_three_folders_are_killed(explanation, tmp_path, kills):
    save(explanation, tmp_path / "source")
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, tmp_path, str(kills)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in range(3):
        folder = save(explanation, tmp_path / str(name))
        assert len(list(folder.iterdir())) == 2


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(28, "No space left on device")

    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "old"


def test_a_folder_that_cannot_be_written(explanation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write the explanation into"):
        save(explanation, tmp_path / "file" / "below")


class TestVersion1:
    """Folders that version 1 wrote: smoothgrad of gradcam, and study on ``lead("0", 1)``."""

    def test_parameters_come_back_under_todays_names(self, tmp_path):
        found = ek.Explanation.load(VERSION_1)
        assert found.method == "explainkit/smoothgrad"
        assert found.params["base"] == {
            "method": "explainkit/gradcam", "layer": "0", "relu": False, "upsample": "bilinear",
            "patch_grid": None, "prefix_tokens": None,
        }  # fmt: skip
        assert found.params["samples"] == 2
        assert_same(found, ek.Explanation.load(found.save(tmp_path)))

    def test_maximizers_and_objectives_too(self, tmp_path):
        found = ek.Visualization.load(VERSION_1)
        assert found.maximizer == "explainkit/plain"
        assert found.objective == ('log_odds("0", 1)',)
        assert found.params["lr"] == 0.2
        assert found.params["init_std"] == 0.1
        assert found.params["restarts"] == 1
        assert not found.params.keys() & RENAMED.keys()
        assert_same(found, ek.Visualization.load(found.save(tmp_path)))

    def read(self, tmp_path, **changes):
        shutil.copytree(VERSION_1, tmp_path, dirs_exist_ok=True)
        edit(tmp_path, **changes)
        return ek.Explanation.load(tmp_path)

    def test_every_name(self, tmp_path):
        params = {name: 1 for name in RENAMED if "/" not in name} | {"data": "fer_hw3/drawn"}
        found = self.read(tmp_path, params=params, diagnostics={"grid": [2, 2]})
        assert found.params == {
            "unsupported": 1, "patch_grid": 1, "prefix_tokens": 1, "lr": 1, "init_std": 1,
            "restarts": 1, "centered": 1, "data": "fer_hw3/synthetic",
        }  # fmt: skip
        assert found.diagnostics == {"patch_grid": [2, 2]}

    def test_a_plugins_own_parameters_keep_their_names(self, tmp_path):
        nested = {"method": "explainkit/lrp", "uncovered": "error", "grid": "grid"}
        params = {"grid": 3, "base": nested}
        found = self.read(tmp_path, method="mine/rise", params=params)
        assert found.params == {
            "grid": 3,
            "base": {"method": "explainkit/lrp", "unsupported": "error", "patch_grid": "grid"},
        }

    def test_a_changed_record_is_refused(self, tmp_path):
        shutil.copytree(VERSION_1, tmp_path, dirs_exist_ok=True)
        path = tmp_path / "explanation.json"
        path.write_text(path.read_text().replace('"samples": 2', '"samples": 3'))
        with pytest.raises(StorageError, match="its sha256 does not match"):
            ek.Explanation.load(tmp_path)


@pytest.mark.parametrize(("outputs", "task"), [(1, "regression"), (3, "classification")])
def test_version_2_knew_no_tasks(explanation, tmp_path, outputs, task):
    """A single output was a value, whose class 0 was explained."""
    old = replace(explanation, logits=torch.rand(len(explanation), outputs), class_names=())
    path = save(old, tmp_path) / "explanation.json"
    record = json.loads(path.read_text()) | {"schema_version": 2}
    for name in ("task", "output", "squashed", "precision", "originals", "geometries", "names"):
        del record[name]
    path.write_text(json.dumps(sealed(record)))
    found = ek.Explanation.load(tmp_path)
    assert_same(found, replace(old, task=task))


class TestOriginals:
    @pytest.fixture
    def loaded(self):
        model, images = toy_models()["plain"]
        size = tuple(images.shape[2:])
        sources = [np.full((20, 31, 3), 7, np.uint8), np.full((25, 16), 9, np.uint8)]
        with pytest.warns(ek.ExplainkitWarning, match="normalization is not known"):
            return ek.explain(model, ek.load_images(sources, model, size))

    def test_round_trip(self, loaded, tmp_path):
        found = ek.Explanation.load(loaded.save(tmp_path))
        assert_same(found, loaded.with_receipt())
        assert [one.shape for one in found.originals] == [(20, 31, 3), (25, 16, 3)]
        for one, other in zip(found.on_original(), loaded.on_original(), strict=True):
            assert torch.equal(one.nan_to_num(-9.0), other.nan_to_num(-9.0))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"geometries": None}, "expected both or neither"),
            ({"names": ("a",)}, "names: expected 2, got 1"),
            ({"originals": (np.zeros((2, 2, 3), np.uint8),)}, "expected 2 of each"),
            ({"originals": (np.zeros((2, 2, 3), np.uint8),) * 2}, r"expected uint8 \[20, 31, 3\]"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, loaded, tmp_path, changes, message):
        with pytest.raises(StorageError, match=message):
            replace(loaded, **changes).save(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_version_3_knew_no_originals(self, explanation, tmp_path):
        path = save(explanation, tmp_path) / "explanation.json"
        record = json.loads(path.read_text()) | {"schema_version": 3}
        for name in ("precision", "originals", "geometries", "names"):
            del record[name]
        path.write_text(json.dumps(sealed(record)))
        assert_same(ek.Explanation.load(tmp_path), explanation)

    def test_version_4_knew_one_input(self, explanation, tmp_path):
        path = save(explanation, tmp_path) / "explanation.json"
        record = json.loads(path.read_text()) | {"schema_version": 4}
        del record["input"]
        path.write_text(json.dumps(sealed(record)))
        assert_same(ek.Explanation.load(tmp_path), explanation)


class TestRefusals:
    @pytest.fixture
    def folder(self, explanation, tmp_path):
        return save(explanation, tmp_path)

    @pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.99])
    @pytest.mark.parametrize("which", ["explanation.json", "tensors"])
    def test_truncation(self, folder, which, share):
        (path,) = [path for path in folder.iterdir() if path.name.startswith(which)]
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(StorageError):
            ek.Explanation.load(folder)

    def test_missing(self, folder, tmp_path):
        with pytest.raises(StorageError, match="expected a saved explanation at"):
            ek.Explanation.load(tmp_path / "nothing")
        next(folder.glob("tensors-*")).unlink()
        with pytest.raises(StorageError, match="expected tensors at"):
            ek.Explanation.load(folder)

    def test_changed_tensors(self, folder):
        path = next(folder.glob("tensors-*"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(StorageError, match="was changed or truncated"):
            ek.Explanation.load(folder)

    def test_a_changed_record(self, folder):
        path = folder / "explanation.json"
        text = path.read_text()
        path.write_text(json.dumps(json.loads(text)))
        ek.Explanation.load(folder)
        path.write_text(text.replace('"seed": 0', '"seed": 1'))
        with pytest.raises(StorageError, match="explanation.json was changed"):
            ek.Explanation.load(folder)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("params", 3), ("seed", "0"), ("seed", True), ("versions", []), ("versions", {"a": 1}),
         ("class_names", "abc"), ("class_names", [1]), ("class_names", None), ("mean", ["a"]),
         ("mean", "abc"), ("model", 3), ("layer", 3), ("diagnostics", None), ("coverage", 1),
         ("score", {"$tensor": "0"}), ("target", 3), ("schema_version", True),
         ("tensors_sha256", None), ("params", {"a": {"$tensor": "99"}}), ("params", {"$mapping": 1}),
         ("params", {"a": {"$float": 10**400}}), ("params", {"a": {"$float": "x"}})],
    )  # fmt: skip
    def test_fields_of_wrong_types(self, folder, field, value):
        edit(folder, **{field: value})
        with pytest.raises(StorageError):
            ek.Explanation.load(folder)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("score", lambda x: x[:1], "score: expected 1 axes"),
            ("logits", lambda x: x * torch.nan, "logits: expected finite numbers"),
            ("logits", lambda x: x[:, :0], "logits: expected values, got none"),
            ("inputs", lambda x: x[:, :, :0], "inputs: expected values, got none"),
            ("inputs", lambda x: x * torch.inf, "inputs: expected finite numbers"),
            ("attribution", lambda x: x.long(), "attribution: expected finite numbers"),
            ("target", lambda x: x + 5, "target: expected classes 0 to 4, got"),
            ("target", lambda x: x - 1, "target: expected classes 0 to 4, got"),
            ("target", torch.Tensor.int, "target: expected torch.int64"),
        ],
    )
    def test_tensors_that_no_run_writes(self, folder, name, change, message):
        (tensors,) = folder.glob("tensors-*")
        values = load_file(tensors)
        key = json.loads((folder / "explanation.json").read_text())[name]["$tensor"]
        data = save_bytes(values | {key: change(values[key]).contiguous()})
        digest = hashlib.sha256(data).hexdigest()
        (folder / f"tensors-{digest[:16]}.safetensors").write_bytes(data)
        edit(folder, tensors=f"tensors-{digest[:16]}.safetensors", tensors_sha256=digest)
        with pytest.raises(StorageError, match=message):
            ek.Explanation.load(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"class_names": ["a", "b"]}, "class_names: expected 5, got 2"),
            ({"task": "binary"}, "logits: expected one for a binary task, got 5"),
            ({"mean": [0.5]}, "mean: expected one number for each of 3 channels, got 1"),
        ],
    )
    def test_fields_that_contradict_the_tensors(self, folder, changes, message):
        edit(folder, **changes)
        with pytest.raises(StorageError, match=message):
            ek.Explanation.load(folder)

    @pytest.mark.skipif(os.name != "posix", reason="pipes and devices as POSIX has them")
    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("which", ["explanation.json", "tensors-*"])
    def test_pipes_and_devices(self, folder, which):
        (path,) = folder.glob(which)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(StorageError, match="not a regular file"):
            ek.Explanation.load(folder)
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(StorageError, match="not a regular file"):
            ek.Explanation.load(folder)

    @pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
    def test_names_that_cannot_be(self, explanation, tmp_path, name):
        with pytest.raises(StorageError, match="expected a saved explanation at"):
            ek.Explanation.load(tmp_path / name)
        with pytest.raises(StorageError, match="can't write the explanation into"):
            save(explanation, tmp_path / name)

    def test_deep_nesting(self, folder):
        path = folder / "explanation.json"
        path.write_text("[" * 200_000 + "]" * 200_000)
        with pytest.raises(StorageError):
            ek.Explanation.load(folder)

    @pytest.mark.parametrize("version", [0, 6])
    def test_other_versions(self, folder, version):
        edit(folder, schema_version=version)
        message = f"expected schema_version 1 to 5 .* got {version}: update"
        with pytest.raises(StorageError, match=message):
            ek.Explanation.load(folder)

    def test_records_without_receipts_are_read(self, folder):
        path = folder / "explanation.json"
        record = json.loads(path.read_text())
        del record["receipt"]
        path.write_text(json.dumps(sealed(record | {"schema_version": 4})))
        assert ek.Explanation.load(folder).receipt is None

    def test_receipts_of_other_images(self, folder):
        edit(folder, receipt={"images": []})
        with pytest.raises(StorageError, match=r"receipt: expected \d images"):
            ek.Explanation.load(folder)

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "tensors-0.safetensors", 3, None])
    def test_names_outside_the_folder(self, folder, name):
        edit(folder, tensors=name)
        with pytest.raises(StorageError):
            ek.Explanation.load(folder)

    @given(st.data())
    @settings(
        max_examples=80, deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    def test_any_other_json(self, explanation, tmp_path, data):
        folder = save(explanation, tmp_path)
        path = folder / "explanation.json"
        record = json.loads(path.read_text())
        key = data.draw(st.sampled_from(sorted(record)))
        if data.draw(st.booleans()):
            del record[key]
        else:
            record[key] = data.draw(JSON)
        path.write_text(json.dumps(sealed(record)))
        try:
            ek.Explanation.load(folder)
        except StorageError as error:
            assert "\n" not in str(error)
