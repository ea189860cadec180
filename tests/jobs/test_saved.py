"""Receipts of saved explanations and reports: what changed is named, damage told from change."""

import copy
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import explainkit as ek
from explainkit.adapters.images import preprocessing_of
from explainkit.adapters.preprocessing import Preprocessing, Resize
from explainkit.cli.app import app
from explainkit.errors import StorageError
from explainkit.hashes import weights_hash
from explainkit.jobs.checks import exit_code
from explainkit.jobs.receipts import verify
from explainkit.methods import Occlusion, SmoothGrad

PHOTOS = ["part 0/image_000.png", "part 0/image_002.png", "part 1/image_001.png"]


@pytest.fixture
def photos(images):
    return [images / name for name in PHOTOS]


@pytest.fixture(params=["folder", "report"])
def saved(request, photos, model, tmp_path):
    """An explanation of three photos, as a folder or as a report."""
    found = ek.explain(model, photos, method=SmoothGrad(samples=2), seed=4)
    if request.param == "folder":
        return found.save(tmp_path / "one", command="python photos.py")
    return found.report(tmp_path / "one.html", command="python photos.py")


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def found(checks, name):
    return next(check.found for check in checks if check.name == name)


def test_nothing_changed(saved, model):
    checks = verify(saved, model, recompute=2)
    assert set(verdicts(checks).values()) == {"ok"}, checks
    assert "2 images again" in found(checks, "numbers")
    assert exit_code(checks) == 0
    assert verdicts(verify(saved))["model"] == "not checked"


def test_one_bit_of_the_weights(saved, model):
    changed = copy.deepcopy(model)
    changed[3].weight.data.view(torch.int32)[0, 0] ^= 1
    checks = verify(saved, changed, recompute=3)
    assert verdicts(checks)["model"] == "differs"
    assert f"{weights_hash(model)[:16]} then" in found(checks, "model")
    assert verdicts(checks)["numbers"] == "ok"  # one bit is less than the tolerance
    assert exit_code(checks) == 1
    with torch.no_grad():
        changed[0].weight *= -1
    assert verdicts(verify(saved, changed, recompute=3))["numbers"] == "differs"


def test_another_preprocessing_and_another_library(saved, model, monkeypatch):
    monkeypatch.setattr(ek, "__version__", "9.9")
    other = ek.adapt(model, preprocessing=Preprocessing((Resize(8),), (0.5,) * 3, (0.25,) * 3))
    checks = verify(saved, other)
    assert "9.9 now" in found(checks, "library")
    assert "preprocessing" in found(checks, "model")


def test_a_changed_image_and_a_missing_one(saved, model, photos):
    photos[0].write_bytes(photos[1].read_bytes())
    checks = verify(saved, model, recompute=3)
    assert verdicts(checks)["images"] == "differs"
    assert "image_000.png" in found(checks, "images")
    # a folder has the inputs, a report needs the images
    assert verdicts(checks)["numbers"] == ("ok" if saved.is_dir() else "not checked")
    for photo in photos:
        photo.unlink()
    checks = verify(saved, model)
    assert verdicts(checks)["images"] == "not checked"
    assert exit_code(checks) == 0


def test_damage(saved):
    path = saved / "explanation.json" if saved.is_dir() else saved
    text = path.read_text()
    path.write_text(text.replace('"seed": 4', '"seed": 5').replace('"seed":4', '"seed":5'))
    assert path.read_text() != text
    checks = verify(saved)
    assert verdicts(checks) == {"files": "damaged"}
    assert exit_code(checks) == 4


def test_the_receipt(saved, photos):
    if saved.is_dir():
        receipt = ek.Explanation.load(saved).receipt
    else:
        receipt = json.loads(saved.read_text().partition('id="receipts">')[2].partition("</")[0])
        receipt = receipt[0]["receipt"]
        assert "sha256 of weights" in saved.read_text()
    assert receipt["command"] == "python photos.py"
    assert [one["path"] for one in receipt["images"]] == [str(photo) for photo in photos]
    assert (receipt["device"], receipt["dtype"]) == ("cpu", "float32")


def test_weights_that_change_before_saving_are_not_hashed(model, photos, tmp_path):
    one = ek.explain(model, photos)
    with torch.no_grad():
        model[0].weight += 1
    checks = verify(one.save(tmp_path / "late"), model)
    assert verdicts(checks)["model"] == "not checked"
    assert one.with_receipt().receipt["weights"] is None


@pytest.mark.parametrize(
    "change", [lambda net: net[1].running_mean.add_(1), lambda net: net.double()]
)
def test_buffers_that_change_and_conversions_are_seen(change):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    one = ek.explain(net, torch.rand(1, 3, 8, 8))
    change(net)
    assert one.with_receipt().receipt["weights"] is None


def test_a_buffer_that_the_forward_writes_is_restored_and_hashed():
    class Counting(nn.Sequential):
        def forward(self, x):
            self[0].calls += 1
            return super().forward(x)

    net = Counting(nn.Flatten(), nn.Linear(192, 2)).eval()
    net[0].register_buffer("calls", torch.zeros(()))
    one = ek.explain(net, torch.rand(1, 3, 8, 8))
    assert one.with_receipt().receipt["weights"] == weights_hash(net)


def test_other_questions_recur(model, photos, tmp_path):
    fixed = Occlusion(window=3, stride=2, baseline=torch.rand(3, 8, 8))
    for number, (method, options) in enumerate([
        (fixed, {"target": 'logit("a") - logit("b")'}),
        ("saliency", {"at": "0", "target": ["a", "b", "c"]}),
        ("saliency", {"task": "multilabel"}),
    ]):  # fmt: skip
        path = ek.explain(model, photos, method=method, **options).save(tmp_path / str(number))
        checks = verify(path, model, recompute=2)
        assert set(verdicts(checks).values()) == {"ok"}, checks
    path = ek.explain(model, photos, lambda out: out[:, 0] ** 2).save(tmp_path / "function")
    assert "was not saved" in found(verify(path, model, recompute=1), "numbers")


def test_tensors_have_a_hash_each(model, tmp_path):
    one = ek.explain(model, torch.rand(3, 3, 8, 8), method=["saliency", "input_x_gradient"])
    path = one.report(tmp_path / "tensors.html")
    checks = verify(path, model, recompute=1)
    assert verdicts(checks)["images"] == verdicts(checks)["numbers"] == "not checked"
    hashes = [image["tensor"] for image in one[0].with_receipt().receipt["images"]]
    assert len(set(hashes)) == 3
    assert one[0][1].with_receipt().receipt["images"] == [{"tensor": hashes[1]}]
    loaded = ek.Explanation.load(one[0].save(tmp_path / "folder"))
    assert loaded[1:].receipt["images"] == [{"tensor": digest} for digest in hashes[1:]]
    assert loaded[2].receipt["weights"] == weights_hash(model)


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"map_size": 3}])
def test_taken_out_of_a_store(images, model, tmp_path, options):
    store = ek.batch(images, model, "saliency", tmp_path / "store", batch_size=4, **options)
    checks = verify(store[3].save(tmp_path / "one"), model, recompute=1)
    assert set(verdicts(checks).values()) == {"ok"}, checks


def test_images_loaded_at_another_size_recur(model, photos, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    net = ek.adapt(net, preprocessing=preprocessing_of(model))
    one = ek.explain(net, ek.load_images(photos, net, size=6))
    for path in (one.save(tmp_path / "folder"), one.report(tmp_path / "one.html")):
        checks = verify(path, net, recompute=2)
        assert set(verdicts(checks).values()) == {"ok"}, checks


def test_models_of_plugins_are_found(images, tmp_path):
    one = ek.explain("fer_hw3/cnn", images / PHOTOS[0])
    one.save(tmp_path / "one")
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "one"), "--recompute", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert {check["verdict"] for check in json.loads(done.stdout)} == {"ok"}


def test_saved_before_receipts(model, photos, tmp_path):
    one = ek.explain(model, photos)
    path = one.report(tmp_path / "old.html")
    text = path.read_text()
    path.write_text(text.replace('<meta name="explainkit-sha256"', '<meta name="other"'))
    assert verdicts(verify(path)) == {"files": "not checked"}
    path.write_text("<p>another page</p>")
    assert verdicts(verify(path)) == {"files": "damaged"}
    with pytest.raises(StorageError, match="expected a report at"):
        verify(tmp_path / "none.html")
