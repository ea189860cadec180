"""The one-file report: it shows what was computed, and no text in it becomes markup."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from report_forms import HOSTILE, explained
from torch import nn

import explainkit as ek
from explainkit.errors import RenderError
from explainkit.render.heatmap import scale
from explainkit.render.report import report
from explainkit.render.report.content import SCALINGS, SIGNS
from explainkit.render.report.sheets import SheetGrid, pack


class Reader(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        self.inside.pop()

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1)), text


def unpacked(text, one, image, shape):
    raw = base64.b64decode(text[image * one["length"] : (image + 1) * one["length"]])
    numbers = np.frombuffer(raw, "<" + one["kind"], np.prod(shape)).astype(float)
    step = one["units"][image] / (32767 if one["kind"] == "i2" else 1)
    return (numbers * step).reshape(shape)


# near the smallest double, dividing and multiplying by a scale is not exact
finite = st.floats(-1e300, 1e300, allow_nan=False).map(lambda v: v if abs(v) > 1e-290 else 0.0)


@given(hnp.arrays(np.float64, st.tuples(*[st.integers(1, 5)] * 3), elements=finite))
def test_packed_values_are_exact_to_their_precision(maps):
    for kind, error in (("f4", 2**-23), ("i2", 1 / 65534)):
        packed = pack(maps, kind)
        one = {"length": packed.length, "kind": kind, "units": packed.units}
        for i, values in enumerate(maps):
            found = unpacked(packed.text, one, i, values.shape)
            assert np.abs(found - values).max() <= error * np.abs(values).max() * (1 + 1e-9)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_every_image_is_in_its_cell(count, width, height):
    grid = SheetGrid.of(count, width, height)
    images = [np.full((height, width), i % 251, np.uint8) for i in range(count)]
    sheets = [np.asarray(sheet) for sheet in grid.sheets(images)]
    for i, image in enumerate(images):
        sheet, cell = divmod(i, grid.columns * grid.rows)
        top, left = cell // grid.columns * height, cell % grid.columns * width
        assert (sheets[sheet][top : top + height, left : left + width] == image).all()


def test_the_limits_are_those_of_figures(tmp_path):
    one = explained(count=3)
    data, _ = data_of(report(one, tmp_path / "r.html"))
    for rule in SCALINGS:
        for sign in SIGNS:
            wanted = scale(one.heatmap(), f"{rule}:{sign}").limits
            assert data["maps"][0]["limits"][rule][sign] == pytest.approx(wanted, rel=1e-6)


def test_images_bars_and_values_are_in_the_file(tmp_path):
    one = explained(count=1, classes=12, side=5, inputs=torch.rand(1, 3, 5, 5))
    data, text = data_of(report(one, tmp_path / "r.html", labels=[4]))
    values = re.search(r'id="values-0">(.*?)<', text).group(1)
    found = unpacked(values, data["maps"][0], 0, (5, 5))
    assert found == pytest.approx(one.heatmap()[0].numpy(), rel=1e-6)
    top = dict(map(tuple, data["predictions"][0]["top"][0]))
    assert {0, 4} <= set(top)
    assert len(top) == 7
    assert top == pytest.approx({c: float(one.logits[0].softmax(0)[c]) for c in top}, abs=1e-6)
    first = re.search(r'src="data:image/png;base64,([^"]+)"', text).group(1)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))
    assert (pixels == np.rint(255 * np.moveaxis(one.inputs[0].numpy(), 0, -1))).all()


def test_different_models_have_their_own_predictions(tmp_path):
    first = explained()
    other = explained(logits=first.logits + torch.eye(2, 3), model="some.Other")
    data, text = data_of(report([first, first, other], tmp_path / "r.html"))
    assert len(data["predictions"]) == 2
    assert "Prediction of some.Other" in text


def test_a_layers_map_is_enlarged_to_the_image(tmp_path):
    one = explained(count=1, side=6, attribution=torch.arange(4.0).reshape(1, 1, 2, 2), at="3")
    data, text = data_of(report(one, tmp_path / "r.html"))
    values = unpacked(re.search(r'id="values-0">(.*?)<', text).group(1), data["maps"][0], 0, (6, 6))
    assert values == pytest.approx(np.kron([[0, 1], [2, 3]], np.ones((3, 3))), rel=1e-6)
    with pytest.raises(RenderError, match="can't be shown over images"):
        report(explained(count=1, attribution=torch.rand(1, 4), at="5"), tmp_path / "s.html")


def test_an_expression_marks_no_class(tmp_path):
    one = explained(count=1, expression='logit("a") - logit("b")')
    data, text = data_of(report(one, tmp_path / "r.html"))
    assert data["maps"][0]["target"] == [None]
    assert 'class="explained' not in text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(text, tmp_path):
    plain = Reader(report(explained(), tmp_path / "plain.html", labels=[0, 1]).read_text())
    one = explained(
        method=f"plugin/{text}", model=text, params={"name": text}, class_names=(text, "b", "c"),
        diagnostics={"warnings": ["x"], "note": text}, versions={text: text}, layer=text,
    )  # fmt: skip
    wanted = explained(diagnostics={"warnings": ["x"], "note": "a"}, layer="a")
    path = report(one, tmp_path / "r.html", labels=[0, 1], names=[text, "b"], command=text)
    page = Reader(path.read_text(encoding="utf-8"))
    harmless = Reader(
        report(wanted, tmp_path / "c.html", labels=[0, 1], command="x").read_text(encoding="utf-8")
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    allowed = {name for _, attributes in plain.elements for name in attributes} | {"aria-label"}
    assert {name for _, attributes in page.elements for name in attributes} <= allowed
    scripts = [value for tag, value in page.texts if tag == "script"]
    assert scripts[-1] == [value for tag, value in plain.texts if tag == "script"][-1]
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_one_image_is_small(tmp_path):
    photo = explained(count=1, side=224, channels=3, classes=1000)
    assert report([photo] * 3, tmp_path / "r.html").stat().st_size < 1_500_000


def test_the_same_report_is_the_same_file(tmp_path):
    first, second = (report(explained(), tmp_path / name) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_inconsistent_arguments_raise_one_line(tmp_path):
    one = explained()
    for wrong, match in (
        (lambda: report([], tmp_path / "r.html"), "at least one"),
        (lambda: report([one, explained(seed=1)], tmp_path / "r.html"), "same images"),
        (lambda: report(one, tmp_path / "r.html", labels=[0]), "2 labels, got 1"),
        (lambda: report(one, tmp_path / "r.html", labels=[0, 3]), "classes below 3, got 3"),
        (lambda: report(one, tmp_path / "r.html", names="abc"), "2 names, got 3"),
        (lambda: report(one, tmp_path), "can't write"),
    ):
        with pytest.raises(RenderError, match=match) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.html"))


def test_one_output_needs_no_bars(tmp_path):
    one = explained(classes=1, task="regression")
    data, text = data_of(report(one, tmp_path / "r.html", labels=[0, 0]))
    assert data["predictions"][0]["confidence"] == [None, None]
    assert "no classes" in text


def test_the_python_call_reproduces_the_map(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    images = torch.rand(2, 1, 4, 4)
    one = ek.explain(model, images, torch.tensor([2, 0]), "smoothgrad", samples=3, seed=7)
    from explainkit.render.report.reproduce import call

    names = {"model": model, "images": images}
    exec(call(one), names)
    assert torch.equal(names["explanation"].attribution, one.attribution)


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "conductance", "layer": "0", "steps": 4},
        {"method": "input_x_gradient", "at": "1:input"},
    ],
)
def test_the_python_call_reproduces_the_map_of_a_layer(arguments):
    from explainkit.render.report.reproduce import call

    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    images = torch.rand(2, 1, 4, 4)
    one = ek.explain(model, images, 1, **arguments)
    names = {"model": model, "images": images}
    exec(call(one), names)
    assert torch.equal(names["explanation"].attribution, one.attribution)
    assert names["explanation"].at == one.at
