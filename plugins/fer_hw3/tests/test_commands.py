"""The commands: their output, their files, and their errors."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forms import COUNT, table, tree, unpack
from PIL import Image
from typer.testing import CliRunner

import explainkit as ek
import explainkit_fer_hw3
from explainkit.cli.names import file_name, joined
from explainkit.errors import (
    DatasetError,
    ExplainkitError,
    MethodError,
    ModelError,
    StorageError,
    TargetError,
)
from explainkit.files import locked
from explainkit.results.scorecard import SENTENCES
from explainkit_fer_hw3.calibration import calibration
from explainkit_fer_hw3.commands import app, options
from explainkit_fer_hw3.commands.summary import layers
from explainkit_fer_hw3.models import build_cnn
from explainkit_fer_hw3.scores import wilson

WEIGHTS = Path(explainkit_fer_hw3.__file__).parent / "weights"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def csv(images, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(table(images, "fer2013"))
    return path


def run(*arguments):
    """Runs a command; maps are tested only where a test asks for that, since it takes a second."""
    if arguments[0] == "saliency" and not any("scorecard" in str(one) for one in arguments):
        arguments = (*arguments, "--no-scorecard")
    return run_as_typed(*arguments)


def run_as_typed(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_json(*arguments):
    """The single object on stdout; anything else fails."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def is_png(path):
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG"


def test_summary():
    found = run_json("summary")
    cnn, dnn = found["models"]
    assert (cnn["parameters"], dnn["parameters"]) == (4_845_063, 4_991_495)
    assert dnn["multiply_adds"] == 2304 * 1216 + 1216 * 1024 + 1024 * 768 + 768 * 200 + 200 * 7
    shapes = {row["name"]: row["output"] for row in cnn["layers"]}
    assert shapes["0"] == [128, 48, 48]
    assert shapes["16"] == [512, 2, 2]
    assert shapes["18"] == [2048]
    assert all(os.path.getsize(m["figure"]) > 5000 for m in found["models"])
    text = run("summary", "--model", "dnn").stdout
    assert "4,991,495" in text
    assert "4,845,063" not in text


def test_multiply_adds_are_those_of_torchs_counter():
    from torch.utils.flop_counter import FlopCounterMode

    model = build_cnn().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 48, 48))
    assert 2 * sum(row["multiply_adds"] for row in layers(model)) == counter.get_total_flops()


def test_evaluate_counts_correct_predictions(csv):
    found = run_json("evaluate", "--data", csv, "--split", "all", "--model", "dnn")
    data = ek.load_dataset("fer_hw3/fer2013", csv, split="all")
    with torch.inference_mode():
        predicted = ek.load_model("fer_hw3/dnn")(data.images).argmax(1)
    correct = int((predicted == data.labels).sum())
    assert (found["n"], found["split"], found["model"]) == (COUNT, "all", "dnn")
    assert found["accuracy"] == pytest.approx(correct / COUNT)
    assert found["interval"] == pytest.approx(wilson(correct, COUNT))
    happy = found["classes"]["happy"]
    assert happy["support"] == 4
    assert happy["recall"] == float((predicted[data.labels == 3] == 3).float().mean())
    assert run_json("evaluate", "--data", csv)["split"] == "public_test"
    assert "not a test score" in run("evaluate", "--data", csv, "--split", "train").stderr
    assert run("evaluate", "--data", csv).stderr == ""


def test_evaluate_as_text(csv):
    text = run("evaluate", "--data", csv, "--split", "all").stdout
    assert "28 images" in text
    assert "disgust" in text


def test_images_without_labels(images, here):
    (here / "t.csv").write_bytes(table(images, "test"))
    with pytest.raises(DatasetError, match="expected labeled images"):
        run("evaluate", "--data", here / "t.csv")
    found = run_json("saliency", "--data", here / "t.csv", "--index", 3)["images"][0]
    assert found["label"] is None


def test_confusion(csv):
    found = run_json("confusion", "--data", csv, "--split", "all")
    counts, shares = np.array(found["counts"]), np.array(found["shares"])
    assert counts.sum() == COUNT
    assert (counts.sum(1) == 4).all()
    np.testing.assert_allclose(shares, counts / 4)
    assert found["accuracy"] == pytest.approx(np.trace(counts) / COUNT)
    for mistake in found["confusions"]:
        i, j = (found["class_names"].index(mistake[key]) for key in ("true", "predicted"))
        assert counts[i, j] == mistake["count"]
        assert mistake["words"].startswith(mistake["true"].capitalize())
    assert is_png(found["figure"])
    text = run("confusion", "--data", csv, "--split", "all").stdout
    assert found["figure"] in text
    assert all(mistake["words"] in text for mistake in found["confusions"])


class TestSaliency:
    def test_the_default_needs_nothing_and_has_verdicts(self):
        result = run_as_typed("saliency")
        assert result.exit_code == 0
        assert result.stdout.count("  saliency: ") == result.stdout.count("  deeplift: ") == 3
        assert "not about causes" in result.stdout
        last = result.stdout.strip().splitlines()[-1]
        assert last.startswith("figure: ")
        assert is_png(last.removeprefix("figure: "))

    def test_verdicts_are_in_its_json_and_only_where_power_is_known(self, csv, here):
        ask = "saliency", "--index", 3, "--model", "dnn", "--json"
        (row,) = json.loads(run_as_typed(*ask).stdout)["images"]
        assert row["method"] == row["scorecard"]["method"] == "explainkit/saliency"
        assert row["beside"]["method"] == f"explainkit/{calibration('dnn').method}"
        assert row["beside"]["verdict"] in SENTENCES
        assert len(row["scorecard"]["p"]) == 3
        chosen = json.loads(run_as_typed(*ask, "--method", "saliency,lrp", "--seed", 1).stdout)
        assert [one["scorecard"]["methods"] for one in chosen["images"]] == [2, 2]
        shutil.copy(WEIGHTS / "dnn.safetensors", here / "mine.safetensors")
        own = "saliency", "--index", 3, "--model", here / "mine.safetensors", "--json"
        assert "scorecard" not in json.loads(run_as_typed(*own).stdout)["images"][0]
        wanted = json.loads(run_as_typed(*own, "--scorecard", "--seed", 1).stdout)["images"][0]
        assert wanted["scorecard"]["verdict"] in SENTENCES
        assert "beside" not in wanted

    def test_its_json_is_what_was_explained(self, csv):
        found = run_json(
            "saliency", "--data", csv, "--index", 22, "--index", 1, "--method", "smoothgrad",
            "--param", "samples=3", "--param", "base=input_x_gradient", "--target", "sad", "--seed", 5,
        )  # fmt: skip
        assert found["schema_version"] == 1
        assert [row["index"] for row in found["images"]] == [22, 1]
        saved = ek.Explanation.load(found["images"][0]["explanation"])
        data = ek.load_dataset("fer_hw3/fer2013", csv, split="all").subset([22, 1])
        expected = ek.explain(
            "fer_hw3/cnn", data.images, "sad", "smoothgrad", samples=3, base="input_x_gradient",
            seed=5,
        )  # fmt: skip
        assert torch.equal(saved.attribution, expected.attribution)
        for i, row in enumerate(found["images"]):
            assert row["label"] == data.class_names[data.labels[i]]
            assert row["target"] == "sad"
            assert row["predicted"] == data.class_names[expected.logits[i].argmax()]
            probabilities = expected.logits[i].softmax(0).tolist()
            assert list(row["probabilities"]) == list(data.class_names)
            assert list(row["probabilities"].values()) == pytest.approx(probabilities)
            assert row["method"] == "explainkit/smoothgrad"
            assert row["params"] == expected.params
            assert row["seconds"] > 0

    def test_indices_count_within_the_split(self, csv):
        found = run_json("saliency", "--data", csv, "--split", "public_test", "--index", 2)
        (row,) = found["images"]
        saved = ek.Explanation.load(row["explanation"])
        data = ek.load_dataset("fer_hw3/fer2013", csv, split="all")
        torch.testing.assert_close(saved.inputs, data.images[23:24])

    def test_photos(self, here):
        Image.new("RGB", (90, 60), (200, 120, 40)).save(here / "me and you.jpg")
        found = run_json("saliency", "--image", here / "me and you.jpg", "--model", "dnn")
        (row,) = found["images"]
        assert (row["index"], row["label"]) == (None, None)
        assert "me_and_you" in row["figure"]

    def test_trees_and_files_of_weights(self, images, here):
        import explainkit_fer_hw3

        folder = unpack(tree(images), here / "tree")
        weights = os.path.join(
            os.path.dirname(explainkit_fer_hw3.__file__), "weights/dnn.safetensors"
        )
        found = run_json("saliency", "--data", folder, "--model", weights, "--target", "2")
        assert ek.Explanation.load(found["images"][0]["explanation"]).model == "fer_hw3/dnn"

    def test_twice_is_the_same(self, csv, here):
        rows = []
        for folder in ("a", "b"):
            arguments = ("--data", csv, "--index", 4, "--method", "vargrad", "--param", "samples=2")
            (row,) = run_json("saliency", *arguments, "--out", here / folder)["images"]
            rows.append(row)
        one, two = ((here / folder / "vargrad-cnn-f-4.png").read_bytes() for folder in "ab")
        assert one == two
        for row in rows:
            for key in ("seconds", "figure", "explanation"):
                del row[key]
        assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--target", "bored"], TargetError, "expected a class name of the model .angry, disgust"),
        (["--target", "7"], TargetError, "from 0 to 6"),
        (["--target", "²"], TargetError, "expected a class name of the model"),
        (["--method", "smoothgrad", "--param", "noise=inf"], MethodError, "expected a finite"),
        (["--param", "x=1"], MethodError, "takes absolute, got 'x'"),
        (["--method", "salincy"], ExplainkitError, "did you mean 'saliency'"),
        (["--model", "rnn"], ExplainkitError, "no model is named 'fer_hw3/rnn'|no model is named 'rnn'"),
        (["--model", "x.pt"], ModelError, "pickled checkpoints can run code"),
        (["--data", "missing.csv"], DatasetError, "found nothing"),
        (["--image", "missing.jpg"], DatasetError, "can't be read"),
        (["--split", "holiday"], DatasetError, "got 'holiday'"),
    ],
)  # fmt: skip
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        run("saliency", *arguments)


@pytest.mark.parametrize("field", ["image_shape", "class_names", "mean"])
def test_other_networks_are_refused(field, monkeypatch):
    """Their numbers would be plausible but wrong."""
    other = {"image_shape": (3, 48, 48), "class_names": ("a", "b"), "mean": (0.0,)}
    model = ek.load_model("fer_hw3/dnn")
    spec = dataclasses.replace(model.explainkit_spec, **{field: other[field]})
    vars(model)["explainkit_spec"] = spec
    monkeypatch.setattr(ek, "load_model", lambda _: model, raising=False)
    for command in ("summary", "evaluate", "confusion", "saliency"):
        with pytest.raises(ModelError, match=f"a network of this study with {field}"):
            run(command, "--model", "other/net")


def test_results_of_other_questions_stay(csv, here):
    """A file name has the weights, the data, the split and the target."""
    weights = here / "mine"
    weights.mkdir()
    shutil.copy(WEIGHTS / "dnn.safetensors", weights / "cnn.safetensors")
    questions = [
        ("--data", csv),
        ("--data", csv, "--target", "sad"),
        ("--data", csv, "--split", "public_test"),
        ("--data", csv, "--model", weights / "cnn.safetensors"),
    ]
    rows = [run_json("saliency", *question)["images"][0] for question in questions]
    assert len({row["figure"] for row in rows}) == 4
    assert all(is_png(row["figure"]) for row in rows)
    models = ("--model", weights / "cnn.safetensors", "--model", "cnn")
    figures = [found["figure"] for found in run_json("summary", *models)["models"]]
    assert len(set(figures)) == 2


def test_equal_names_never_share_a_file(here):
    for path in (here / "face.png", here / "face.jpg", here / "other" / "face.png"):
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (48, 48), 90).save(path)
    alone = [
        run_json("saliency", "--image", here / name, "--model", "dnn")["images"][0]
        for name in ("face.png", "face.jpg")
    ]
    assert len({row["figure"] for row in alone}) == 2
    assert len({row["explanation"] for row in alone}) == 2
    arguments = ("--image", here / "face.png", "--image", here / "other" / "face.png")
    text = run("saliency", *arguments, "--model", "dnn").stdout
    assert "image face_png: predicted" in text
    assert "image face_png_2: predicted" in text


def test_no_method_is_dropped_from_file_names(here):
    names = ["saliency", "input_x_gradient", "guided_backprop", "lrp", "deeplift"]
    found = [
        run_json("saliency", "--model", "dnn", "--index", 3, "--method", ",".join(methods))[
            "images"
        ]
        for methods in (names[:4], names)
    ]
    assert found[0][0]["figure"] != found[1][0]["figure"]
    assert all(name in Path(found[1][0]["figure"]).name for name in names)
    assert len({row["explanation"] for row in found[1]}) == 5


def test_cut_and_sanitized_names_stay_different():
    many = [str(i) for i in range(100)]
    assert len(joined(many)) == len(joined(many[:-1])) == 80
    assert joined(many) != joined(many[:-1])
    assert file_name('logit("a") - logit("b")') != file_name('logit("a") + logit("b")')
    assert options.model_tags(["cnn", "cnn", "dnn"]) == ["cnn", "cnn_2", "dnn"]


@pytest.mark.parametrize(
    "command",
    ["saliency", "evaluate", "confusion", "compare", "filters", "classes", "concepts", "report"],
)
def test_a_split_needs_the_data_that_it_is_of(command, here):
    with pytest.raises(DatasetError, match="--split train: expected --data"):
        run(command, "--split", "train")
    assert not list(here.iterdir())


def test_narrow_terminals_cut_no_numbers(csv, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    for command in ("confusion", "evaluate", "summary"):
        arguments = ["--model", "dnn"] + ([] if command == "summary" else ["--data", csv])
        assert "…" not in run(command, *arguments).stdout


def test_convolutions_run_in_the_fast_layout(csv, monkeypatch):
    seen = []
    forward = torch.nn.Conv2d.forward
    fast = {"memory_format": torch.channels_last}

    def spy(self, x):
        seen.append(forward(self, x).is_contiguous(**fast))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spy)
    run_json("evaluate", "--data", csv)
    assert len(seen) == 6
    assert all(seen)


def test_help_is_wrapped_as_prose():
    """Line ends of the source are not line ends of the help."""
    done = subprocess.run(
        [sys.executable, "-m", "explainkit", "run", "fer_hw3", "saliency", "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    assert "`--index 38`" not in done.stdout
    assert "for a CSV in that order." in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "700"], "has images 0 to 699"),
        (["--index", "-1"], "has images 0 to 699"),
        (["--index", "x"], "unable to parse"),
        (["--image", "a.jpg", "--index", "1"], "--image stands alone"),
        (["--device", "warp"], "--device warp"),
        (["--device", "privateuseone"], "--device privateuseone: No module named"),
        (["--device", "meta"], "--device meta: it holds no values"),
        (["--seed", "-1"], "--seed -1: expected 0 to 4294967295"),
        (["--out", "/dev/null"], "can't write into /dev/null: /dev/null is not a folder"),
        (["--out", "/dev/null/x"], "can't write into /dev/null/x: Not a directory"),
        (["--out", "/proc/x"], "can't write into /proc/x: No such file or directory"),
        (["--out", "x" * 300], "File name too long"),
        (["--out", "a\0b"], "embedded null byte"),
    ],
)
def test_wrong_use(arguments, message):
    result = run("saliency", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    "command",
    [
        "summary",
        "compare",
        "confusion",
        "saliency",
        "filters",
        "classes",
        "activations",
        "concepts",
        "train",
        "report",
    ],
)
def test_the_output_folder_is_checked_before_work_starts(command, here, monkeypatch):
    def work(*_, **__):
        raise AssertionError

    monkeypatch.setattr(options, "load_model", work)
    monkeypatch.setattr(options, "load_data", work)
    (here / "file").write_text("mine")
    result = run(command, "--out", "file")
    assert result.exit_code == 2
    assert "can't write into file" in result.output
    assert (here / "file").read_text() == "mine"


def test_every_class_at_once(here):
    found = run_json("saliency", "--target", "all", "--index", 3, "--index", 4)["images"]
    names = ek.load_model("fer_hw3/cnn").explainkit_spec.class_names
    assert [row["target"] for row in found] == [name for name in names for _ in range(2)]
    assert len({row["figure"] for row in found}) == 1
    assert is_png(found[0]["figure"])
    for row in found:
        one = ek.Explanation.load(row["explanation"])
        assert one.target_name(0) == row["target"]
        assert row["explanation"].endswith(f"as_{row['target']}")
    assert "explained: every class" in run("saliency", "--target", "all", "--index", 3).stdout


@pytest.mark.parametrize("command", ["saliency", "activations", "summary", "report"])
def test_two_commands_never_write_the_same_files(command, here):
    if command == "report":
        lock = here / "explainkit-out/.report.lock"
    else:
        parts = {"saliency": "saliency-cnn-14-10-12", "activations": "activations-cnn-0-14"}
        lock = here / f"explainkit-out/.{parts.get(command, 'summary-dnn')}.lock"
    lock.parent.mkdir()
    with locked(lock, wait=False):
        with pytest.raises(StorageError, match="explainkit-out is in use by another command"):
            run(command)
        assert not [path for path in lock.parent.iterdir() if command in path.name and path != lock]
    assert not list(lock.parent.glob(".*"))


def test_a_process_prints_its_json_and_nothing_else(here):
    done = subprocess.run(
        [sys.executable, "-m", "explainkit", "run", "fer_hw3", "saliency", "--json", "--index", "3", "--model", "dnn"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["images"][0]["label"] == "happy"
    failed = subprocess.run(
        [sys.executable, "-m", "explainkit", "run", "fer_hw3", "saliency", "--json", "--data", "no"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.strip() == "error: expected a file or folder at no, found nothing"


def test_several_methods_share_a_figure_and_are_saved_separately(here):
    found = run_json(
        "saliency", "--method", "saliency,lrp,gradcam", "--param", "composite=epsilon", "--json"
    )
    rows = found["images"]
    assert [row["method"].rpartition("/")[2] for row in rows] == [
        *["saliency"] * 3, *["lrp"] * 3, *["gradcam"] * 3,
    ]  # fmt: skip
    assert len({row["figure"] for row in rows}) == 1
    assert len({row["explanation"] for row in rows}) == 3
    lrp = ek.Explanation.load(rows[3]["explanation"])
    assert lrp.params["composite"] == "epsilon"
    alone = run_json("saliency", "--method", "lrp", "--param", "composite=epsilon", "--json")
    same = ek.Explanation.load(alone["images"][0]["explanation"])
    torch.testing.assert_close(lrp.attribution, same.attribution)
    with pytest.raises(MethodError, match="saliency takes absolute, got 'depth'"):
        run("saliency", "--method", "saliency,lrp", "--param", "depth=3")


def test_an_expression_is_explained_and_names_its_files(here):
    text = 'logit("fear") - 0.5 * logit("sad")'
    found = run_json("saliency", "--target", text, "--json")
    assert {row["target"] for row in found["images"]} == {text}
    folder = Path(found["images"][0]["explanation"])
    assert folder.exists()
    assert not set('"()* ') & set(folder.name)
    network = ek.load_model("fer_hw3/cnn")
    saved = ek.Explanation.load(folder)
    scores = network(saved.inputs)
    torch.testing.assert_close(saved.score, (scores[:, 2] - 0.5 * scores[:, 4]).detach())
    with pytest.raises(TargetError):
        run("saliency", "--target", 'logit("fear"')
