"""XRAI: means over regions, their order, completeness, and segments of every kind."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.gradient import InputXGradient, SmoothGrad
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.methods.path.xrai import XRAI, BlackAndWhite, _densities, _felzenszwalb
from explainkit.testing import check_method, toy_models

LABELS = torch.arange(12)[:, None] // 4 * 2 + torch.arange(10) // 5


def greedy(values, masks, least):
    """The paper's loop, one mask at a time."""
    done = np.zeros(values.shape, bool)
    out = np.full(values.shape, np.nan)
    rest = list(masks)
    while True:
        rest = [mask for mask in rest if (mask & ~done).sum() >= least]
        if not rest:
            break
        best = max(rest, key=lambda mask: values[mask & ~done].mean())
        new = best & ~done
        out[new] = values[new].mean()
        done |= new
    if not done.all():
        out[~done] = values[~done].mean()
    return out


class TestDensities:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("least", [1, 9])
    def test_overlapping_segments_as_in_the_paper(self, seed, least):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(11, 7, generator=generator).double()
        masks = (
            torch.rand(12, 11, 7, generator=generator)
            < torch.rand(12, 1, 1, generator=generator) / 2
        )
        found = _densities(values, masks, least)
        expected = greedy(values.numpy(), masks.numpy(), least)
        torch.testing.assert_close(found, torch.from_numpy(expected))
        torch.testing.assert_close(found.sum(), values.sum())

    def test_a_part_that_is_denser_than_its_whole_comes_first(self):
        values = torch.tensor([[6.0, 0.0, 0.0, 1.0]])
        masks = torch.tensor([[[1, 1, 1, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 1]]]).bool()
        found = _densities(values, masks, 1)
        assert found.tolist() == [[6.0, 0.0, 0.0, 1.0]]
        assert _densities(values, masks, 2).tolist() == [[2.0, 2.0, 2.0, 1.0]]


class TestSegments:
    def test_your_own_give_means_of_the_base_map(self, toy):
        model, _, x, target = toy
        base = InputXGradient()
        plain = ek.explain(model, x, target, base).attribution.sum(1)
        found = ek.explain(model, x, target, XRAI(base, LABELS)).attribution
        assert found.shape == (4, 1, 12, 10)
        for label in range(6):
            inside = label == LABELS
            means = plain[:, inside].mean(1, keepdim=True)
            torch.testing.assert_close(
                found[:, 0][:, inside], means.expand(-1, int(inside.sum())), atol=1e-6, rtol=1e-4
            )

    def test_one_per_image(self):
        model, x = toy_models()["plain"]
        each = torch.stack([LABELS, LABELS.flip(0) % 3, LABELS.flip(1), LABELS % 2])
        together = ek.explain(model, x, 1, XRAI(InputXGradient(), each)).attribution
        for i in range(4):
            alone = ek.explain(model, x[i : i + 1], 1, XRAI(InputXGradient(), each[i]))
            torch.testing.assert_close(together[i : i + 1], alone.attribution)

    @pytest.mark.parametrize(
        ("segments", "message"),
        [
            (LABELS.float(), r"expected integers \[12, 10\].* got float32"),
            (LABELS[:5], r"segments: expected .* got int64 \[5, 10\]"),
            (torch.stack([LABELS] * 3), r"got .*\[3, 12, 10\]"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, segments, message):
        model, x = toy_models()["plain"]
        with pytest.raises(MethodError, match=message):
            ek.explain(model, x, 1, "xrai", segments=segments)

    def test_without_scikit_image_the_remedy_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
        model, x = toy_models()["plain"]
        with pytest.raises(MethodError, match=r"explainkit-vision\[superpixels\].*segments="):
            ek.explain(model, x, 1, "xrai")

    def test_felzenszwalb_finds_the_parts_of_a_image(self):
        pytest.importorskip("skimage")
        image = torch.zeros(1, 48, 40)
        image[:, 8:24, 10:30] = 1
        image[:, 30:44, 5:20] = -1
        masks = _felzenszwalb(image)
        assert masks.shape[1:] == (48, 40)
        assert bool(masks.any(0).all())
        square = image[0] == 1
        overlap = (masks & square).flatten(1).sum(1) / (masks | square).flatten(1).sum(1)
        # grown by 5 pixels of 224, about one of 48 on each side
        assert float(overlap.max()) > 0.7


class TestBase:
    @pytest.mark.parametrize("base", [BlackAndWhite(30), IntegratedGradients(steps=20)], ids=str)
    def test_the_sum_is_that_of_the_base(self, toy, base):
        model, _, x, target = toy
        plain = ek.explain(model, x, target, base)
        found = ek.explain(model, x, target, XRAI(base, LABELS))
        torch.testing.assert_close(
            found.attribution.sum((1, 2, 3)), plain.attribution.sum((1, 2, 3)), atol=1e-5, rtol=1e-4
        )
        assert torch.equal(
            found.diagnostics["completeness_gap"], plain.diagnostics["completeness_gap"]
        )

    def test_black_and_white_is_the_mean_of_two_baselines(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).eval()
        x = torch.rand(2, 3, 12, 10)
        found = ek.explain(model, x, 1, BlackAndWhite(steps=3)).attribution
        low, high = (end((1, 2, 3), keepdim=True) for end in (x.amin, x.amax))
        weight = model[1].weight.detach()[1].reshape(3, 12, 10)
        torch.testing.assert_close(found, (x - (low + high) / 2) * weight, atol=1e-6, rtol=1e-4)

    def test_any_method_will_do(self):
        model, x = toy_models()["plain"]
        e = ek.explain(model, x, 1, "xrai", base="guided_ig", segments=LABELS)
        assert e.params["base"]["method"] == "explainkit/guided_ig"
        check_method(XRAI(SmoothGrad(samples=3), LABELS), {"plain": toy_models()["plain"]})


@pytest.mark.parametrize("model", sorted(toy_models()))
def test_conformance(model):
    check_method(XRAI(BlackAndWhite(steps=4), LABELS), {model: toy_models()[model]})


def test_segments_found_depend_on_their_image_alone():
    pytest.importorskip("skimage")
    model, images = toy_models()["plain"]
    found = ek.explain(model, images[:2], 1, XRAI(InputXGradient()))
    again = ek.explain(model, images[1:2], 1, XRAI(InputXGradient()))
    torch.testing.assert_close(found.attribution[1:], again.attribution)


@pytest.mark.parametrize("area", [-0.1, 1.0, float("nan")])
def test_bad_areas(area):
    with pytest.raises(MethodError, match="min_area: expected at least 0 and below 1"):
        XRAI(min_area=area)
