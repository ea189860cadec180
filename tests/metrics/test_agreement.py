"""Values of a map against effects: the exact maps of linear models, and slow references."""

import pytest
import torch
from metric_toys import generator, images, linear, network

from explainkit.errors import ExplainkitWarning, InputError
from explainkit.methods.perturbation.segments import grid
from explainkit.metrics import hiding
from explainkit.metrics.agreement import (
    completeness,
    faithfulness_correlation,
    infidelity,
    single_deletion,
)
from explainkit.metrics.fill import Fill

CORRELATIONS = [faithfulness_correlation, single_deletion]
METRICS = [*CORRELATIONS, infidelity, completeness]


def random_maps(count=3, channels=1, seed=5):
    return torch.randn(count, channels, 8, 6, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("metric", CORRELATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_exact_map_of_a_linear_model_correlates_perfectly(metric, sign):
    model, weight = linear()
    x = images()
    found = metric(model, x, sign * x * weight[2], 2, baseline=0.0)
    assert found.tolist() == pytest.approx([sign] * 3)


@pytest.mark.parametrize("perturbation", ["squares", "noise"])
def test_infidelity_of_the_exact_map_is_zero_and_of_another_the_mean_square(perturbation):
    model, weight = linear()
    x = images()
    gradient = weight[1].expand_as(x)
    exact = x * gradient if perturbation == "squares" else gradient
    options = {"target": 1, "perturbation": perturbation}
    assert (infidelity(model, x, exact, **options) < 1e-24).all()
    zero = infidelity(model, x, 0 * exact, **options)
    # I·a is linear in a: with 3 a, the error is twice the change of the score
    torch.testing.assert_close(infidelity(model, x, 3 * exact, **options), 4 * zero)
    assert (zero > 1e-6).all()
    assert (infidelity(model, x, -7 * exact, scaled=True, **options) < 1e-24).all()


def test_scaled_infidelity_is_the_smallest_over_all_scales():
    model, x, maps = network(), images(), random_maps()
    best = infidelity(model, x, maps, 0, scaled=True)
    torch.testing.assert_close(infidelity(model, x, -0.1 * maps, 0, scaled=True), best)
    scales = torch.linspace(-1, 1, 41, dtype=torch.float64)
    every = torch.stack([infidelity(model, x, scale * maps, 0) for scale in scales])
    assert (every >= best - 1e-15).all()


def test_infidelity_draws_different_squares():
    model, x = network(), images(1)
    means = [infidelity(model, x, 0 * x, 0, samples=n).item() for n in (1, 2, 3, 50)]
    assert len(set(means)) == 4


def test_single_deletion_equals_a_loop_over_cells():
    model, x, maps = network(), images(), random_maps()
    for i in range(3):
        sums, effects = [], []
        for row in range(4):
            for column in range(4):
                box = (
                    slice(row * 2, row * 2 + 2),
                    slice(-(-column * 6 // 4), -(-(column + 1) * 6 // 4)),
                )
                changed = x[i].clone()
                changed[:, *box] = x[i].mean((1, 2))[:, None, None]
                sums.append(maps[i, 0][box].sum())
                with torch.no_grad():
                    effects.append((model(x[i : i + 1]) - model(changed[None]))[0, 1])
        order = [torch.stack(values).argsort().argsort().double() for values in (sums, effects)]
        expected = torch.corrcoef(torch.stack(order))[0, 1]
        found = single_deletion(model, x[i : i + 1], maps[i : i + 1], 1, cells=4, baseline="mean")
        torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("baseline", ["mean", "linear"])
def test_single_deletion_runs_only_what_a_cell_changes(baseline, monkeypatch):
    monkeypatch.setattr("explainkit.methods.perturbation.box_scores.worth_tracing", lambda *_: True)
    monkeypatch.setattr("explainkit.graph.incremental.run.BoxPlan.saves", True)
    model, x, maps = network(), images(), random_maps()
    used = []
    in_boxes = hiding.score_segments
    monkeypatch.setattr(hiding, "score_segments", lambda *a: used.append(1) or in_boxes(*a))
    quick = single_deletion(model, x, maps, 1, cells=3, baseline=baseline)
    assert len(used) == 3
    monkeypatch.setattr(hiding, "box_scores", lambda *_: "not now")
    torch.testing.assert_close(
        quick, single_deletion(model, x, maps, 1, cells=3, baseline=baseline)
    )
    assert len(used) == 3


@pytest.mark.parametrize("baseline", [0.5, "blur", "linear"])
def test_cells_filled_at_once_are_those_filled_one_at_a_time(baseline):
    x = images()
    fill, labels = Fill(baseline, x, 3), grid(3, 8, 6)
    once = fill.one_at_a_time(labels)
    for cell in range(9):
        hidden = (labels == cell).expand(3, 8, 6)
        each = fill(torch.arange(3), hidden)
        inside = hidden[:, None].expand_as(x)
        torch.testing.assert_close(once[inside], each[inside], rtol=0, atol=1e-3)


def test_sizes_that_the_grid_and_the_squares_do_not_divide():
    x = images(2, size=(13, 11))
    maps = torch.randn(2, 1, 13, 11, generator=generator(0))
    for metric in METRICS:
        assert metric(network(), x, maps, 0).isfinite().all()


def test_completeness():
    model, weight = linear()
    x = images()
    contributions = (x - 0.5) * weight[0]
    gap = completeness(model, x, contributions + 0.01, 0, baseline=0.5)
    assert gap.tolist() == pytest.approx([0.01 * 96] * 3)
    assert (completeness(model, x, contributions, 0, baseline=0.5) < 1e-12).all()
    mean = x.mean((2, 3), keepdim=True)
    assert (completeness(model, x, (x - mean) * weight[0], 0, baseline="linear") < 0.2).all()


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_positive_scale_changes_nothing(metric):
    model, x, maps = network(), images(), random_maps()
    torch.testing.assert_close(metric(model, x, 9 * maps, 0), metric(model, x, maps, 0))


@pytest.mark.parametrize("metric", METRICS)
def test_the_batch_and_the_chunks_change_nothing(metric):
    model, x, maps = network(), images(5), random_maps(5)
    found = metric(model, x, maps, 1)
    torch.testing.assert_close(metric(model, x, maps, 1, batch_size=3), found)
    order = torch.tensor([3, 0])
    torch.testing.assert_close(metric(model, x[order], maps[order], 1), found[order])


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_what_is_undefined_is_nan_with_a_reason(metric):
    maps = random_maps(2)
    maps[1] = 0.3
    with pytest.warns(ExplainkitWarning, match="NaN for image 1: the map is constant"):
        assert metric(network(), images(2), maps, 0).isnan().tolist() == [False, True]
    model, _ = linear()
    with torch.no_grad():
        model[1].weight.zero_()
    with pytest.warns(ExplainkitWarning, match="hiding pixels does not change the score"):
        assert metric(model, images(2), random_maps(2), 0).isnan().all()


def test_wrong_parameters_are_refused():
    model, x, maps = network(), images(), random_maps()
    with pytest.raises(InputError, match="perturbation: expected 'squares' or 'noise'"):
        infidelity(model, x, maps, perturbation="gaussian")
    with pytest.raises(InputError, match=r"expected a gradient \[3, 2, 8, 6\]"):
        infidelity(model, x, maps, perturbation="noise")
    with pytest.raises(InputError, match="size: expected 1 to 6 pixels, got 7"):
        infidelity(model, x, maps, size=7)
    with pytest.raises(InputError, match="share: expected a number between 0 and 1"):
        faithfulness_correlation(model, x, maps, share=1)
    with pytest.raises(InputError, match="samples: expected at least 3"):
        faithfulness_correlation(model, x, maps, samples=2)
    with pytest.raises(InputError, match="cells: expected at least 2"):
        single_deletion(model, x, maps, cells=1)
