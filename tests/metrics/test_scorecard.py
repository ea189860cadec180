"""Scorecards: known verdicts, what they leave behind, and where they come from."""

import copy
import gc
import json
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import detector, generator, linear, planted, textures

import explainkit as ek
from explainkit.errors import InputError, MethodError, ModelError, RenderError, TargetError
from explainkit.metrics import hiding
from explainkit.results.scorecard import SENTENCES, control_of, fails_often, holm, verdict_of

NAN = float("nan")


def test_rules_follow_their_order():
    for p, verdict in {
        (0.05, 0.01, 0.05): "supported",
        (0.05, 0.011, 0.05): "partly supported",
        (0.05, 0.05, 0.051): "not class-specific",
        (0.05, 0.051, 0.9): "not supported: edges",
        (0.051, 0.001, 0.001): "not supported: moved",
        (0.001, 0.001, NAN): "partly supported",
        (NAN, NAN, NAN): "cannot be judged",
    }.items():
        assert verdict_of(p, "edges") == verdict
        assert verdict in SENTENCES
    assert verdict_of((0.01, 0.5, 0.5), "center") == "not supported: center"


def test_the_exact_maps_of_a_linear_model_are_supported():
    net, x = linear(), textures(8)
    card = ek.explain(net, x, 1, "input_x_gradient", scorecard=True).scorecard()
    assert set(card.verdict) == {"supported"}
    assert card.sentence(0).startswith(SENTENCES["supported"])
    assert card.p.max() <= 0.05
    exact = x * net[1].weight.detach()[1].view(1, 1, 24, 24)
    moved = ek.scorecard(net, x, -exact, 1)
    assert set(moved.verdict) == {"not supported: moved"}


def test_right_maps_of_a_detector_are_supported_and_its_twin_is_not_class_specific():
    net, (x, _) = detector(), planted(12, seed=7)
    for method in ("integrated_gradients", "deeplift"):
        card = ek.explain(net, x, 0, method).scorecard()
        assert (card.p[:, 0] <= 0.05).sum() >= 11
        assert card.verdict.count("supported") >= 11
    # both patterns: right for either class, and blind to the difference
    both = sum(one.attribution for one in ek.explain(net, x, method="deeplift", targets=[0, 1]))
    card = ek.scorecard(net, x, both, 0, contrast=both)
    assert card.verdict.count("not class-specific") >= 9
    assert (card.p[:, 2] == 1).all()
    # a map of the other class puts its pattern elsewhere
    other = ek.explain(net, x, 1, "deeplift").attribution
    assert "supported" not in ek.scorecard(net, x, other, 0, contrast=-other).verdict


def test_a_map_from_elsewhere_without_contrast_is_partly_supported_at_best():
    net, x = linear(), textures(3)
    exact = x * net[1].weight.detach()[2].view(1, 1, 24, 24)
    card = ek.scorecard(net, x, exact, 2)
    assert set(card.verdict) == {"partly supported"}
    assert card.p[:, 2].isnan().all()
    assert "No map of another class was given" in card.sentence(0)
    flat = ek.scorecard(net, x, exact[:, 0], 2)
    torch.testing.assert_close(flat.p, card.p, rtol=0, atol=0, equal_nan=True)


def test_what_cannot_be_judged_is_nan_with_a_reason():
    net, x = linear(), textures(4)
    maps = textures(4, seed=9)
    maps[0] = 3.0
    maps[1, 0, 5, 5] = NAN
    maps[2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(12, 12)
    card = ek.scorecard(net, x, maps, 0)
    assert card.verdict[:3] == ("cannot be judged",) * 3
    assert card.p[:3].isnan().all()
    assert card.statistic[:3].isnan().all()
    assert [reason.split()[2] for reason in card.reason[:3]] == ["has", "has", "has"]
    assert not card.p[3, :2].isnan().any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: 0 * x, "hardly changes the model's answer"),  # nothing to hide
        (lambda x: x[..., :3, :3], "fewer than 12 cells"),
    ],
)
def test_images_without_effects_cannot_be_judged(change, reason):
    x = change(textures(1))
    net = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 3)).eval()
    card = ek.scorecard(net, x, torch.rand_like(x), 0)
    assert card.verdict == ("cannot be judged",)
    assert reason in card.reason[0]


def test_a_model_that_fails_on_what_is_filled_is_not_judged():
    class Root(nn.Module):
        def forward(self, images):
            return images.sum((2, 3)).repeat(1, 2) / (images.amax((1, 2, 3)) > 4)[:, None]

    x = textures(1)
    x[0, 0, 3, 3] = 9.0
    card = ek.scorecard(Root(), x, textures(1, seed=3), 0)
    assert "parts of the image hidden, the model's output is NaN" in card.reason[0]


@pytest.mark.parametrize(("channels", "size"), [(3, (25, 31)), (1, (17, 40)), (2, (130, 129))])
def test_any_channels_and_sizes(channels, size):
    net, x = linear(channels=channels, size=size), textures(1, channels, size)
    card = ek.explain(net, x, 0, "input_x_gradient").scorecard()
    assert set(card.verdict) == {"supported"}
    assert card.grid == ((7, 7) if min(size) > 127 else (6, 6))


def test_rectified_maps_with_ties_are_judged():
    net, (x, _) = detector(), planted(6, seed=3)
    maps = ek.explain(net, x, 0, "deeplift").attribution.clamp(min=0)
    levels = (maps / maps.amax((1, 2, 3), keepdim=True) * 2).round()
    assert (levels == 0).float().mean() > 0.8
    assert (ek.scorecard(net, x, levels, 0).p[:, 0] <= 0.05).sum() >= 5


def test_verdicts_depend_on_the_seed_but_not_on_the_batch():
    net, (x, _) = detector(), planted(5, seed=4)
    found = ek.explain(net, x, 0, "saliency")
    card = found.scorecard()
    for i in (0, 3):
        twin = copy.deepcopy(net)  # for which nothing is kept
        alone = ek.explain(twin, x[i : i + 1], 0, "saliency").scorecard()
        torch.testing.assert_close(alone.p, card.p[i : i + 1], rtol=0, atol=1e-3)
        assert alone.verdict == card.verdict[i : i + 1]
    twin = copy.deepcopy(net)
    again = ek.explain(twin, x, 0, "saliency").scorecard()
    assert torch.equal(again.p, card.p)
    assert not torch.equal(found.scorecard(seed=1).statistic, card.statistic)


def test_nothing_is_left_behind():
    net, x = detector().train(), planted(2)[0]
    maps = textures(2, size=(36, 36))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept, maps_kept = x.clone(), maps.clone()
    states = torch.get_rng_state(), random.getstate()
    ek.scorecard(net, x, maps, 0, maps, power=True)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(x, kept)
    assert torch.equal(maps, maps_kept)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_one_table_serves_all_methods_and_targets_until_the_weights_change(monkeypatch):
    measured = []
    whole = hiding._measure
    monkeypatch.setattr(hiding, "_measure", lambda *a: measured.append(1) or whole(*a))
    net, x = linear(), textures(2)
    found = ek.explain(
        net, x, method=["saliency", "input_x_gradient"], targets=[0, 1], scorecard=True
    )
    assert len(found) == 4
    assert len(measured) == 2
    with torch.no_grad():
        net[1].weight.data.mul_(0.5)  # leaves no trace but in the scores
    ek.explain(net, x, 0, "saliency", scorecard=True)
    assert len(measured) == 4


def test_methods_that_hide_parts_are_judged_on_another_grid():
    net, x = linear(), textures(1)
    card = ek.explain(net, x, 0, ek.methods.FeatureAblation(segments=6)).scorecard()
    assert (card.half_cell, card.grid) == (True, (7, 7))
    assert card.verdict == ("supported",)
    assert not ek.explain(net, x, 0, "saliency").scorecard().half_cell
    assert ek.scorecard(net, x, x, 0, black_box=True).grid == (7, 7)


def test_the_model_is_asked_for_when_it_is_gone_or_another(tmp_path):
    net, x = linear(), textures(2)
    found = ek.explain(net, x, 0, "input_x_gradient")
    found.save(tmp_path)
    loaded = ek.Explanation.load(tmp_path)
    with pytest.raises(ModelError, match="a loaded explanation has no model"):
        loaded.scorecard()
    assert loaded.scorecard(model=net).p.equal(found.scorecard().p)
    with pytest.raises(ModelError, match="expected the explained model, whose score of image 0"):
        loaded.scorecard(model=linear(seed=8))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        net[1].weight.mul_(2)
    with pytest.raises(ModelError, match="its weights have changed"):
        found.scorecard(seed=1)
    assert found.scorecard(seed=1, model=twin).verdict == ("supported", "supported")
    orphan = ek.explain(linear(), x, 0, "saliency")
    gc.collect()
    with pytest.raises(ModelError, match="the explained model is gone"):
        orphan.scorecard()


def test_slices_keep_their_origin_and_their_own_baselines():
    net, x = linear(), textures(3)
    baseline = textures(3, seed=5)
    found = ek.explain(net, x, [0, 1, 2], "integrated_gradients", baseline=baseline, steps=3)
    card, part = found.scorecard(), found[1:].scorecard()
    torch.testing.assert_close(part.p, card.p[1:])
    assert part.target == ("1", "2")


def test_named_models_are_loaded_again():
    x = ek.load_dataset("fer_hw3/synthetic", split="public_test").images[:1]
    card = ek.explain("fer_hw3/dnn", x, method="input_x_gradient").scorecard()
    assert card.model == "fer_hw3/dnn"
    assert card.target[0] in ek.load_model("fer_hw3/dnn").explainkit_spec.class_names


def test_binary_models_have_two_sides_and_values_no_other_class():
    net, x = linear(classes=1), textures(2)
    card = ek.explain(net, x, method="input_x_gradient").scorecard()
    assert set(card.verdict) == {"supported"}
    values = ek.explain(net, x, method="input_x_gradient", task="regression").scorecard()
    assert set(values.verdict) == {"partly supported"}
    assert "no next most likely class" in values.reason[0]


def test_labels_expressions_and_functions():
    net, x = linear(), textures(2)
    labels = ek.explain(net, x, 1, "input_x_gradient", task="multilabel").scorecard()
    assert set(labels.verdict) == {"supported"}
    apart = ek.explain(net, x, "logit(0) - logit(1)", "input_x_gradient").scorecard()
    assert set(apart.verdict) == {"partly supported"}
    assert apart.target[0] == "logit(0) - logit(1)"
    function = ek.explain(net, x, lambda out: out[:, 0] - out[:, 1], "input_x_gradient")
    torch.testing.assert_close(function.scorecard().p[:, :2], apart.p[:, :2])


def test_saved_functions_and_maps_of_layers_are_refused(tmp_path):
    net, x = linear(), textures(1)
    ek.explain(net, x, lambda out: out[:, 0], "saliency").save(tmp_path)
    with pytest.raises(TargetError, match="was not saved: explain again"):
        ek.Explanation.load(tmp_path).scorecard(model=net)
    with pytest.raises(MethodError, match="got maps of layer '0'"):
        ek.explain(detector(), planted(1)[0], 0, "saliency", at="0").scorecard()


def test_maps_are_judged_as_they_are_drawn():
    net, x = linear(), textures(2)
    found = ek.explain(net, x, 0, "input_x_gradient")
    absolute = found.scorecard(reduce="abs_sum")
    assert torch.equal(absolute.p[:, :2], ek.scorecard(net, x, found.attribution.abs(), 0).p[:, :2])
    assert not torch.equal(absolute.p, found.scorecard().p)


@pytest.mark.parametrize("maps", [torch.rand(2, 1, 24, 23), torch.rand(2, 2, 24, 24), [1.0]])
def test_maps_of_another_shape_are_refused(maps):
    with pytest.raises(InputError, match="expected maps \\[2, 1 or 1, 24, 24\\], got"):
        ek.scorecard(linear(), textures(2), maps, 0)


class Saturated(nn.Module):
    """Most of a cell of 4 × 4 pixels must be hidden for a large effect, so grids do not agree."""

    def forward(self, images):
        weights = torch.randn(36, generator=generator(1)).view(6, 6)
        energy = F.avg_pool2d(images.square(), 4)[:, 0].clamp(max=0.3)
        ramp = torch.randn(24, 24, generator=generator(2))
        return torch.stack(
            [(energy * weights).sum((1, 2)) + 0.001 * (images[:, 0] * ramp).sum((1, 2))] * 2, 1
        )


def test_low_power_withholds_verdicts_but_not_p_values():
    saturated, net, x = Saturated().eval(), linear(), textures(10)
    card = ek.explain(saturated, x, 0, "saliency").scorecard()
    assert card.low_power
    assert set(card.verdict) == {"low power on this network"}
    assert not card.p.isnan().any()
    fine = ek.explain(net, x, 0, "saliency").scorecard()
    assert fine.power.max() <= 0.05
    assert not fine.low_power
    assert ek.explain(net, x[:9], 0, "saliency").scorecard().power is None


def test_power_needs_ten_images_and_a_third_of_failures():
    fails, passes = [0.5], [0.01]
    assert not fails_often(control_of(torch.tensor(9 * fails)))
    assert fails_often(control_of(torch.tensor(4 * fails + 6 * passes)))
    assert not fails_often(control_of(torch.tensor(4 * fails + 8 * passes)))
    assert not fails_often(control_of(torch.tensor(9 * fails + [NAN])))


def test_the_specification_knows_the_power_of_few_images():
    net, x = linear(), textures(2)
    unknown = ek.explain(net, x, 0, "input_x_gradient").scorecard()
    assert unknown.positive_control is None
    assert "power of these tests on this network is unknown" in unknown.notes[-1]
    net.explainkit_spec = ek.ModelSpec(positive_control=(14, 28))
    weak = ek.explain(net, x, 0, "input_x_gradient").scorecard()
    assert weak.low_power
    assert set(weak.verdict) == {"low power on this network"}
    assert torch.equal(weak.p, unknown.p)
    assert weak.notes == (weak.caveat,)
    # ten images are measured, whatever the specification says
    many = ek.explain(net, textures(10), 0, "input_x_gradient").scorecard()
    assert many.positive_control == (10, 10)
    assert "low power on this network" not in many.verdict
    net.explainkit_spec = ek.ModelSpec(positive_control=(19, 28))
    assert not ek.explain(net, x, 0, "input_x_gradient").scorecard().low_power


def test_sentences_name_what_the_target_is_compared_with():
    x = textures(1)

    def sentence(net, target, **options):
        card = ek.explain(net, x, target, "input_x_gradient", **options).scorecard()
        return card.sentence(0), card.contrast

    names = ["cat", "dog", "ape"]
    said, contrast = sentence(linear(), "cat", class_names=names)
    other = linear()(x).detach()[0, 1:].argmax() + 1
    assert contrast == (f"{names[other]}, the next most likely class",)
    assert said == f"{SENTENCES['supported']} Compared with {contrast[0]}."
    assert "the next most likely label" in sentence(linear(), 1, task="multilabel")[0]
    said, _ = sentence(linear(classes=1), "ill", class_names=["well", "ill"])
    assert said.endswith("Compared with well, the other side of the same logit.")
    assert sentence(linear(), "logit(0) - logit(1)")[1] == ()


def test_results_are_json_html_and_a_figure():
    net, x = linear(), textures(3)
    maps = textures(3, seed=2)
    maps[1] = 0
    card = ek.scorecard(net, x, maps, 0)
    text = json.loads(json.dumps(card.to_dict(), allow_nan=False))
    assert text["p"][1] == [None, None, None]
    assert text["verdict"][1] == "cannot be judged"
    assert "not about causes" in text["caveat"]
    html = card._repr_html_()
    assert html.count("<tr>") == 4
    assert "This map can&#x27;t be tested. The map has the same value everywhere." in html
    figure = card.plot(columns=2)
    assert [axes.get_title("left").split(",")[0] for axes in figure.axes][1] == "cannot be judged"
    cells = figure.axes[0].collections[-1].get_offsets()
    torch.testing.assert_close(
        torch.tensor(cells.data), torch.stack([card.sums[0], card.effects[0]], 1)
    )
    assert not any("…" in text.get_text() for text in card.plot(columns=1).texts[1:])
    with pytest.raises(RenderError, match="columns: expected at least 1"):
        card.plot(columns=0)


def test_several_methods_share_one_error_rate():
    net, x = linear(), textures(2)
    names = ["input_x_gradient", "saliency", "integrated_gradients"]
    found = ek.explain(net, x, 0, names)
    alone = torch.stack([one.scorecard().p for one in found])
    cards = found.scorecards()
    assert [card.methods for card in cards] == [3, 3, 3]
    assert (torch.stack([card.p for card in cards]) >= alone).all()
    assert cards[0].verdict == ("supported", "supported")
    assert "adjusted for 3 methods" in cards[0]._repr_html_()
    targets = ek.explain(net, x, method=["saliency", "input_x_gradient"], targets=[0, 1])
    assert [card.methods for card in targets.scorecards()] == [2, 2, 2, 2]


def test_holm_is_the_smallest_level_at_which_a_test_is_rejected():
    p = torch.rand(5, 40, generator=generator(0), dtype=torch.float64) / 4
    for column in range(40):
        adjusted, ordered = holm(p)[:, column], p[:, column].sort().values
        for level in adjusted.tolist():
            # step down: stop at the first that is not small enough
            passed = 0
            while passed < 5 and ordered[passed] * (5 - passed) <= level + 1e-12:
                passed += 1
            assert (adjusted <= level + 1e-12).sum() >= passed or level == 1
    with_nan = torch.tensor([0.02, NAN, 0.5]), torch.tensor([0.04, NAN, 0.5])
    torch.testing.assert_close(holm(with_nan[0]), with_nan[1].clone(), equal_nan=True)
