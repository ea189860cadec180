"""Figures that compare explanations and images."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from report_forms import explained

from explainkit.errors import RenderError
from explainkit.render.compare import colored, comparison_figure, images_figure
from explainkit.render.figure import png
from explainkit.render.heatmap import color, scale
from explainkit.render.html import to_html
from explainkit.render.report import report
from explainkit.render.shown_image import overlay
from explainkit.results.explanation import Explanations
from explainkit.results.scorecard import Scorecard


def shown(figure):
    """The images of a figure, by their titles."""
    return {
        axes.get_title(loc="left"): np.asarray(axes.images[0].get_array()) for axes in figure.axes
    }


def test_every_map_lies_over_its_image_with_its_scale():
    one = explained(count=2)
    other = explained(count=2, attribution=3 * one.attribution, method="x/other")
    found = shown(comparison_figure([one, other], labels=[0, 0]))
    for row in range(2):
        for name, each in (("saliency", one), ("other", other)):
            limit = scale(each.heatmap(), "percentile").limits[row]
            (image,) = [image for title, image in found.items() if title == f"{name}, ±{limit:.2g}"]
            # images have 256 grays
            wanted = overlay(each.inputs[row, 0].numpy(), each.heatmap()[row])
            assert np.abs(image - wanted).max() < 1 / 255


def test_maps_of_several_layers_are_told_apart():
    one = explained(count=1)
    layers = [explained(count=1, attribution=one.attribution, at=at) for at in ("3", "5:input")]
    titles = [title.rpartition(", ")[0] for title in shown(comparison_figure([one, *layers]))]
    assert {"of the image", "at 3", "at 5:input"} <= {*titles}
    page = to_html([one, *layers])
    assert all(f"saliency {where}" in page for where in ("of the image", "at 3", "at 5:input"))
    assert "of the image" not in to_html([one, one])


P = {
    "supported": [0, 0, 0], "not supported: moved": [0.5, 0, 0], "not class-specific": [0, 0, 0.5],
}  # fmt: skip


def card(*verdicts):
    """A scorecard with these verdicts."""
    count = len(verdicts)
    return Scorecard(
        statistic=torch.zeros(count, 3), p=torch.tensor([P[verdict] for verdict in verdicts]),
        reason=("",) * count, control=("edges",) * count, effects=torch.zeros(count, 36),
        sums=torch.zeros(count, 36), band=torch.zeros(count, 2), grid=(6, 6), methods=2,
    )  # fmt: skip


def test_verdicts_stand_below_their_maps_and_are_explained(tmp_path):
    one, cards = explained(count=2), [card("supported", "not supported: moved")] * 2
    figure = comparison_figure([one, one], cards=cards)
    maps = [axes for axes in figure.axes if "±" in axes.get_title(loc="left")]
    texts = {text.get_text(): (axes, text) for axes in figure.axes for text in axes.texts}
    assert set(texts) == {"supported", "not supported: moved"}
    for axes, text in texts.values():
        below = text.get_window_extent().y1
        assert any(
            abs(one.get_window_extent().x0 - axes.get_window_extent().x0) < 1
            and 0 < one.get_window_extent().y0 - below < 12
            for one in maps
        )
    notes = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "supported: Hiding what this map marks" in notes
    assert "moved: Put in the wrong place" in notes
    with pytest.raises(RenderError, match="expected a scorecard of 2 images for each of 2"):
        report([one, one], tmp_path / "r.html", cards=cards[:1])
    page = report([one, one], tmp_path / "r.html", cards=cards).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    for one in data["maps"]:
        assert [verdict for verdict, _, _ in one["card"]] == list(cards[0].verdict)
        assert one["card"][1][1:] == [
            "Put in the wrong place, this map would predict as well.",
            "wrong",
        ]
    assert page.count('<p class="card"></p>') == 2


def test_targets_and_models_tell_maps_apart():
    one = explained(count=1)
    other = explained(count=1, target=torch.tensor([2]))
    assert {title.split(",")[0] for title in shown(comparison_figure([one, other]))} >= {
        "for 0", "for 2",
    }  # fmt: skip
    twin = explained(count=1, model="a.Twin")
    assert any("Twin" in title for title in shown(comparison_figure([one, twin])))


def test_the_headline_names_a_models_class_without_its_module():
    model = "transformers.models.vit.modeling_vit.ViTForImageClassification"
    one = explained(count=4, model=model)
    title = comparison_figure([one, one]).texts[0].get_text()
    assert title == "saliency of ViTForImageClassification"
    registered = explained(count=4, model="fer_hw3/cnn")
    assert comparison_figure([registered]).texts[0].get_text() == "saliency of fer_hw3/cnn"


def test_a_class_that_is_not_the_predicted_one_stands_above_its_image():
    predicted = int(explained(count=1).probabilities.argmax())
    for target in range(3):
        one = explained(count=1, target=torch.tensor([target]))
        above = next(iter(shown(comparison_figure([one, one]))))
        assert ("explained: " in above) == (target != predicted)


def test_many_maps_wrap_and_nothing_is_cut_off():
    figure = Explanations([explained(count=2)] * 11).plot(labels=[0, 1])
    assert len(figure.axes) == 2 + 22
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


@pytest.mark.parametrize(
    ("images", "maps", "columns", "shape"),
    [(1, 5, None, (2, 3)), (1, 8, None, (2, 4)), (1, 3, None, (1, 3)), (1, 5, 5, (1, 5)),
     (8, 1, None, (4, 4)), (6, 2, None, (3, 6)), (3, 1, 1, (6, 1))],
)  # fmt: skip
def test_rows_are_balanced(images, maps, columns, shape):
    one = explained(count=images)
    figure = comparison_figure([one] * maps, columns=columns)
    positions = {axes: axes.get_position() for axes in figure.axes if "±" in axes.get_title("left")}
    if images > 1:
        positions = {axes: axes.get_position() for axes in figure.axes}
    rows = {round(box.y1, 3) for box in positions.values()}
    across = {round(box.x0, 3) for box in positions.values()}
    assert (len(rows), len(across)) == shape


@pytest.mark.parametrize(("maps", "columns"), [(3, 2), (5, 2), (4, 3), (13, None)])
def test_no_map_of_an_image_is_alone_in_its_row(maps, columns):
    figure = comparison_figure([explained(count=1)] * maps, columns=columns)
    places = [axes.get_position() for axes in figure.axes]
    rows = Counter(round(box.y1, 3) for box in places)
    assert min(rows.values()) > 1
    assert len({round(box.x0, 3) for box in places}) == (columns or 4)
    first = max(places, key=lambda box: (round(box.y1, 3), -box.x0))
    (image,) = [axes for axes in figure.axes if "±" not in axes.get_title("left")]
    assert image.get_position().bounds == first.bounds


def test_a_narrow_figure_shows_its_whole_legend():
    maps = [explained(count=1, method=f"explainkit/{name}") for name in ("saliency", "lrp", "rise")]
    cards = [card("supported"), card("not supported: moved"), card("not class-specific")]

    def words(columns):
        figure = comparison_figure(maps, columns=columns, cards=cards)
        return " ".join(" ".join(text.get_text() for text in figure.texts).split())

    wide, narrow = words(3), words(2)
    assert len(wide) > 500
    assert narrow == wide


def test_the_legend_names_methods_where_colors_differ_in_meaning():
    gradient = explained(count=1)
    share = explained(count=1, method="explainkit/lrp")
    texts = " ".join(text.get_text() for text in comparison_figure([gradient, share]).texts)
    texts = texts.replace("\n", " ")
    assert "saliency: brighter here raises (red) or lowers (blue) the score" in texts
    assert "lrp: evidence for (red) or against (blue) the explained class" in texts
    assert "normalized separately (99th percentile); ± is the value at full color." in texts


def test_color_map_opacity_and_columns_are_checked():
    one = explained(count=1)
    for wrong in ({"cmap": "no"}, {"alpha": -1}, {"columns": 0}):
        with pytest.raises(RenderError, match="expected"):
            comparison_figure([one], **wrong)


def test_images_stand_in_order_under_their_titles():
    images = [np.full((4, 4), i / 10) for i in range(5)]
    figure = images_figure(images, "abcde", columns=2, title="five", subtitle="of them")
    found = shown(figure)
    assert list(found) == list("abcde")
    assert all((found[name] == image).all() for name, image in zip("abcde", images, strict=True))
    places = [axes.get_position() for axes in figure.axes]
    assert places[0].y0 == places[1].y0 > places[2].y0 > places[4].y0
    assert png(figure) == png(images_figure(images, "abcde", columns=2, title="five", subtitle="of them"))  # fmt: skip


def test_what_does_not_fit_is_refused():
    for wrong in (lambda: images_figure([]), lambda: images_figure([np.zeros((2, 2))], "ab")):
        with pytest.raises(RenderError, match="a title for each"):
            wrong()
    with pytest.raises(RenderError, match="same images"):
        comparison_figure([explained(), explained(seed=1)])


def test_colored_maps_are_those_of_figures():
    maps = torch.tensor([[[1.0, -2.0]], [[0.0, 0.0]]])
    assert (colored(maps, "max")[0] == color(np.array([[0.5, -1.0]])) / 255).all()


def test_sentences_among_the_notes_end_with_full_stops():
    from explainkit.render.legend import joined

    assert joined(["red: for", "hatched: not seen.", "One is a hint.", "more"]) == (
        "red: for; hatched: not seen. One is a hint; more"
    )
