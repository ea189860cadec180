"""Removing pixels in the order of a map: closed forms, a slow reference, ties, and the batch."""

import pytest
import torch
from metric_toys import generator, images, linear, network
from torch import nn

from explainkit.errors import ExplainkitWarning, InputError, MethodError, TargetError
from explainkit.metrics.curves import deletion, insertion, road, srg
from explainkit.metrics.infill import linear_infill

CURVES = [deletion, insertion, srg, road]


def random_maps(count=3, size=(8, 6), seed=5):
    return torch.randn(count, 1, *size, generator=generator(seed), dtype=torch.float64)


def test_area_of_a_linear_model_is_that_of_its_sorted_contributions():
    model, weight = linear()
    x = images()
    parts = (x * weight[1]).sum(1).flatten(1)
    exact = parts.view(3, 1, 8, 6)
    ordered = parts.sort(1, descending=True).values
    left = torch.cat([torch.zeros(3, 1), ordered.cumsum(1)], 1)
    total = parts.sum(1, keepdim=True)
    steps = parts.shape[1]
    shown = torch.trapezoid(left, dx=1 / steps)
    gone = torch.trapezoid(total - left, dx=1 / steps)
    options = {"target": 1, "steps": steps, "baseline": 0.0}
    torch.testing.assert_close(deletion(model, x, exact, **options), gone)
    torch.testing.assert_close(insertion(model, x, exact, **options), shown)
    torch.testing.assert_close(srg(model, x, exact, **options), shown - gone)


def test_no_order_beats_that_of_the_exact_map_of_a_linear_model():
    model, weight = linear()
    x = images()
    options = {"target": 0, "baseline": 0.0}
    best = srg(model, x, x * weight[0], **options)
    for seed in range(5):
        assert (srg(model, x, random_maps(seed=seed), **options) < best).all()


@pytest.mark.parametrize("baseline", ["mean", 0.3])
def test_deletion_equals_a_loop_over_images_and_steps(baseline):
    model, x, maps = network(), images(), random_maps()
    expected = []
    for image, values in zip(x, maps, strict=True):
        order = values.flatten().argsort(descending=True)
        fill = image.mean((1, 2), keepdim=True) if baseline == "mean" else torch.tensor(baseline)
        curve, counts = [], [round(i * 48 / 7) for i in range(8)]
        for count in counts:
            hidden = torch.zeros(48, dtype=torch.bool)
            hidden[order[:count]] = True
            with torch.no_grad():
                changed = torch.where(hidden.view(8, 6), fill, image)
                curve.append(model(changed[None])[0, 2].item())
        area = torch.trapezoid(torch.tensor(curve).double(), torch.tensor(counts).double() / 48)
        expected.append(area.item())
    found = deletion(model, x, maps, 2, steps=7, baseline=baseline)
    assert found.tolist() == pytest.approx(expected)


def test_road_fills_linearly_and_counts_predictions():
    model, x, maps = network(), images(), random_maps()
    labels = model(x).argmax(1)
    ordered = maps.flatten(1).sort(1, descending=True).values
    kept = torch.zeros(3, dtype=torch.float64)
    for share in (0.2, 0.5):
        hidden = maps[:, 0] >= ordered[:, round(share * 48) - 1].view(3, 1, 1)
        noise = torch.randn(2, 8, 6, generator=generator(0)).double()
        spread = 0.01 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(3, 1, 1, 1)
        filled = linear_infill(x, hidden.long()) + spread * noise * hidden[:, None]
        kept += (model(filled).argmax(1) == labels) / 2
    assert road(model, x, maps, shares=(0.2, 0.5)).tolist() == kept.tolist()


class Bright(nn.Module):
    """Class 1 as long as any pixel is bright."""

    def forward(self, x):
        most = x.flatten(1).amax(1)
        return torch.stack([torch.full_like(most, 0.5), most], 1)


def test_a_rectified_map_loses_no_more_than_its_share():
    """A threshold would hide all zeros at once, and with them the bright pixel."""
    x = torch.zeros(1, 1, 10, 10)
    x[..., 9, 9] = 1
    maps = torch.zeros(1, 1, 10, 10)
    maps[..., :4, :] = torch.rand(4, 10, generator=generator(0)) + 1  # 60 % are exactly zero
    assert road(Bright(), x, maps, 1, shares=(0.1, 0.2, 0.3, 0.4)).item() == 1
    assert deletion(Bright(), x, maps, 1, steps=10, baseline=0.0).item() > 0.4


def test_ties_are_broken_alike_in_every_image_and_by_the_seed():
    model, x = network(), images(1).expand(3, -1, -1, -1)
    maps = (random_maps(1) > 0).double().expand(3, -1, -1, -1)
    found = srg(model, x, maps, 0, baseline=0.0)
    torch.testing.assert_close(found, found[:1].expand(3))
    assert torch.equal(found, srg(model, x, maps, 0, baseline=0.0))
    assert not torch.equal(found, srg(model, x, maps, 0, baseline=0.0, seed=1))


@pytest.mark.parametrize("metric", CURVES)
def test_scale_and_batch_change_nothing(metric):
    model, x, maps = network(), images(5), random_maps(5)
    found = metric(model, x, maps, 1)
    torch.testing.assert_close(metric(model, x, 3 * maps, 1), found)
    torch.testing.assert_close(metric(model, x, maps, 1, batch_size=3), found)
    order = torch.tensor([3, 0])
    torch.testing.assert_close(metric(model, x[order], maps[order], 1), found[order])


@pytest.mark.parametrize("metric", CURVES)
def test_a_constant_map_has_no_answer(metric):
    maps = random_maps(2)
    maps[1] = 4
    with pytest.warns(ExplainkitWarning, match="NaN for image 1: the map is constant"):
        found = metric(network(), images(2), maps, 0)
    assert found.isnan().tolist() == [False, True]


@pytest.mark.parametrize("metric", CURVES)
def test_nothing_is_left_behind(metric):
    model, x, maps = network().train(), images(), random_maps()
    state, inputs = torch.get_rng_state(), x.clone()
    metric(model, x, maps, 0)
    with pytest.raises(InputError, match="expected one map per image"):
        metric(model, x, maps[:2], 0)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, inputs)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_random_map_gains_nothing_on_average():
    model, x = network(), images(1).expand(60, -1, -1, -1)
    found = srg(model, x, random_maps(60, seed=9), 0, baseline=0.0)
    assert abs(found.mean()) < 4 * found.std() / 60**0.5


def test_targets_of_every_kind():
    model, x, maps = network(), images(), random_maps()
    per_image = torch.tensor([2, 0, 1])
    found = deletion(model, x, maps, per_image)
    for i, label in enumerate(per_image.tolist()):
        torch.testing.assert_close(
            deletion(model, x[i : i + 1], maps[i : i + 1], label), found[i, None]
        )
    two, one = (deletion(model, x, maps, c) for c in (2, 1))
    torch.testing.assert_close(deletion(model, x, maps, "logit(2) - logit(1)"), two - one)
    with pytest.raises(TargetError, match="road: expected classes as target"):
        road(model, x, maps, "logit(2) - logit(1)")


def test_a_sigmoid_is_scored_as_explain_scores_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 1), nn.Sigmoid()).double().eval()
    x, maps = images(), random_maps()
    sides = deletion(model, x, maps, 0) + deletion(model, x, maps, 1)
    torch.testing.assert_close(sides, torch.ones(3, dtype=torch.float64))


def test_wrong_parameters_are_refused():
    model, x, maps = network(), images(), random_maps()
    with pytest.raises(InputError, match="steps: expected at least 1, got 0"):
        deletion(model, x, maps, steps=0)
    with pytest.raises(InputError, match="shares: expected numbers between 0 and 1"):
        road(model, x, maps, shares=(0, 0.5))
    with pytest.raises(MethodError, match="baseline: expected a number"):
        insertion(model, x, maps, baseline="black")
