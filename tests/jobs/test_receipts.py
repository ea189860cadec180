"""Receipts: what changed is named, and damage is told from change."""

import copy
import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app
from explainkit.errors import StorageError
from explainkit.jobs.checks import exit_code
from explainkit.jobs.plan import load_sealed, sealed
from explainkit.jobs.receipts import verify
from explainkit.methods import IntegratedGradients, SmoothGrad

METHODS = ["saliency", SmoothGrad(base=IntegratedGradients(steps=2), samples=2)]


@pytest.fixture
def store(images, model, tmp_path):
    return ek.batch(images, model, METHODS, tmp_path / "out", batch_size=4, shard_size=8)


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def test_an_untouched_store_recurs(store, model):
    checks = verify(store.path, model, recompute=5)
    assert set(verdicts(checks).values()) == {"ok"}
    assert exit_code(checks) == 0
    assert "largest difference 0.0e+00" in checks[-1].found
    assert verdicts(verify(store.path))["model"] == "not checked"


def test_one_bit_of_the_weights(store, model):
    changed = copy.deepcopy(model)
    weight = changed[3].weight.data.view(torch.int32)
    weight[0, 0] ^= 1 << 20
    checks = verify(store.path, changed, recompute=5)
    found = verdicts(checks)
    assert found.pop("model") == "differs"
    assert found["files"] == found["images"] == found["library"] == "ok"
    assert exit_code(checks) == 1
    assert "weights: " in next(check.found for check in checks if check.name == "model")
    changed[3].weight.data *= 1.01
    assert verdicts(verify(store.path, changed, recompute=5))["numbers"] == "differs"


def test_a_changed_image_and_a_missing_one(store, model, images):
    Image.new("RGB", (12, 12)).save(images / "part 0" / "image_000.png")
    (images / "part 1" / "image_001.png").unlink()
    checks = verify(store.path, model, recompute=20)
    assert verdicts(checks) == {
        "files": "ok", "images": "differs", "library": "ok", "model": "ok", "numbers": "ok",
    }  # fmt: skip
    assert "image_000.png" in checks[1].found
    assert "image_001.png" in checks[1].found
    assert "18 images again" in checks[-1].found


@pytest.mark.parametrize("name", ["tensors", "record", "plan", "items", "sealed again"])
def test_damage(store, name):
    shards = store.path / "shards"
    if name == "sealed again":
        # a record that somebody changed and sealed does not fit the list of items
        record = load_sealed(shards / "part-00000.json", "shard")
        del record["sha256"]
        record["items"][0]["id"], record["items"][1]["id"] = "b", "a"
        (shards / "part-00000.json").write_text(json.dumps(sealed(record)))
    else:
        path = {
            "tensors": shards / "part-00001.safetensors", "record": shards / "part-00001.json",
            "plan": store.path / "plan.json", "items": store.path / "items.txt",
        }[name]  # fmt: skip
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    checks = verify(store.path)
    assert verdicts(checks) == {"files": "damaged"}
    assert exit_code(checks) == 4


def test_another_library(store, model, monkeypatch):
    monkeypatch.setattr(ek, "__version__", "9.9")
    checks = verify(store.path, model)
    assert verdicts(checks)["library"] == "differs"
    assert "9.9 now" in next(check.found for check in checks if check.name == "library")


def test_a_saved_explanation(model, tmp_path):
    ek.explain(model, torch.rand(2, 3, 8, 8)).save(tmp_path / "one")
    assert verdicts(verify(tmp_path / "one", model)) == {
        "files": "ok", "images": "not checked", "library": "ok", "model": "ok",
    }  # fmt: skip
    tensors = next((tmp_path / "one").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert verdicts(verify(tmp_path / "one")) == {"files": "damaged"}
    with pytest.raises(StorageError, match="expected a store, a saved explanation or a report"):
        verify(tmp_path)


def test_the_command(store):
    done = CliRunner().invoke(app, ["verify", str(store.path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["verdict"] == "ok"
    assert CliRunner().invoke(app, ["verify", str(store.path), "--recompute", "3"]).exit_code == 2
    next((store.path / "shards").glob("*.safetensors")).unlink()
    assert CliRunner().invoke(app, ["verify", str(store.path)]).exit_code == 4


@pytest.mark.filterwarnings("ignore:.*in bfloat16")
def test_a_lower_precision_is_planned_recorded_and_recomputed(images, model, tmp_path):
    known = {"limit": 4, "batch_size": 2, "window": 3}
    out = tmp_path / "out"
    store = ek.batch(images, model, "occlusion", out, precision="bfloat16", **known)
    assert [one.precision for one in store[0]] == ["bfloat16"]
    assert 0 < store[0][0].diagnostics["rank_agreement"] <= 1
    assert store.plan.question["precision"] == "bfloat16"
    assert set(verdicts(verify(out, model, recompute=4)).values()) == {"ok"}
    with pytest.raises(StorageError, match='precision: "?bfloat16"? in the store, null now'):
        ek.batch(images, model, "occlusion", out, **known)


def test_a_plan_of_version_1(store):
    path = store.path / "plan.json"
    record = json.loads(path.read_text()) | {"schema_version": 1}
    for name in ("map_size", "scorecard", "precision", "sha256"):
        del record[name]
    path.write_text(json.dumps(sealed(record)))
    assert ek.Store(store.path).plan == store.plan
