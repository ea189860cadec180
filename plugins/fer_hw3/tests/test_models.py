"""The networks are those of the study, and the weights are those that were measured."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import explainkit as ek
import explainkit_fer_hw3
from explainkit.catalog.factories import load_method
from explainkit.errors import ModelError, UnknownNameError
from explainkit.methods.contract import hides_parts
from explainkit_fer_hw3.calibration import calibration
from explainkit_fer_hw3.models import REACH, build_cnn, build_dnn, packaged_weights

WEIGHTS = Path(explainkit_fer_hw3.__file__).parent / "weights"


@pytest.mark.parametrize(
    ("build", "count"), [(build_cnn, 4_845_063), (build_dnn, 4_991_495)], ids=["cnn", "dnn"]
)
def test_parameters_and_shapes(build, count):
    model = build().eval()
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(3, 1, 48, 48)).shape == (3, 7)


def test_the_convolutions():
    convolutions = [m for m in build_cnn() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [128, 128, 256, 256, 512, 512]
    assert [c.padding for c in convolutions] == [(1, 1)] + [(0, 0)] * 5
    linear = [m.in_features for m in build_dnn() if isinstance(m, torch.nn.Linear)]
    assert linear == [2304, 1216, 1024, 768, 200]


@pytest.mark.parametrize(("name", "build"), [("cnn", build_cnn), ("dnn", build_dnn)])
def test_reach_is_what_the_output_depends_on(name, build):
    reach = REACH[name]
    torch.manual_seed(0)
    model = build().double().eval()
    images = torch.randn(2, 1, 48, 48, dtype=torch.float64, requires_grad=True)
    model(images).sum().backward()
    touched = images.grad.abs().sum((0, 1)) > 0
    assert touched[reach - 1].any()
    assert touched[:, reach - 1].any()
    assert not touched[reach:].any()
    assert not touched[:, reach:].any()
    if reach < 48:
        torch.testing.assert_close(model(images), model(images[..., :reach, :reach]))


@pytest.mark.parametrize("name", ["cnn", "dnn"])
def test_packaged_weights(name):
    file = WEIGHTS / f"{name}.safetensors"
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["explainkit_model"] == f"fer_hw3/{name}"
        assert all(opened.get_tensor(key).dtype == torch.float16 for key in opened.keys())  # noqa: SIM118
    model = ek.load_model(f"fer_hw3/{name}")
    assert not model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.explainkit_spec.class_names[3] == "happy"
    again = ek.load_model(file)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    card = (WEIGHTS / f"{name}.md").read_text()
    assert json.loads((WEIGHTS / "hashes.json").read_text())[file.name] in card
    for word in ("PublicTest", "Wilson", "License", "Intended use"):
        assert word.casefold() in card.casefold(), word


def test_the_card_shows_the_measured_confusions():
    """Both come from `explainkit run fer_hw3 confusion --data … --split public_test`."""
    first, *rows = csv.reader((WEIGHTS / "cnn-confusion.csv").read_text().splitlines())
    card = (WEIGHTS / "cnn.md").read_text()
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines = [f"| | {' | '.join(first[1:])} |", "|---" * len(first) + "|", *lines]
    assert "\n".join(lines) in card
    counts = [list(map(int, row[1:])) for row in rows]
    right = sum(row[i] for i, row in enumerate(counts))
    total = sum(map(sum, counts))
    assert f"| FER2013 PublicTest | {total:,} | {right / total:.4f} |" in card


def test_the_networks_classify_synthetic_faces():
    faces = ek.load_dataset("fer_hw3/synthetic", split="public_test").subset(range(70))
    with torch.inference_mode():
        read = ek.load_model("fer_hw3/cnn")(faces.images).argmax(1)
    assert float((read == faces.labels).float().mean()) > 0.9


def test_a_modified_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/hashes.json").write_text('{"cnn.safetensors": "0123"}')
    monkeypatch.setattr("explainkit_fer_hw3.models.files", lambda _: tmp_path)
    with pytest.raises(ModelError, match="found none"):
        packaged_weights("cnn.safetensors")
    (tmp_path / "weights/cnn.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="sha256 0123…, got 2d711642b726…"):
        packaged_weights("cnn.safetensors")


class TestFiles:
    def test_another_architecture(self, tmp_path):
        state = load_file(WEIGHTS / "cnn.safetensors")
        path = tmp_path / "x.safetensors"
        save_file(state, path, {"explainkit_model": "fer_hw3/dnn"})
        with pytest.raises(
            ModelError, match="expected weights of fer_hw3/dnn .10 tensors., got 18"
        ):
            ek.load_model(path)
        save_file(state | {"0.weight": torch.zeros(128)}, path, {"explainkit_model": "fer_hw3/cnn"})
        with pytest.raises(ModelError, match=r"expected '0.weight' .* to be \[128, 1, 3, 3\]"):
            ek.load_model(path)

    def test_files_that_name_nothing(self, tmp_path):
        path = tmp_path / "x.safetensors"
        save_file({"a": torch.zeros(1)}, path)
        with pytest.raises(ModelError, match="to name its architecture in its metadata"):
            ek.load_model(path)
        save_file({"a": torch.zeros(1)}, path, {"explainkit_model": "fer_hw3/rnn"})
        with pytest.raises(UnknownNameError, match="no model is named 'fer_hw3/rnn'"):
            ek.load_model(path)
        path.write_bytes(b"junk")
        with pytest.raises(ModelError, match="expected a safetensors file"):
            ek.load_model(path)
        with pytest.raises(ModelError, match="found nothing at"):
            ek.load_model(tmp_path / "missing.safetensors")
        with pytest.raises(ModelError, match=r"pickled checkpoints can run code"):
            ek.load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["cnn", "dnn"])
def test_the_card_names_the_method_that_was_supported_most_often(name):
    card = json.loads((WEIGHTS / f"{name}-scorecards.json").read_text())
    found = calibration(name)
    supported = {row["method"]: row["verdicts"]["supported"] for row in card["ranking"]}
    assert list(supported.values()) == sorted(supported.values(), reverse=True)
    open_box = {one: n for one, n in supported.items() if not hides_parts(load_method(one))}
    assert found.method == next(iter(open_box))
    assert all(sum(row["verdicts"].values()) == found.images for row in card["ranking"])
    assert str(found.supported) in found.reason
    assert ek.load_model(f"fer_hw3/{name}").explainkit_spec.positive_control == (
        card["positive_control_passes"], card["images"],
    )  # fmt: skip
    text = (WEIGHTS / f"{name}.md").read_text()
    assert f"Method shown beside the gradient: `{found.method}`" in text
    for row in card["ranking"]:
        assert f"| {row['method']} | {row['verdicts']['supported']} |" in text
    assert calibration("some.safetensors") is None
