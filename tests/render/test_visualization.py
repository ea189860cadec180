"""Grids, traces and animations of activation maximization."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.errors import ExplainkitWarning, RenderError
from explainkit.expressions import channels
from explainkit.render.captions import unit_name
from explainkit.render.unit import unit_card
from explainkit.render.visualization import grid


def found(units=3, channels_in=1, frames=4, dead=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels_in, units, 3), nn.ReLU()).eval()
    if dead:
        nn.init.constant_(model[0].bias, -1e6)
    return ek.maximize(model, channels("1"), shape=(channels_in, 9, 7), steps=6, frames=frames)


@pytest.mark.parametrize(("units", "channels_in"), [(1, 1), (3, 3), (12, 5)])
def test_a_grid_has_one_image_per_unit(units, channels_in):
    v = found(units, channels_in)
    figure = v.grid()
    assert len(figure.axes) == units
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if text.isdecimal()] == [str(i) for i in range(units)]
    assert any(text.startswith("score ") for text in texts)
    assert len(v.grid(columns=1).axes) == units
    with pytest.raises(RenderError, match="columns"):
        v.grid(columns=0)


def test_a_large_layer_is_cut_unless_asked():
    v = found(70)
    figure = v.grid()
    assert len(figure.axes) == 64
    assert any(text.get_text().startswith("first 64 of 70 units") for text in figure.texts)
    assert len(grid(v, most=None).axes) == 70
    with pytest.raises(RenderError, match="most: expected at least 1"):
        grid(v, most=0)


@pytest.mark.parametrize(
    ("objective", "name"),
    [('channel("conv1", 7)', "7"), ("logit(1)", "happy"), ('logit("fear")', "fear"),
     ("logit(9)", "9"), ("logit(0) - logit(1)", "logit(0) - logit(1)"), ("my_score", "my_score")],
)  # fmt: skip
def test_units_are_named_by_number_or_class(objective, name):
    v = replace(found(1), objective=(objective,), class_names=("angry", "happy"))
    assert unit_name(v, 0) == name


def test_titles_hold_no_parameters():
    v = found()
    texts = [text.get_text() for figure in (v.grid(), unit_card(v, 0)) for text in figure.texts]
    assert not [text for text in texts if "=" in text]
    assert any(
        text.startswith("Maximizing layer 1 of ") and text.endswith(" (fourier)") for text in texts
    )


def test_dead_units_are_named_and_not_drawn():
    with pytest.warns(ExplainkitWarning, match="dead"):
        v = found(dead=True)
    figure = v.grid()
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["dead"] * 3
    assert not any(axes.images for axes in figure.axes)
    with pytest.raises(RenderError, match="not dead"):
        v.animate("never.gif")


def test_traces_draw_every_live_unit():
    assert len(found().traces().axes[0].lines) == 3
    assert len(found(12).traces().axes[0].lines) == 12


@pytest.mark.parametrize("name", ["way.gif", "way.png"])
@pytest.mark.parametrize("channels_in", [1, 3])
def test_animations_have_one_frame_per_kept_step(tmp_path, name, channels_in):
    path = found(channels_in=channels_in).animate(tmp_path / "new" / name, milliseconds=50)
    with Image.open(path) as moving:
        assert moving.n_frames == 4
        assert min(moving.size) >= 96
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_animations_that_cannot_be(tmp_path):
    with pytest.raises(RenderError, match="frames=24"):
        found(frames=0).animate(tmp_path / "a.gif")
    with pytest.raises(RenderError, match=r"\.gif or \.png"):
        found().animate(tmp_path / "a.mp4")
    with pytest.raises(RenderError, match="milliseconds"):
        found().animate(tmp_path / "a.gif", milliseconds=0)
    assert not list(tmp_path.iterdir())


def test_notebooks_show_escaped_text():
    v = replace(found(), model="<script>")
    html = v._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "data:image/png;base64," in html
    assert "32 shown" in found(33)._repr_html_()


def test_parts_of_a_visualization():
    v = found()
    assert len(v[1]) == 1
    assert v[1].objective == v.objective[1:2]
    assert torch.equal(v[1:].trace, v.trace[:, 1:])
    assert v[-1].frames.shape == (4, 1, 1, 9, 7)
    assert [len(one) for one in v] == [1, 1, 1]
    with pytest.raises(IndexError):
        v[3]
    assert "3×1×9×7" in repr(v)
