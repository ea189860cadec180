"""Volumes are drawn as slices, and the report scrolls through them."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from report_forms import explained

from explainkit.errors import RenderError
from explainkit.render.heatmap import color
from explainkit.render.overlays import overlays
from explainkit.render.report import report
from explainkit.render.report.sheets import unpack
from explainkit.render.slices import chosen, planes, profile, stacked
from explainkit.results.explanation import Explanations

DEPTH, HEIGHT, WIDTH = 9, 5, 4


def scanned(count=2, channels=1, **changes):
    """Volumes whose slice k is k / 9 everywhere, with maps that are k − 2 in slice k."""
    numbers = torch.arange(DEPTH).float().view(1, 1, DEPTH, 1, 1)
    whole = torch.ones(count, channels, DEPTH, HEIGHT, WIDTH)
    fields = {"inputs": whole * numbers / DEPTH, "attribution": whole[:, :1] * (numbers - 2)}
    return explained(count, **fields | changes)


def test_slices_of_a_volume_have_one_gray_scale():
    shown = planes(scanned(channels=3))
    assert len(shown) == 2 * DEPTH
    for index, one in enumerate(shown):
        assert one.pixels.shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_allclose(one.pixels, index % DEPTH / DEPTH, atol=1e-6)
    signed = planes(scanned(inputs=scanned().inputs * 18 - 8))
    np.testing.assert_allclose([one.pixels.mean() for one in signed[:DEPTH]], np.arange(9) / 8)
    assert "from the smallest to the largest" in signed[0].note


def test_maps_with_slices_below_each_other():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, DEPTH, HEIGHT, WIDTH, generator=generator)
    maps = stacked(scanned(channels=3, attribution=values), "abs_sum")
    assert maps.shape == (2, DEPTH * HEIGHT, WIDTH)
    assert torch.equal(maps.view(2, DEPTH, HEIGHT, WIDTH)[1, 4], values[1, :, 4].abs().sum(0))
    layer = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(2, 1, 3, 1, 2)
    grown = stacked(scanned(attribution=layer, at="features")).view(2, DEPTH, HEIGHT, WIDTH)
    assert torch.equal(grown, (torch.arange(DEPTH) // 3).float().view(1, -1, 1, 1).expand_as(grown))
    with pytest.raises(RenderError, match="a layer without a depth can't be shown over volumes"):
        stacked(scanned(attribution=torch.ones(2, 7), at="head"))


def test_the_share_of_each_slice():
    found = profile(stacked(scanned()).double().numpy(), DEPTH)
    sizes = np.abs(np.arange(DEPTH) - 2)
    np.testing.assert_allclose(found, np.stack([sizes / sizes.sum()] * 2))
    assert not profile(np.zeros((1, 4, 2)), 2).any()
    large = profile(np.full((1, 4, 2), 1.7e308), 4)
    np.testing.assert_allclose(large, 0.25)


def test_which_slices_are_shown():
    shares = np.array([0.1, 0.0, 0.3, 0.0, 0.1, 0.2, 0.05, 0.25])
    assert chosen("even", shares) == [0, 1, 3, 4, 6, 7]
    assert chosen("strongest", shares) == [0, 2, 4, 5, 6, 7]
    assert chosen([5, 2, 5], shares) == [2, 5]
    assert chosen("even", shares[:1]) == [0]
    for wanted, text in (([8], "from 0 to 7, got 8"), ("all", "'even', 'strongest'"), ([], "list")):
        with pytest.raises(RenderError, match=text):
            chosen(wanted, shares)


def test_the_figure_shows_the_slices_and_where_they_cut():
    one = scanned()
    figure = one.plot(slices=[1, 4, 8], scaling="max")
    assert isinstance(figure, Figure)
    # for each volume: the side, three slices; the shares, three maps
    assert len(figure.axes) == 2 * 8
    side, *slices, shares, _, middle, last = figure.axes[:8]
    assert [axes.get_title("left") for axes in slices] == ["slice 1", "slice 4", "slice 8"]
    assert [line.get_xdata()[0] for line in side.lines] == [1, 4, 8]
    np.testing.assert_allclose(
        side.images[0].get_array(), np.tile(np.arange(DEPTH) / DEPTH, (HEIGHT, 1)), atol=1e-6
    )
    heights = [bar.get_height() for bar in shares.patches]
    np.testing.assert_allclose(heights, np.abs(np.arange(DEPTH) - 2) / 24)
    # one scale: slice 4 has a third of the value of slice 8, which has full color
    for axes, value in ((middle, 1 / 3), (last, 1.0)):
        index = {1 / 3: 4, 1.0: 8}[value]
        cover = 0.85 * value**0.7
        wanted = (1 - cover) * index / DEPTH + cover * color(np.array([[value]])) / 255
        np.testing.assert_allclose(axes.images[0].get_array()[0, 0], wanted[0, 0], atol=1e-6)
    assert last.get_title("left") == "25% of Σ|a|"


def test_the_strongest_slice_in_given_axes():
    axes = Figure().add_subplot()
    scanned(1).plot(ax=axes, scaling="max")
    assert axes.get_title("left") == "saliency, slice 8 of 9, ±6"
    with pytest.raises(RenderError, match="ax: expected one volume, got 2"):
        scanned().plot(ax=axes)


def test_several_explanations_have_a_row_each():
    other = scanned(method="explainkit/lrp", attribution=scanned().attribution * 0)
    figure = Explanations([scanned(), other]).plot(slices="strongest", labels=[0, None])
    titles = [axes.get_title("left") for axes in figure.axes]
    assert len(figure.axes) == 2 * 3 * 7
    assert any(title.startswith("lrp, zero") for title in titles)


def test_what_is_for_images_or_for_volumes_only():
    with pytest.raises(RenderError, match="slices: expected volumes to choose slices of"):
        explained().plot(slices="even")
    for draw in (overlays, lambda one: one.overlays()):
        with pytest.raises(RenderError, match="show them as slices"):
            draw(scanned())
    with pytest.raises(RenderError, match="alpha: expected an opacity"):
        scanned().plot(alpha=2)


def test_the_notebook_shows_the_figure():
    text = scanned()._repr_html_()
    assert text.count("data:image/png;base64,iVBOR") == 1
    assert "2×1×9×5×4" in text
    both = Explanations([scanned(), scanned(method="explainkit/lrp")])._repr_html_()
    assert both.count("data:image/png;base64,iVBOR") == 1


def test_the_report_has_every_slice(tmp_path):
    generator = torch.Generator().manual_seed(1)
    shape = 2, 1, DEPTH, HEIGHT, WIDTH
    one = scanned(
        inputs=torch.rand(shape, generator=generator),
        attribution=torch.randn(shape, generator=generator),
    )
    text = report(one, tmp_path / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert data["count"] == 2
    assert data["depth"] == DEPTH
    assert data["input"] == [DEPTH * HEIGHT, WIDTH]
    assert data["names"] == ["volume 0", "volume 1"]
    assert [(one["height"], one["width"]) for one in data["shown"]] == [(HEIGHT, WIDTH)] * 2
    (told,) = data["maps"]
    packed = re.search(r'id="values-0">(.*?)<', text).group(1)
    values = unpack(packed, told["kind"], told["units"], (2, *data["input"]))
    np.testing.assert_allclose(values.reshape(2, DEPTH, HEIGHT, WIDTH), one.heatmap(), rtol=1e-6)
    np.testing.assert_allclose(np.sum(told["profile"], 1), 1, atol=1e-5)
    assert f'type="range" min="0" max="{DEPTH - 1}"' in text
    assert f"{DEPTH} slices of {WIDTH} × {HEIGHT} pixels" in text
    # the first sheet: slice k of volume i is cell i · depth + k
    source = re.search(r'src="data:image/png;base64,([^"]+)"', text).group(1)
    with Image.open(io.BytesIO(base64.b64decode(source))) as sheet:
        found = np.asarray(sheet)
    columns = data["grid"]["columns"]
    for place, plane in enumerate(planes(one)):
        top, left = place // columns * HEIGHT, place % columns * WIDTH
        wanted = np.rint(255 * plane.pixels)
        assert (found[top : top + HEIGHT, left : left + WIDTH] == wanted).all()


def test_a_report_of_images_has_no_slider(tmp_path):
    text = report(explained(), tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="slice"' not in text
    assert json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["depth"] is None
