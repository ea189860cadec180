"""Class names of large data sets, and names of models, in results."""

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.catalog.synonyms import bare_name
from explainkit.errors import TargetError
from explainkit.render.report.reproduce import call
from explainkit.scores import class_index

NAMES = ("tench, Tinca tinca", "crane", "drake", "Crane", "sea lion, lion", "lion, Panthera leo")


@pytest.mark.parametrize(
    ("name", "index"),
    [("tench", 0), ("tinca tinca", 0), ("tench, Tinca tinca", 0), ("drake", 2), ("sea lion", 4)],
)
def test_one_of_several_names_of_a_class(name, index):
    assert class_index(name, 6, NAMES) == index


@pytest.mark.parametrize(("name", "found"), [("crane", "1, 3"), ("lion", "4, 5")])
def test_a_name_of_several_classes_is_refused(name, found):
    with pytest.raises(TargetError, match=f"of classes {found}: use an index"):
        class_index(name, 6, NAMES)


def test_of_many_classes_similar_ones_are_listed():
    many = (*(f"class {i}" for i in range(1000)), "golden retriever")
    with pytest.raises(TargetError, match="one of 1001, such as golden retriever") as caught:
        class_index("goldenretriever", 1001, many)
    assert len(str(caught.value)) < 200
    with pytest.raises(TargetError, match="tench, Tinca tinca, crane"):
        class_index("trout", 6, NAMES)


@pytest.mark.parametrize(
    ("model", "bare"),
    [
        ("fer_hw3/cnn", "cnn"), ("timm:resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("transformers:google/vit-base", "vit-base"), ("nets/small.py:make", "make"),
        ("onnx:exports/v2.onnx", "v2.onnx"), ("torch.nn.modules.linear.Linear", "Linear"),
    ],
)  # fmt: skip
def test_short_names_of_models(model, bare):
    assert bare_name(model) == bare


def explained(tmp_path, monkeypatch, **options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))"
    )
    model = ek.load_model("nets.py:make", **options)
    return ek.explain(model, torch.rand(1, 3, 2, 2), 1)


def test_code_that_reproduces_a_result_loads_the_source(tmp_path, monkeypatch):
    explanation = explained(tmp_path, monkeypatch)
    scope = {"images": explanation.inputs}
    exec(call(explanation), scope)
    assert torch.equal(scope["explanation"].attribution, explanation.attribution)


def test_other_weights_are_left_to_the_reader(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    explanation = explained(tmp_path, monkeypatch, weights="w.pt", allow_pickle=True)
    assert "# model: nets.py:make (w.pt)" in call(explanation)
    assert "    model,\n" in call(explanation)


def test_of_two_classes_of_one_name_the_index_is_written(tmp_path, monkeypatch):
    explanation = explained(tmp_path, monkeypatch, class_names=["crane", "crane"])
    assert "    1,\n" in call(explanation)
