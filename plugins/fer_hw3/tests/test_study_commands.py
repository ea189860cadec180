"""The study's commands: their output and files."""

import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from forms import COUNT, table
from PIL import Image
from typer.testing import CliRunner

import explainkit as ek
from explainkit.activation_maximization.optimize import Plain
from explainkit.errors import DatasetError, ExplainkitError, ModelError
from explainkit_fer_hw3.calibration import calibration
from explainkit_fer_hw3.commands import app
from explainkit_fer_hw3.commands.filters import maximizer_params
from explainkit_fer_hw3.faces import PARTS
from explainkit_fer_hw3.scores import wilson
from explainkit_fer_hw3.study.agreement import mcnemar


@pytest.fixture
def csv(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "f.csv"
    path.write_bytes(table(images, "fer2013"))
    return path


@pytest.fixture
def read(csv):
    """The small file's data, and the predictions of both networks."""
    data = ek.load_dataset("fer_hw3/fer2013", csv, split="all")
    with torch.inference_mode():
        return data, [ek.load_model(f"fer_hw3/{n}")(data.images).argmax(1) for n in ("cnn", "dnn")]


def run(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def is_png(path):
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG"


def test_compare(csv, read):
    data, (cnn, dnn) = read
    found = run_json("compare", "--data", csv, "--split", "all", "--index", 5)
    right = [cnn == data.labels, dnn == data.labels]
    met = found["agreement"]
    assert met["both"] == int((right[0] & right[1]).sum())
    assert met["only_first"] == int((right[0] & ~right[1]).sum())
    assert met["only_second"] == int((right[1] & ~right[0]).sum())
    assert met["p"] == mcnemar(met["only_first"], met["only_second"])
    assert met["same"] == int((cnn == dnn).sum()) / COUNT
    first, second = found["models"]
    assert (first["parameters"], second["parameters"]) == (4_845_063, 4_991_495)
    assert first["flops"] == 2 * first["multiply_adds"]
    assert second["accuracy"] == int(right[1].sum()) / COUNT
    assert second["interval"] == list(wilson(int(right[1].sum()), COUNT))
    assert first["classes"]["happy"]["recall"] == int((cnn[data.labels == 3] == 3).sum()) / 4
    assert [curve["name"] for curve in found["curves"]] == ["cnn", "dnn", "dnn, plain"]
    assert found["images"] == [5]
    assert all(is_png(path) for path in found["figures"].values())
    assert {"recalls", "maps", "accuracy_curves"} == set(found["figures"])
    beside = [calibration(name) for name in ("cnn", "dnn")]
    named = [f"explainkit/{name}" for one in beside for name in ("saliency", one.method)]
    assert found["methods"] == named
    assert found["reasons"] == [f"cnn: {beside[0].reason}", f"dnn: {beside[1].reason}"]


def test_compare_as_text_with_given_curves(csv, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = (
            "epoch,loss,accuracy,validation_loss,validation_accuracy\n1,2,.2,2,.2\n2,1,.5,1.5,.4\n"
        )
        (tmp_path / name / "history.csv").write_text(rows)
    text = run(
        "compare", "--data", csv, "--history", tmp_path / "a" / "history.csv",
        "--history", tmp_path / "b" / "history.csv",
    ).stdout  # fmt: skip
    assert "McNemar's exact test: p = " in text
    assert "774,709,696" in text
    assert "loss curves: " in text
    assert "4 images of" in text


def test_compare_refuses(csv):
    assert run("compare", "--data", csv, "--model", "cnn").exit_code == 2
    assert run("compare", "--data", csv, "--split", "all", "--index", COUNT).exit_code == 2
    with pytest.raises(DatasetError, match=r"expected a history.csv"):
        run("compare", "--data", csv, "--history", "none.csv")


def test_confusion_explains_its_mistakes(csv, read):
    data, (_, dnn) = read
    arguments = ("--data", csv, "--split", "all", "--model", "dnn", "--pairs", 2, "--examples", 1)
    found = run_json("confusion", *arguments, "--method", "input_x_gradient")
    assert found["counts"] == [
        [int(((data.labels == i) & (dnn == j)).sum()) for j in range(7)] for i in range(7)
    ]
    first, *rows = Path(found["csv"]).read_text().splitlines()
    assert first == "true,angry,disgust,fear,happy,sad,surprise,neutral"
    assert rows == [
        ",".join([name, *map(str, counts)])
        for name, counts in zip(data.class_names, found["counts"], strict=True)
    ]
    assert len(found["confusions"]) == 2
    for row in found["confusions"]:
        (example,) = row["examples"]
        label, seen = data.labels[example["index"]], dnn[example["index"]]
        assert (data.class_names[label], data.class_names[seen]) == (row["true"], row["predicted"])
        assert max(example["probabilities"], key=example["probabilities"].get) == row["predicted"]
        assert is_png(row["figure"])
        for name, folder in row["explanations"].items():
            saved = ek.Explanation.load(folder)
            assert saved.target_name(0) == name
            assert saved.method == "explainkit/input_x_gradient"
    assert found["beside"] is None
    without = run_json("confusion", "--data", csv, "--model", "dnn", "--examples", 0)
    assert all("figure" not in row for row in without["confusions"])
    assert run_json("confusion", "--data", csv, "--model", "dnn", "--pairs", 0)["confusions"] == []


def test_activations(csv):
    found = run_json("activations", "--data", csv, "--index", 3, "--layer", "4")
    assert (found["index"], found["filters_of"], found["shape"]) == (3, "2", [128, 23, 23])
    assert len(found["channels"]) == 128
    assert all(
        0 <= row["active"] <= 1 and row["min"] <= row["mean"] <= row["max"]
        for row in found["channels"]
    )
    assert is_png(found["figure"])
    text = run("activations", "--data", csv).stdout
    assert "128 × 48 × 48" in text
    Image.new("L", (60, 60), 90).save("me.png")
    assert "me" in run_json("activations", "--image", "me.png")["figure"]
    with pytest.raises(ModelError, match="there are none in this network"):
        run("activations", "--model", "dnn")
    with pytest.raises(ModelError, match="expected a layer of"):
        run("activations", "--layer", "features")


def test_concepts(csv, monkeypatch):
    monkeypatch.setattr("explainkit_fer_hw3.study.filters.DISSECTED", 14)
    computed_once(monkeypatch, "explainkit.concept_discovery.discover.concepts")
    computed_once(monkeypatch, "explainkit_fer_hw3.study.detectors.detect_parts")
    arguments = ("--data", csv, "--split", "all", "--n", 2, "--limit", 8)
    found = run_json("concepts", *arguments, "--report", "--steps", 1)
    assert (found["layer"], found["images"], len(found["concepts"])) == ("15", 8, 2)
    for k, one in enumerate(found["concepts"]):
        assert one["part"] is None or one["parts"][one["part"]]["low"] > 1
        assert set(one["parts"]) == set(PARTS)
        assert len(one["importance"]) == 7
        assert f"Concept {k}</h2>" in Path(found["report"]).read_text()
    for c, name in enumerate(found["class_names"]):
        first, last = found["expressions"][name]
        losses = [one["importance"][c] for one in found["concepts"]]
        assert losses[first] >= losses[last]
    assert is_png(found["figure"])
    assert is_png(found["parts"])
    text = run("concepts", *arguments).stdout
    happy = next(line for line in text.splitlines() if line.strip().startswith("happy"))
    assert happy.split()[1].startswith(str(found["expressions"]["happy"][0]))
    assert f"sees up to {found['sees']} of 48 rows" in text


def computed_once(monkeypatch, name):
    """Keeps the first result of a function, so that a second command is quick."""
    real, kept = pkgutil.resolve_name(name), []

    def once(*args, **kwargs):
        if not kept:
            kept.append(real(*args, **kwargs))
        return kept[0]

    monkeypatch.setattr(name, once)


def test_filters(csv):
    arguments = ("--units", "3,26", "--param", "steps=4")
    found = run_json("filters", *arguments)
    rows = found["units"]
    assert {row["channel"] for row in rows} == {3, 26}
    assert [row["rank"] for row in rows] == [0, 1]
    assert rows[0]["score"] >= rows[1]["score"]
    assert all(len(row["trace"]) == 4 and row["trace"][-1] > row["trace"][0] for row in rows)
    assert (found["maximizer"], found["layer"]) == ("explainkit/plain", "1")
    assert is_png(found["figure"])
    assert is_png(found["curves"])
    again = run_json("filters", *arguments, "--seed", 0)["units"]
    assert np.allclose([r["score"] for r in again], [r["score"] for r in rows])
    assert "2 units" in run("filters", *arguments).stdout
    assert Path(found["figure"]).name == "filters-plain-cnn-1-3-26.png"


def test_filters_with_every_option(csv, monkeypatch):
    monkeypatch.setattr("explainkit_fer_hw3.study.filters.DISSECTED", 70)
    arguments = ("--data", csv, "--split", "all", "--units", "26", "--param", "steps=3")
    found = run_json("filters", *arguments, "--exemplars", "--quality", "--animate")
    (row,) = found["units"]
    data = ek.load_dataset("fer_hw3/fer2013", csv, split="all")
    with torch.inference_mode():
        maps = ek.load_model("fer_hw3/cnn")[:2](data.images)[:, 26]
    best = maps.flatten(1).amax(1)
    top = row["exemplars"][0]
    assert top["index"] == int(data.indices[best.argmax()])
    assert top["value"] == pytest.approx(float(best.max()), rel=1e-5)
    y, x = top["position"]
    assert top["box"] == [max(y - 1, 0), max(x - 1, 0), min(y + 2, 48), min(x + 2, 48)]
    assert row["part"] in PARTS
    assert row["parts"][row["part"]]["low"] > 1
    assert row["quality"]["gain"] == pytest.approx(
        (row["score"] - float(maps.mean())) / float(maps.mean((1, 2)).max() - maps.mean()), rel=1e-3
    )
    assert is_png(row["card"])
    with Image.open(found["animation"]) as animation:
        assert animation.n_frames > 1


def test_filters_defaults_are_quick_and_full_is_complete(csv, monkeypatch):
    found = run_json("filters", "--param", "steps=1")
    assert sorted(row["channel"] for row in found["units"]) == list(range(32))
    full = run_json("filters", "--param", "steps=1", "--full")
    assert sorted(row["channel"] for row in full["units"]) == list(range(128))
    assert {"figure", "figure_2", "curves"} <= set(full)
    assert found["figure"] != full["figure"]
    asked = []

    def few(_name, _texts, full):
        asked.append(full)
        return {"steps": 1}

    # the command has the name of its module, and hides it
    monkeypatch.setitem(maximizer_params.__globals__, "maximizer_params", few)
    for options in ((), ("--full",)):
        run_json("filters", "--objective", 'channel("1", 2)', *options)
    assert asked == [False, True]


def test_filters_of_an_objective_and_of_the_dnn(csv):
    text = 'channel("1", 26) - 2 * channel("1", 3)'
    found = run_json("filters", "--objective", text, "--param", "steps=2")
    assert [row["objective"] for row in found["units"]] == [text]
    assert found["units"][0]["channel"] is None
    dnn = ("--model", "dnn", "--layer", "2", "--units", "5", "--param", "steps=2", "--exemplars")
    (row,) = run_json("filters", *dnn)["units"]
    assert row["part"] is None
    assert is_png(row["card"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--units", "x"), "expected units such as"),
        (("--units", "5-3"), "expected an ascending range of units"),
        (("--units", "900"), "expected a channel of layer '1' from 0 to 127"),
        (("--param", "decay=1"), "explainkit/plain takes"),
    ],
)
def test_filters_refuses(csv, arguments, words):
    with pytest.raises(ExplainkitError, match=words):
        run("filters", *arguments)


def test_filters_takes_units_or_an_objective(csv):
    objective = ("--objective", 'channel("1", 2)')
    for other in (("--units", "3"), ("--exemplars",)):
        assert run("filters", *objective, *other).exit_code == 2


def test_classes(csv):
    chosen = ("--class", "angry", "--class", "happy", "--param", "steps=5", "--param", "noise=0")
    found = run_json("classes", *chosen)
    rows = found["images"]
    assert [(row["model"], row["class"]) for row in rows] == [
        ("cnn", "angry"), ("cnn", "happy"), ("dnn", "angry"), ("dnn", "happy"),
    ]  # fmt: skip
    for row in rows:
        assert row["trace"][-1] > row["trace"][0]
        assert set(row["probabilities"]) == {"cnn", "dnn"}
        assert all(sum(p.values()) == pytest.approx(1) for p in row["probabilities"].values())
    assert is_png(found["figure"])
    quick = ("--model", "cnn", "--class", "angry", "--param", "steps=1")
    assert "cnn, angry: logit" in run("classes", *quick).stdout


def test_classes_from_a_face(csv):
    arguments = ("--data", csv, "--split", "all", "--index", 3, "--class", "sad", "--model", "cnn")
    (row,) = run_json("classes", *arguments, "--param", "steps=3")["images"]
    face = ek.load_dataset("fer_hw3/fer2013", csv, split="all").images[3:4]
    with torch.inference_mode():
        before = ek.load_model("fer_hw3/cnn")(face)[0, 4]
    # three steps away from the face itself, not from noise
    assert row["score"] > before
    assert row["trace"][0] == pytest.approx(float(before), abs=1.5)
    assert run("classes", "--class", "bored").exit_code == 2


def test_quick_ascents_go_as_far_as_full_ones():
    full = Plain()
    quick = maximizer_params("plain", [], full=False)
    assert quick["steps"] * quick["lr"] == pytest.approx(full.steps * full.lr)
    assert (quick["steps"], full.steps) == (64, 180)
    assert maximizer_params("plain", ["steps=7"], full=False) == {"steps": 7}
    assert maximizer_params("plain", ["lr=0.5"], full=False)["lr"] == 0.5
    assert maximizer_params("plain", [], full=True) == {}
    assert maximizer_params("fourier", [], full=False) == {"steps": quick["steps"]}
