"""Concepts drawn: crops hold what is active, captions say what fails, texts are escaped."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from concept_forms import made
from PIL import Image
from report_forms import HOSTILE

import explainkit as ek
from explainkit.errors import RenderError
from explainkit.render.concepts import AGAINST, FOR
from explainkit.render.sheet import WRONG
from explainkit.results.exemplar import LEAST, SHARE, active_box


def connected(active, start):
    """The pixels that are connected with one through active pixels, also diagonally."""
    found, edge = {start}, [start]
    while edge:
        y, x = edge.pop()
        for place in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            if place in active and place not in found:
                found.add(place)
                edge.append(place)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_holds_the_active_region_and_is_a_square_in_the_image(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = (24, 32) if seed % 2 else (30, 18)
    values = torch.rand(1, 1, 2 + seed % 5, 3 + seed % 4, generator=generator)
    values = torch.nn.functional.interpolate(values, (height, width), mode="bilinear")[0, 0] ** 3
    top, left, bottom, right = active_box(values)
    active = {tuple(p) for p in (values >= SHARE * values.max()).nonzero().tolist()}
    region = connected(active, divmod(int(values.argmax()), width))
    assert all(top <= y < bottom and left <= x < right for y, x in region)
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    rows, columns = ({place[axis] for place in region} for axis in (0, 1))
    extent = max(max(rows) - min(rows), max(columns) - min(columns)) + 1
    side = max(extent, round(LEAST * min(height, width)))
    assert (bottom - top, right - left) == (min(side, height), min(side, width))


def test_a_small_region_at_the_border_has_a_crop_within_the_image():
    values = torch.zeros(20, 40)
    values[0, 39] = 1e-9
    assert active_box(values) == (0, 35, 5, 40)
    assert active_box(torch.zeros(20, 40)) == (0, 0, 20, 40)


def test_the_figure_outlines_the_crops_and_shows_them():
    found = made(n=2)
    axes = found.plot().axes
    outlined = [ax for ax in axes if ax.images and ax.patches]
    assert len(outlined) == 14
    for ax, one in zip(outlined, found.exemplars(0)[:7] + found.exemplars(1)[:7], strict=True):
        (box,) = ax.patches
        top, left, bottom, right = one.box
        assert box.get_bbox().bounds == (left - 0.5, top - 0.5, right - left, bottom - top)
    crops = [ax.images[0].get_array().shape[:2] for ax in axes if ax.images and not ax.patches]
    assert crops == [tuple(one.crop.shape[1:]) for k in (0, 1) for one in found.exemplars(k)[:7]]


def test_bars_are_importance_with_two_standard_errors():
    found = made(n=2, classes=7)
    bars = [ax for ax in found.plot().axes if not ax.images]
    for k, ax in enumerate(bars):
        chosen = found.importance[k].abs().argsort(descending=True)[:5]
        wanted = found.importance[k, chosen].sort(descending=True)
        widths = [bar.get_width() for bar in ax.patches]
        assert widths == pytest.approx(wanted.values.tolist())
        lines = [line.get_xdata() for line in ax.lines[: len(chosen)]]
        errors = found.standard_error[k, chosen[wanted.indices]].tolist()
        assert [b - a for a, b in lines] == pytest.approx([4 * error for error in errors])
    assert bars[0].get_xlim() == bars[1].get_xlim()


def texts(figure):
    return [(one.get_text(), one.get_color()) for one in figure.texts]


CHANCE, UNSTABLE = "no more important than random", "no more stable than with random"


def test_a_concept_that_fails_says_so_in_the_figure_the_report_and_the_notebook(tmp_path):
    found = made(n=3, p=[0.01, 0.6, 0.02], stability=[0.9, 0.9, 0.4], random_stability=0.5)
    shown = texts(found.plot())
    (one,) = [color for text, color in shown if "fails" in text and CHANCE[:20] in text]
    (other,) = [color for text, color in shown if "fails" in text and UNSTABLE[:20] in text]
    assert one == other == WRONG
    assert any("2 of 3 concepts fail." in text.replace("\n", " ") for text, _ in shown)
    cards = found.report(tmp_path / "a.html").read_text().split('<section class="concept"')
    assert "fails" in cards[0]
    for card, reason in zip(cards[1:], (None, CHANCE, UNSTABLE), strict=True):
        assert ("<strong>Fails:</strong>" in card) == (reason is not None)
        assert reason is None or reason in card
    rows = re.findall(r"<td class=\"(\w+)\">(fails|passes)", found._repr_html_())
    assert rows == [("correct", "passes"), ("wrong", "fails"), ("wrong", "fails")]


def test_what_no_concept_explains_is_a_failure_of_all():
    found = made(unexplained=0.8, random_unexplained=0.7)
    assert any(note.startswith("The concepts fail: ") for note in found.notes)
    assert not any("fail:" in note for note in made().notes)
    unknown = made(unexplained=float("nan"), random_stability=float("nan"), warnings=("why not",))
    assert unknown.notes[0] == "The layer has no effect on the scores."
    assert "random weights" not in " ".join(unknown.notes)
    assert unknown.notes[-1] == "Why not."
    assert unknown.to_dict()["unexplained"] is None


class Parsed(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.sources = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.sources += [value for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_names_are_text(tmp_path):
    plain = Parsed(made(classes=2).report(tmp_path / "plain.html").read_text())
    found = made(
        classes=len(HOSTILE), class_names=tuple(HOSTILE), names=HOSTILE, model=HOSTILE[0],
        layer=HOSTILE[1], warnings=tuple(HOSTILE[:9]), size=(8, 8),
    )  # fmt: skip
    titles = [HOSTILE[0], HOSTILE[5], HOSTILE[50]]
    page = found.report(tmp_path / "hostile.html", names=titles, command=HOSTILE[3]).read_text()
    parsed = Parsed(page)
    assert parsed.tags <= plain.tags | {"pre", "code"}
    assert all(one.startswith(("data:image/", "#concept-")) for one in parsed.sources)
    assert "<script>alert(1)</script>" in "".join(parsed.text)
    assert "style=" not in page.replace("<style>", "")
    notebook = Parsed(found._repr_html_())
    assert not notebook.tags & {"script", "iframe", "base", "meta", "style", "link", "svg"}


def test_a_report_is_the_same_bytes_again_and_after_a_round_trip(tmp_path):
    found = made(n=2, images=3)
    first = found.report(tmp_path / "a.html", names=["a", "b"]).read_bytes()
    assert found.report(tmp_path / "b.html", names=["a", "b"]).read_bytes() == first
    again = ek.Concepts.load(found.save(tmp_path / "saved"))
    assert again.report(tmp_path / "c.html", names=["a", "b"]).read_bytes() == first
    assert again.to_dict() == found.to_dict()


def test_a_report_shows_the_images_that_maximize_the_concepts(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU()).eval()
    found = made(size=(12, 12), layer="1")
    maximized = ek.maximize(net, list(found), shape=(1, 12, 12), steps=2)
    page = found.report(tmp_path / "a.html", maximized=maximized).read_text()
    assert page.count("Maximizing image") == 3
    cards = page.split('<section class="concept"')[1:]
    pixels = maximized.images[1, 0].double()
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    data = re.search(r'An image that maximizes concept 1" src="data:[^,]*,([^"]*)', cards[1])[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        shown = torch.from_numpy(np.array(image))
    torch.testing.assert_close(shown.double(), (255 * pixels).round(), atol=1, rtol=0)
    with pytest.raises(RenderError, match="for each of these 3 concepts"):
        found.report(tmp_path / "b.html", maximized=maximized[:2])
    assert not (tmp_path / "b.html").exists()


def test_bars_of_a_report_lie_where_the_numbers_are(tmp_path):
    found = made(n=1, classes=2, importance=[[3.0, -1.0]], standard_error=[[0.5, 0.0]])
    page = found.report(tmp_path / "a.html").read_text()
    bars = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)"[^>]*fill="(#\w+)"', page)
    # from −1 to 3 + 2 · 0.5: zero at a fifth
    assert bars == [("20.00", "60.00", FOR), ("0.00", "20.00", AGAINST)]
    lines = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)" y="5.4"', page)
    assert lines == [("60.00", "40.00"), ("0.00", "0.00")]


@pytest.mark.parametrize("names", [["one"], "abc"])
def test_names_are_one_for_each_concept(names, tmp_path):
    with pytest.raises(RenderError, match="names: expected one for each of 3"):
        made().plot(names)
    with pytest.raises(RenderError, match="names: expected one for each of 3"):
        made().report(tmp_path / "a.html", names=names)
    assert "concept 1: mouth" in [text for text, _ in texts(made().plot(["", "mouth", ""]))]


def test_only_the_first_concepts_are_drawn():
    figure = made(n=4).plot(most=2)
    assert len([ax for ax in figure.axes if not ax.images]) == 2
    assert "4 concepts of layer 13 of Net; the first 2" in [text for text, _ in texts(figure)]
    with pytest.raises(RenderError, match="most: expected at least 1"):
        made().plot(most=0)
