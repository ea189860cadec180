"""Localization: counts by hand, an independent ranking, ties, and masks that settle nothing."""

import pytest
import torch

from explainkit.errors import ExplainkitWarning, InputError
from explainkit.metrics.localization import (
    area_share,
    auc,
    mass_accuracy,
    pointing_game,
    rank_accuracy,
)

METRICS = [pointing_game, mass_accuracy, rank_accuracy, auc]


def maps(seed=0, shape=(6, 9, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(seed=1, shape=(6, 9, 7), share=0.3):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def counted(metric, values, mask):
    """The metric of one map, by its definition."""
    values, mask = values.flatten().tolist(), mask.flatten().tolist()
    inside = [v for v, m in zip(values, mask, strict=True) if m]
    outside = [v for v, m in zip(values, mask, strict=True) if not m]
    if metric is pointing_game:
        return float(max(inside) > max(outside))
    if metric is mass_accuracy:
        return sum(v for v in inside if v > 0) / sum(v for v in values if v > 0)
    if metric is rank_accuracy:
        top = sorted(values, reverse=True)[: len(inside)]
        return sum(v in inside for v in top) / len(inside)
    wins = sum((a > b) + (a == b) / 2 for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


@pytest.mark.parametrize("metric", METRICS)
def test_definition(metric):
    expected = [counted(metric, *pair) for pair in zip(maps(), masks(), strict=True)]
    assert metric(maps(), masks()).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_map_of_the_mask_is_perfect(metric):
    assert metric(masks().double(), masks()).tolist() == [1.0] * 6


@pytest.mark.parametrize("metric", [pointing_game, mass_accuracy, rank_accuracy])
def test_maps_that_know_nothing_score_the_share_of_the_area(metric):
    mask = masks(shape=(1, 9, 7)).expand(4000, -1, -1)
    found = metric(maps(shape=(4000, 9, 7)), mask)
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - area_share(mask)[0]) < 4 * error


@pytest.mark.parametrize("metric", METRICS)
def test_positive_scale_and_batch_change_nothing(metric):
    found = metric(maps(), masks())
    torch.testing.assert_close(metric(3 * maps(), masks()), found)
    order = torch.tensor([4, 0, 2])
    assert torch.equal(metric(maps()[order], masks()[order]), found[order])


@pytest.mark.parametrize("metric", [pointing_game, rank_accuracy, auc])
def test_ties_score_what_breaking_them_at_random_does_on_average(metric):
    values, mask = maps(shape=(1, 6, 5)).clamp(0, 0.5), masks(shape=(1, 6, 5))
    broken = values + 1e-6 * torch.rand(20000, 6, 5, generator=torch.Generator().manual_seed(0))
    sampled = metric(broken, mask.expand_as(broken))
    error = sampled.std() / len(sampled) ** 0.5
    assert 0 < metric(values, mask).item() < 1
    assert abs(metric(values, mask).item() - sampled.mean()) < 4 * error + 1e-9


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_mask_is_not_a_hit(metric):
    mask = masks()
    mask[2] = False
    with pytest.warns(ExplainkitWarning, match="NaN for image 2: the mask is empty"):
        found = metric(maps(), mask)
    assert found.isnan().tolist() == [False, False, True, False, False, False]
    expected = metric(maps(), masks())
    assert torch.equal(found[3:], expected[3:])


def test_what_is_undefined_is_nan_with_a_reason():
    flat, full = torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    mask = torch.eye(4, dtype=torch.bool)[None]
    with pytest.warns(ExplainkitWarning, match="the map is constant"):
        assert pointing_game(flat, mask).isnan()
    with pytest.warns(ExplainkitWarning, match="the map is constant"):
        assert rank_accuracy(flat, mask).isnan()
    with pytest.warns(ExplainkitWarning, match="no value is positive"):
        assert mass_accuracy(-mask.double(), mask).isnan()
    with pytest.warns(ExplainkitWarning, match="the mask covers the whole image"):
        assert auc(maps(shape=(1, 4, 4)), full).isnan()
    assert auc(flat, mask).item() == 0.5


def test_mass_accuracy_of_a_signed_map_is_a_share():
    found = mass_accuracy(maps(3, (200, 5, 5)), masks(4, (200, 5, 5), 0.5))
    assert ((found >= 0) & (found <= 1)).all()


def test_channels_are_summed():
    values = maps(shape=(2, 3, 5, 5))
    mask = masks(shape=(2, 5, 5))
    assert torch.equal(auc(values, mask), auc(values.sum(1), mask[:, None]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 5, 4), r"expected one mask per map, \[1, 4, 4\], got \[1, 5, 4\]"),
        (torch.full((1, 4, 4), 0.5), "expected a mask of 0 and 1"),
    ],
)
def test_wrong_masks_are_refused(mask, message):
    with pytest.raises(InputError, match=message):
        auc(maps(shape=(1, 4, 4)), mask)
    with pytest.raises(InputError, match="expected finite maps, got NaN or infinity in image 0"):
        auc(torch.full((1, 4, 4), torch.nan), torch.ones(1, 4, 4))
    with pytest.raises(InputError, match="expected masks"):
        area_share(torch.ones(4, 4))
