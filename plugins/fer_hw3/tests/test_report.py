"""The study's report: its numbers, its text, and that it is safe and complete."""

import json
import re
import string
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from typer.testing import CliRunner

import explainkit as ek
from explainkit_fer_hw3.commands import app
from explainkit_fer_hw3.commands.summary import layers
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.scores import wilson
from explainkit_fer_hw3.study.agreement import agreement, mcnemar
from explainkit_fer_hw3.study.curves import Curve, packaged_history
from explainkit_fer_hw3.study.parts import PartShare, PartShares, Share
from explainkit_fer_hw3.study.predictions import Predictions
from explainkit_fer_hw3.study.report import findings, sentences
from explainkit_fer_hw3.study.report.document import compose, study_and_run
from explainkit_fer_hw3.study.report.html import to_html
from explainkit_fer_hw3.study.report.language import LANGUAGES, language
from explainkit_fer_hw3.study.report.markdown import to_markdown

HOSTILE = "<script>alert(1)</script>\" onload='x' ](javascript:1) `{0}` 影像.zip"

EN, ZH = (language(code) for code in LANGUAGES)


def predictions(counts):
    """Predictions with this confusion matrix, ``{true: {predicted: images}}``."""
    labels, read = [], []
    for true, row in counts.items():
        for name, n in row.items():
            labels += [CLASS_NAMES.index(true)] * n
            read += [CLASS_NAMES.index(name)] * n
    logits = torch.nn.functional.one_hot(torch.tensor(read), len(CLASS_NAMES)).float()
    return Predictions(torch.tensor(labels), logits)


def all_correct(n=100, **wrong):
    """Every class predicted correctly n times, except: ``fear=("sad", 40)``."""
    counts = {name: {name: n} for name in CLASS_NAMES}
    for true, (name, k) in wrong.items():
        counts[true][true] -= k
        counts[true][name] = k
    return predictions(counts)


def network(module, name, faces, curves=()):
    with torch.inference_mode():
        own = Predictions(faces.labels, module(faces.images))
    return findings.Network(name, name, module, layers(module), own, own, list(curves))


@pytest.fixture(scope="module")
def found():
    """The findings of a run on few images, with hostile names."""
    patch = pytest.MonkeyPatch()
    patch.setattr(findings, "FILTERS", 2)
    patch.setattr(findings, "STEPS", 3)
    patch.setattr(findings, "SHOWN", ("angry", "happy", "fear", "sad"))
    faces = ek.load_dataset("fer_hw3/synthetic", split="public_test").subset(range(21))
    nets = [
        network(ek.load_model(f"fer_hw3/{name}"), HOSTILE, faces, packaged_history(name))
        for name in ("cnn", "dnn")
    ]
    yield findings.find(*nets, replace(faces, parts=None), faces, data=HOSTILE, split="x", seed=0)
    patch.undo()


@pytest.fixture(scope="module", params=LANGUAGES)
def document(request, found):
    return compose(found, language(request.param), f"explainkit run {HOSTILE}")


class Page(HTMLParser):
    """The contents of a page, and the addresses that it loads."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.addresses, self.images = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.addresses += [v for k, v in attributes if k in {"src", "href", "srcset", "action"}]
        assert not any(name.startswith("on") for name in given)
        if tag == "img":
            self.images.append(given)

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.texts.append(data)


class TestPage:
    def test_loads_and_runs_nothing(self, document):
        page = Page(to_html(document))
        assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
        assert page.addresses
        assert all(a.startswith(("#s", "data:image/png;base64,")) for a in page.addresses)
        text = to_html(document)
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
        assert "url(" not in style
        assert "@import" not in style
        assert "default-src 'none'" in text

    def test_its_style_is_the_one_that_its_policy_admits(self, document):
        import base64
        import hashlib

        text = to_html(document)
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in text

    def test_all_images_have_an_alternative_text(self, document):
        images = Page(to_html(document)).images
        assert len(images) == sum(len(s.images) for s in document.sections)
        assert len(images) >= 12
        assert all(len(image["alt"]) > 10 for image in images)

    def test_hostile_names_are_text(self, document):
        page = Page(to_html(document))
        assert HOSTILE in "".join(page.texts)
        assert f'lang="{document.language}"' in to_html(document)

    def test_markdown_shows_every_image_and_no_markup_from_outside(self, document):
        text = to_markdown(document)
        for section in document.sections:
            assert all(f"](images/{one.name}.png)" in text for one in section.images)
        assert "\\<script\\>" in text
        assert "<script>" not in text
        assert "](javascript" not in text.replace("\\](javascript", "")
        names = [one.name for section in document.sections for one in section.images]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)

    def test_the_five_questions_are_there(self, document):
        assert len(document.sections) == 6
        assert all(section.text for section in document.sections[1:])
        assert len(document.sections[0].tables[0].rows) == 12


class TestLanguages:
    def test_have_the_same_sentences_with_the_same_numbers(self):
        def fields(text):
            return {name for _, name, _, _ in string.Formatter().parse(text) if name}

        one, two = (lang.words for lang in (EN, ZH))
        assert one.keys() == two.keys()
        for part in ("text", "classes", "parts"):
            assert one[part].keys() == two[part].keys()
        for key, text in one["text"].items():
            assert fields(text) == fields(two["text"][key]), key

    def test_have_no_unused_sentence(self):
        from pathlib import Path

        folder = Path(sentences.__file__).parent
        code = "".join(path.read_text() for path in folder.glob("*.py"))
        used = {key for key in EN.words["text"] if f'"{key}"' in code}
        rows = {key for key in EN.words["text"] if key.startswith(("row_", "study_", "col_"))}
        assert EN.words["text"].keys() == used | rows

    def test_the_chinese_report_has_no_english_sentence(self, found):
        """Except names of networks, files and methods, and of classes in figures."""
        document = compose(found, ZH, "command")
        texts = [document.title, document.lead, document.foot]
        for section in document.sections:
            texts += [section.heading, *section.text]
            texts += [one.caption for one in section.images]
            for table in section.tables:
                texts += [table.caption, *table.head, *(cell for row in table.rows for cell in row)]
        for text in texts:
            text = text.replace(HOSTILE, "")
            words = re.findall(r"[A-Za-z][a-z]+(?: [A-Za-z][a-z]+)+", text)
            assert not [w for w in words if w not in {"public test"}], text


class TestSentences:
    def test_fear_is_worst(self):
        text = " ".join(sentences.about_confusion(EN, all_correct(fear=("sad", 50))))
        low, high = wilson(50, 100)
        assert (
            f"The worst class is Fear, as in the study: recall 0.500 ({low:.3f} to {high:.3f})"
            in text
        )
        assert "Of 100 images of Fear, 50 are predicted as Sad or Angry: 0.500" in text
        assert "Fear is predicted as Sad in 50 of its 100 images (50%)." in text
        assert "uncertain" not in text

    def test_another_class_is_worst(self):
        text = " ".join(
            sentences.about_confusion(EN, all_correct(sad=("neutral", 60), fear=("happy", 9)))
        )
        assert "The worst class is Sad, recall 0.400" in text
        assert "in the study it was Fear, whose recall here is 0.910" in text
        assert "No image of Fear is predicted as Sad or Angry" in text
        assert "The worst class is Fear" not in text
        chinese = "".join(sentences.about_confusion(ZH, all_correct(sad=("neutral", 60))))
        assert "表現最差的類別為難過，召回率 0.400" in chinese

    def test_an_order_within_the_intervals_is_called_uncertain(self):
        text = " ".join(
            sentences.about_confusion(EN, all_correct(fear=("sad", 20), sad=("fear", 18)))
        )
        assert "overlaps that of Sad, 0.820" in text

    @pytest.mark.parametrize(
        ("best", "expected"), [(("happy", "surprise"), True), (("sad", "happy"), False)]
    )
    def test_the_best_two(self, best, expected):
        wrong = {name: ("neutral", 30) for name in CLASS_NAMES if name not in best}
        wrong["neutral"] = ("fear", 30)
        text = " ".join(sentences.about_confusion(EN, all_correct(**wrong)))
        assert ("They are also the best two in the study." in text) == expected
        assert all(f"{name.capitalize()}, recall 1.000" in text for name in best)

    def test_no_mistakes(self):
        text = " ".join(sentences.about_confusion(EN, all_correct()))
        assert text.startswith("All classes have the same recall in the CNN: 1.000")
        assert "makes no mistake" in text

    def test_ties_are_named(self, found):
        alike = replace(found, cnn=replace(found.cnn, predictions=all_correct()))
        for say, words in ((EN, "all classes tie"), (ZH, "各類別召回率相同")):
            rows = {row[0]: row[2] for row in study_and_run(alike, say).rows}
            assert rows[say("row_best")] == rows[say("row_worst")] == words

    def test_a_class_without_images(self):
        counts = {"happy": {"happy": 9, "sad": 1}, "sad": {"sad": 5, "happy": 5}}
        text = " ".join(sentences.about_confusion(EN, predictions(counts)))
        assert "The worst class is Sad" in text
        assert "There is no image of Fear" in text

    @pytest.mark.parametrize(
        ("accuracy", "comparable", "expected"),
        [
            (650, True, "is above this interval and was not reached"),
            (695, True, "is within this interval"),
            (750, True, "is below this interval"),
            (750, False, "can't be compared"),
        ],
    )
    def test_the_accuracy_against_the_studys(self, found, accuracy, comparable, expected):
        own = predictions({"happy": {"happy": accuracy, "sad": 1000 - accuracy}})
        cnn = replace(found.cnn, predictions=own)
        text = " ".join(sentences.about_cnn(EN, cnn, found.dnn, comparable=comparable))
        assert expected in text
        assert f"{accuracy / 1000:.3f}" in text
        assert "The study's network has exactly this size" in text

    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [(90, 60, "The CNN is more accurate"), (60, 90, "The DNN is more accurate"),
         (60, 61, "The difference is not significant")],
    )  # fmt: skip
    def test_which_network_is_better(self, found, first, second, expected):
        cnn, dnn = (
            replace(one, predictions=predictions({"happy": {"happy": right, "sad": 100 - right}}))
            for one, right in ((found.cnn, first), (found.dnn, second))
        )
        met = agreement(cnn.predictions, dnn.predictions)
        text = " ".join(sentences.about_dnn(EN, cnn, dnn, met))
        assert expected in text
        assert f"p = {mcnemar(met.only_first, met.only_second):.3g}" in text
        assert ("recall is higher for Happy" in text) == (met.p < 0.05)

    def test_curves(self):
        rising = Curve("a", (1, 2), {"accuracy": (0.5, 0.8), "validation_accuracy": (0.4, 0.5)})
        text = " ".join(sentences.about_curve(EN, [rising]))
        assert "peaks after epoch 2 at 0.500. That is the last epoch" in text
        passed = Curve("a", (1, 2), {"accuracy": (0.5, 0.95), "validation_accuracy": (0.5, 0.4)})
        assert "Training continued to epoch 2 without improvement" in " ".join(
            sentences.about_curve(EN, [passed])
        )
        assert "No training curve" in sentences.about_curve(EN, [])[0]
        (text,) = sentences.about_gap(EN, passed)
        assert "exceeds 0.9 in epoch 2, where validation accuracy is 0.400" in text
        (text,) = sentences.about_gap(EN, rising)
        assert "peaks at 0.800, where validation accuracy is 0.500" in text
        assert sentences.about_gap(EN, Curve("a", (1,), {"accuracy": (0.5,)})) == []

    @pytest.mark.parametrize(
        ("gain", "expected"),
        [((0.02, 0.04), "the maps follow the expression"), ((-0.01, 0.03), "includes 0"),
         ((-0.05, -0.01), "have even more there")],
    )  # fmt: skip
    def test_whether_maps_follow_the_expression(self, gain, expected):
        share = Share(0.5, (0.45, 0.55))
        one = PartShares(
            "explainkit/saliency", "all", 9, (), share, 0.3, 0.3, share,
            Share(sum(gain) / 2, gain), {},
        )  # fmt: skip
        rows = [replace(one, class_name="happy"), one]
        text = " ".join(sentences.about_parts(EN, {"explainkit/saliency": rows}))
        assert expected in text
        assert ("the difference is significantly positive for Happy" in text) == (gain[0] > 0)
        assert ("It is significantly negative for Happy" in text) == (gain[1] < 0)
        assert "That is more than their share of the area" in text

    def test_parts_are_named_only_beyond_their_interval(self):
        sure, unsure = (PartShare(Share(0.4, (low, 0.5)), 0.2) for low in (0.3, 0.1))
        parts = dict.fromkeys(sentences.FACE, unsure) | {"mouth": sure}
        text = " ".join(sentences.about_densities(EN, {"angry": (5, parts)}, exact=False))
        assert "per area is densest on mouth." in text
        assert "only some of them have more than their share of the area: mouth." in text
        assert "an estimate for the class" in text


def test_the_command(tmp_path, monkeypatch):
    """One run: its files and their numbers."""
    monkeypatch.setattr(findings, "FILTERS", 2)
    monkeypatch.setattr(findings, "STEPS", 2)
    monkeypatch.setattr(findings, "SHOWN", ("angry", "happy"))
    monkeypatch.setattr(sys.modules["explainkit_fer_hw3.commands.report"], "SYNTHETIC", 14)
    arguments = ["report", "--limit", "21", "--out", str(tmp_path), "--json", "--seed", "3"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved == {key: value for key, value in facts.items() if key != "files"}
    counts = torch.tensor(facts["cnn"]["images"]["counts"])
    assert int(counts.sum()) == facts["n"] == 21
    assert facts["cnn"]["images"]["accuracy"] == int(counts.trace()) / 21
    met = facts["agreement"]
    assert met["both"] + met["only_first"] + met["only_second"] + met["neither"] == 21
    assert met["p"] == mcnemar(met["only_first"], met["only_second"])
    assert facts["dnn"]["synthetic"]["n"] == 14
    assert len(facts["filters"]) == 2
    page = (tmp_path / "report.html").read_text()
    images = facts["dnn"]["images"]
    assert EN.share(Share(images["accuracy"], images["interval"])) in page
    assert page.count("<img") == len(list((tmp_path / "images").iterdir()))
    assert "--limit 21" in page


def test_wrong_use():
    for arguments in (["--lang", "fr"], ["--limit", "3"]):
        assert CliRunner().invoke(app, ["report", *arguments]).exit_code == 2
