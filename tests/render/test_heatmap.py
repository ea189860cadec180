"""Scaling does what its name says, and Captum's rule is Captum's."""

import numpy as np
import pytest
import torch
from captum.attr._utils.visualization import _normalize_attr
from hypothesis import given, settings
from hypothesis import strategies as st

from explainkit.errors import RenderError
from explainkit.render.heatmap import (
    DIVERGING,
    SEQUENTIAL,
    Scaling,
    color,
    masked,
    most_relevant,
    scale,
    to_pixels,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max", Scaling("max", 0)),
        ("percentile", Scaling("percentile", 99)),
        ("percentile:97.5", Scaling("percentile", 97.5)),
        ("cumulative", Scaling("cumulative", 2)),
        ("cumulative:5:absolute", Scaling("cumulative", 5, "absolute")),
        ("max:positive", Scaling("max", 0, "positive")),
    ],
)
def test_names(text, expected):
    assert Scaling.parse(text) == expected
    assert Scaling.parse(str(expected)) == expected
    assert Scaling.parse(expected) is expected
    assert expected.title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("max", "to the maximum"),
        ("max:absolute", "to the maximum, absolute values"),
        ("percentile:1", "to the 1st percentile"),
        ("percentile:12", "to the 12th percentile"),
        ("percentile:93:positive", "to the 93rd percentile, positive values"),
        ("percentile:97.1", "to the 97.1th percentile"),
        ("cumulative", "to 98% of the sum"),
    ],
)
def test_titles_are_english(text, title):
    assert Scaling.parse(text).title == title


@pytest.mark.parametrize(
    ("text", "message"),
    [("min", "expected max, percentile, cumulative, got 'min'"),
     ("max:x", "sign: expected signed, positive, absolute, got 'x'"),
     ("percentile:101", "amount: expected 0 to 100, got 101"),
     ("percentile:nan", "amount: expected 0 to 100, got nan"),
     ("percentile:97:98", "each once .* got 'percentile:97:98'"),
     ("max:positive:signed", "each once"), ("max:3", "no amount for max"),
     (None, "expected text such as 'percentile:98', got None"), (3, "got 3")],
)  # fmt: skip
def test_names_that_are_none(text, message):
    with pytest.raises(RenderError, match=message):
        Scaling.parse(text)


@given(
    st.sampled_from(["max", "percentile", "cumulative"]),
    st.floats(0, 100),
    st.sampled_from(["signed", "positive", "absolute"]),
)
def test_text_is_exact(kind, amount, sign):
    rule = Scaling(kind, amount, sign)
    assert Scaling.parse(str(rule)) == rule


@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2, 5, 20]), st.sampled_from([1e-2, 1.0, 1e6]))
@settings(deadline=None, max_examples=100)
def test_cumulative_is_captums_rule(seed, outliers, unit):
    values = np.random.default_rng(seed).standard_normal((9, 7)) ** 3 * unit
    for ours, theirs in (
        ("signed", "all"),
        ("positive", "positive"),
        ("absolute", "absolute_value"),
    ):
        try:
            oracle = _normalize_attr(values, theirs, outliers)
        except IndexError:  # Captum finds no threshold where rounding puts the sum above itself
            oracle = scale(torch.from_numpy(values)[None], Scaling("max", 0, ours)).values[0]
        found = scale(torch.from_numpy(values)[None], Scaling("cumulative", outliers, ours))
        np.testing.assert_allclose(found.values[0], oracle, rtol=1e-12, atol=1e-15)


def test_limits_are_in_the_methods_unit():
    maps = torch.tensor([[[1.0, -4.0], [2.0, 0.0]], [[10.0, 0.0], [0.0, 0.0]]])
    found = scale(maps, "max")
    assert found.limits.tolist() == [4, 10]
    assert found.values.tolist() == [[[0.25, -1], [0.5, 0]], [[1, 0], [0, 0]]]
    assert scale(maps, "max", shared=True).limits.tolist() == [10, 10]
    assert scale(maps, "max:positive").values[0].tolist() == [[0.5, 0], [1, 0]]
    assert scale(maps, "max:absolute").values[0].tolist() == [[0.25, 1], [0.5, 0]]
    assert scale(maps, "percentile:50").limits[0] == 1.5


def test_zero_maps_stay_zero_with_a_note():
    found = scale(torch.zeros(1, 2, 2), "cumulative")
    assert not found.values.any()
    assert found.notes == ("zero everywhere",)
    assert scale(-torch.ones(1, 2, 2), "max:positive").notes == ("zero everywhere",)


def test_a_sparse_map_is_not_lost_to_its_percentile():
    maps = torch.zeros(1, 20, 20)
    maps[0, 3, 4] = -2
    found = scale(maps, "percentile:90")
    assert found.limits.tolist() == [2]
    assert found.values[0, 3, 4] == -1
    assert found.notes == ("scaled to the maximum because the 90th percentile is zero",)
    assert scale(maps, "max").notes == scale(maps, "cumulative").notes == ("",)


@pytest.mark.parametrize("rule", ["max", "percentile:50", "cumulative:2", "cumulative:50:absolute"])
@pytest.mark.parametrize("exponent", [1023, -990])
def test_huge_and_tiny_maps_look_like_their_multiples(rule, exponent):
    maps = torch.rand(2, 9, 7, dtype=torch.float64) - 0.5
    one, far = scale(maps, rule), scale(maps * 2.0**exponent, rule)
    np.testing.assert_array_equal(far.limits, one.limits * 2.0**exponent)
    np.testing.assert_array_equal(far.values, one.values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    assert scale(torch.ones(1, 2, 2, dtype=dtype), "max").values.tolist() == [[[1, 1], [1, 1]]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(RenderError, match="finite"):
        scale(torch.full((1, 2, 2), value))


def test_colors():
    red, white, blue = color(np.array([[1.0, 0.0, -1.0]]), DIVERGING)[0].astype(int)
    assert red[0] > 2 * red[2]
    assert min(white) > 240
    assert blue[2] > 2 * blue[0]
    ramp = color(np.linspace(0, 1, 20)[None], SEQUENTIAL)[0] @ np.array([0.3, 0.59, 0.11])
    assert (np.diff(ramp) > 0).all()


class TestImage:
    def test_normalization_is_undone(self):
        pixels = torch.rand(3, 4, 5, dtype=torch.float64)
        mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
        inputs = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        shown, note = to_pixels(inputs, mean, std)
        np.testing.assert_allclose(shown, pixels.permute(1, 2, 0), atol=1e-6)
        assert note == ""

    def test_gray(self):
        shown, note = to_pixels(torch.tensor([[[-2.0, 2.0]]]), (0.5,), (0.25,))
        assert (shown.tolist(), note) == ([[0.0, 1.0]], "")

    def test_what_took_a_guess_is_said(self):
        shown, note = to_pixels(torch.tensor([[[-1.0, 3.0]]]))
        assert shown.tolist() == [[0, 1]]
        assert "normalization unknown" in note
        assert to_pixels(torch.rand(1, 2, 2))[1] == ""
        shown, note = to_pixels(torch.rand(13, 2, 2))
        assert shown.shape == (2, 2)
        assert note == "shown as the mean of 13 channels"
        _, note = to_pixels(torch.linspace(-1, 1, 52).reshape(13, 2, 2))
        assert "normalization unknown" in note
        assert "mean of 13 channels" in note
        assert np.isfinite(to_pixels(torch.full((1, 2, 2), 7.0))[0]).all()
        huge = torch.tensor([[[-1.7e308, 0, 1.7e308]]], dtype=torch.float64)
        assert to_pixels(huge)[0].tolist() == [[0, 0.5, 1]]

    def test_a_normalization_of_other_channels(self):
        with pytest.raises(RenderError, match="each of 1 channels, got 3 and 3"):
            to_pixels(torch.rand(1, 2, 2), (0.5,) * 3, (0.2,) * 3)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_the_masks_share_is_exact(height, width, keep, seed):
    relevance = torch.randint(-1, 4, (height, width), generator=torch.Generator().manual_seed(seed))
    kept = most_relevant(relevance, keep)
    values = relevance.numpy()
    assert kept.sum() == min(round(keep * height * width), (values > 0).sum())
    assert (values[kept] > 0).all()
    if kept.any() and not kept.all():
        assert values[kept].min() >= values[~kept].max()


def test_equal_pixels_are_kept_in_reading_order():
    assert most_relevant(torch.ones(2, 3), 0.5).tolist() == [[True] * 3, [False] * 3]
    assert not most_relevant(torch.zeros(2, 3), 0.5).any()


@pytest.mark.parametrize("keep", [-0.1, 1.1, 20, float("nan")])
def test_shares_that_are_none(keep):
    with pytest.raises(RenderError, match="keep: expected a fraction from 0 to 1"):
        most_relevant(torch.ones(2, 2), keep)


@pytest.mark.parametrize("gray", [0.0, 0.2, 0.5, 1.0])
def test_what_stays_is_true_and_what_fades_is_told_apart(gray):
    kept = np.array([[True, False]])
    stays, fades = masked(np.full((1, 2), gray), kept)[0]
    assert stays.tolist() == [gray] * 3
    assert fades[2] - fades[0] > 0.2
    np.testing.assert_array_equal(masked(np.full((1, 2, 3), gray), kept)[0], [stays, fades])
