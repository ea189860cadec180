"""The three tests of a map: known answers, and how often maps without knowledge pass."""

import pytest
import torch
from torch import nn
from toys import detector, generator, linear, planted, smooth, textures

import explainkit as ek
from explainkit.engine.model import ScoreModel
from explainkit.expressions import parse
from explainkit.metrics.cells import Cells
from explainkit.metrics.evidence import Controls, weigh
from explainkit.metrics.hiding import hiding_effects


def effects_of(model, image, seed=0, cells=None):
    scorer = ScoreModel(model)
    clean = scorer.run(image[None])[0][0].detach()
    cells = cells or Cells.of(*image.shape[1:])
    return hiding_effects(scorer, image, clean, cells, seed)


def pearson(a, b):
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def residual(values, *columns):
    """What a least-squares fit leaves, by the normal equations."""
    matrix = torch.stack([torch.ones_like(values), *columns], 1)
    return values - matrix @ torch.linalg.solve(matrix.T @ matrix, matrix.T @ values)


def test_statistics_follow_their_formulas():
    image, values, other = textures(1)[0], textures(1, seed=5)[0, 0], textures(1, seed=6)[0, 0]
    effects, controls = effects_of(linear(), image), Controls.of(image)
    found = weigh(values, effects, 1, controls, (other, 2))
    cells, subsets = effects.cells, effects.subsets
    a, e, d = cells.sums(values), effects.of_cells(1), effects.of_subsets(1)
    assert found.statistic[0] == pytest.approx((pearson(a, e) + pearson(subsets @ a, d)) / 2)
    known = [cells.sums(one) for one in (controls.edges, controls.center)]
    single = pearson(residual(a, *known), residual(e, *known))
    several = [subsets @ one for one in known]
    joint = pearson(residual(subsets @ a, *several), residual(d, *several))
    assert found.statistic[1] == pytest.approx((single + joint) / 2)
    difference = pearson(a - cells.sums(other), e - effects.of_cells(2))
    assert found.statistic[2] == pytest.approx(difference)


def test_effects_of_a_linear_model_are_those_of_the_hidden_pixels():
    image, net = textures(1)[0], linear()
    effects = effects_of(net, image)
    assert torch.equal(effects.subsets.sum(1), torch.full((48,), 9.0, dtype=torch.float64))
    # linear: what one cell does is not changed by others, but for what it is filled with
    joint = effects.subsets @ effects.of_cells(0)
    assert pearson(joint, effects.of_subsets(0)) > 0.95
    assert 0 < effects.noise(0) < 0.1 * float(effects.of_cells(0).std())


def test_cells_by_the_incremental_engine_have_the_scores_of_full_runs():
    net = nn.Sequential(
        nn.Conv2d(1, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
    ).eval()  # fmt: skip
    image = textures(1, size=(48, 45))[0]
    found = effects_of(net, image)
    opaque = ScoreModel(net, parse('logit(1) + 0 * channel("0", 0)'))
    assert not opaque.reads_output_only  # so that whole images run
    clean = opaque.run(image[None])[0][0].detach()
    expected = hiding_effects(opaque, image, clean, found.cells, 0)
    torch.testing.assert_close(found.single[..., 1:2], expected.single, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.several[:, 1:2], expected.several, atol=1e-5, rtol=0)


def test_the_exact_map_passes_and_its_negative_fails():
    net = linear()
    for image in textures(6):
        effects, controls = effects_of(net, image), Controls.of(image)
        exact, other = (image * net[1].weight.detach()[c].view(image.shape) for c in (0, 2))
        found = weigh(exact[0], effects, 0, controls, (other[0], 2))
        assert max(found.p[0], found.p[2]) <= 0.05
        assert found.p[1] <= 0.01
        assert weigh(-exact[0], effects, 0, controls).p[0] > 0.5


def test_positive_scale_changes_nothing():
    image = textures(1)[0]
    effects, controls = effects_of(linear(), image), Controls.of(image)
    values, other = textures(2, seed=3)[:, 0]
    one = weigh(values, effects, 0, controls, (other, 1))
    for scale in (1e-6, 4.0, 1e5):
        again = weigh(scale * values, effects, 0, controls, (scale * other, 1))
        assert again.p == one.p
        assert again.statistic == pytest.approx(one.statistic)


def test_controls_do_not_pass_beyond_themselves():
    image = textures(1)[0]
    effects, controls = effects_of(linear(), image), Controls.of(image)
    for values in (controls.edges, controls.center, 3 * controls.edges - controls.center + 7):
        found = weigh(values, effects, 0, controls)
        assert (found.statistic[1], found.p[1]) == (0, 1)


def test_equal_maps_of_two_classes_are_not_specific():
    image, values = textures(1)[0], textures(1, seed=3)[0, 0]
    found = weigh(values, effects_of(linear(), image), 0, Controls.of(image), (values, 1))
    assert (found.statistic[2], found.p[2]) == (0, 1)


@pytest.mark.parametrize(("what", "name"), [("edges", "edges"), ("center", "center")])
def test_the_control_that_predicts_best_is_named(what, name):
    class Weighs(nn.Module):
        def forward(self, images):
            weights = getattr(Controls.of(textures(1)[0]), what).to(images)
            return (images.square() * weights).sum((1, 2, 3))[:, None].repeat(1, 2)

    image = textures(1)[0]
    assert (
        weigh(textures(1, seed=4)[0, 0], effects_of(Weighs(), image), 0, Controls.of(image)).control
        == name
    )


def attackers(right, count, seed):
    """Maps that know nothing: shifted copies of a right map, random maps, and smooth ones."""
    random = generator(seed)
    height, width = right.shape
    shifts = [
        (int(torch.randint(height, (), generator=random)), int(torch.randint(width, (), generator=random)))
        for _ in range(count)
    ]  # fmt: skip
    noise = torch.randn(2 * count, height, width, generator=random)
    return [
        *(right.roll(shift, (0, 1)) for shift in shifts),
        *noise[:count],
        *smooth(noise[count:]),
    ]


def passing(model, images, right, count, seed):
    """Share of maps without knowledge that pass the first test."""
    passed = total = 0
    for i, image in enumerate(images):
        effects, controls = effects_of(model, image), Controls.of(image)
        for values in attackers(right[i], count, seed + i):
            passed += weigh(values, effects, 0, controls).p[0] <= 0.05
            total += 1
    return passed / total, total


def test_maps_without_knowledge_rarely_pass_on_a_detector():
    images, _ = planted(2, seed=2026)
    right = ek.explain(detector(), images, 0, "integrated_gradients").heatmap()
    share, total = passing(detector(), images, right, 45, 99)
    assert total == 270
    assert share <= 0.07


@pytest.mark.slow
def test_maps_without_knowledge_rarely_pass_on_the_study_network():
    model = ek.load_model("fer_hw3/cnn")
    images = ek.load_dataset("fer_hw3/synthetic", split="public_test", seed=71).images[:3]
    right = ek.explain(model, images, 0, "deeplift").heatmap()
    share, total = passing(model, images, right, 50, 5)
    assert total == 450
    assert share <= 0.07
