"""Saved explanations come back to the bit, or are refused; never half of one."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import explainkit as ek
from explainkit.errors import StorageError
from explainkit.storage import load, save, write_atomically
from explainkit.testing import toy_models


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
    return one == other or (one != one and other != other)


def assert_same(one, other):
    for field in fields(one):
        assert same(getattr(one, field.name), getattr(other, field.name)), field.name


def test_round_trip(explanation, tmp_path):
    folder = explanation.save(tmp_path / "a/b")
    assert_same(explanation, ek.Explanation.load(folder))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
    assert json.loads((folder / "explanation.json").read_text())["schema_version"] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(explanation, tmp_path, dtype):
    one = replace(explanation, inputs=explanation.inputs.to(dtype))
    assert_same(one, load(save(one, tmp_path)))


def test_layouts(explanation, tmp_path):
    one = replace(explanation, attribution=explanation.attribution.transpose(2, 3))
    assert_same(one, load(save(one, tmp_path)))
    shared = replace(explanation, attribution=explanation.inputs)
    assert_same(shared, load(save(shared, tmp_path)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8).filter(lambda k: not k.startswith("$")), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_parameters(explanation, tmp_path, params):
    params = {key: value for key, value in params.items() if not key.startswith("$")}
    one = replace(explanation, params=params)
    assert same(load(save(one, tmp_path)).params, params)


def test_what_cannot_be_stored(explanation, tmp_path):
    with pytest.raises(StorageError, match="params.f: expected a number.* got function"):
        save(replace(explanation, params={"f": same}), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("step", range(3))
def test_a_kill_leaves_the_old_or_the_new(explanation, tmp_path, monkeypatch, step):
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
    assert_same(load(tmp_path), new if step == 2 else explanation)
    save(new, tmp_path)
    assert_same(load(tmp_path), new)
    assert len([p for p in tmp_path.iterdir() if p.suffix == ".safetensors"]) == 1


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


class TestRefusals:
    @pytest.fixture
    def folder(self, explanation, tmp_path):
        return save(explanation, tmp_path)

    def edit(self, folder, **changes):
        path = folder / "explanation.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    @pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.99])
    @pytest.mark.parametrize("which", ["explanation.json", "tensors"])
    def test_truncation(self, folder, which, share):
        (path,) = [path for path in folder.iterdir() if path.name.startswith(which)]
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(StorageError):
            load(folder)

    def test_missing(self, folder, tmp_path):
        with pytest.raises(StorageError, match="expected a saved explanation at"):
            load(tmp_path / "nothing")
        next(folder.glob("tensors-*")).unlink()
        with pytest.raises(StorageError, match="expected tensors at"):
            load(folder)

    def test_changed_tensors(self, folder):
        path = next(folder.glob("tensors-*"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(StorageError, match="was changed or cut short"):
            load(folder)

    def test_a_newer_version(self, folder):
        self.edit(folder, schema_version=2)
        with pytest.raises(StorageError, match="expected schema_version 1 .* got 2: update"):
            load(folder)

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "tensors-0.safetensors", 3, None])
    def test_names_that_lead_out(self, folder, name):
        self.edit(folder, tensors=name)
        with pytest.raises(StorageError):
            load(folder)

    @given(st.data())
    @settings(
        max_examples=200, deadline=None,
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
        path.write_text(json.dumps(record))
        try:
            load(folder)
        except StorageError as error:
            assert "\n" not in str(error)
