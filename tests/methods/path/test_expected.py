"""Expected gradients against closed forms, their own error bars, and Captum's GradientShap."""

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError, ModelError
from explainkit.methods.path.expected import ExpectedGradients
from explainkit.testing import check_method, toy_models

MODELS = sorted(toy_models())
TARGET = torch.tensor([0, 3, 1, 4])
BAG = torch.rand(7, 3, 12, 10, generator=torch.Generator().manual_seed(1)) - 0.5


def prepared(name):
    """A toy model in eval mode, its logits only, and images of both signs."""
    model, images = toy_models()[name]
    model.eval()
    forward = (lambda x: model(x)[0]) if name == "tuple" else model
    return model, forward, images - 0.4


class Quadratic(nn.Module):
    """S = Σ w x², so that the expectation is w · (x² − mean b²)."""

    def __init__(self, shape=(3, 12, 10)):
        super().__init__()
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        self.register_buffer("weight", weight)
        self.eval()

    def forward(self, x):
        return (self.weight * x.square()).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_within_four_standard_errors(name):
    model, forward, x = prepared(name)
    e = ek.explain(model, x, TARGET, "expected_gradients", baselines=BAG, samples=40, noise=0.0)
    with torch.no_grad():
        change = (forward(x) - forward(BAG).mean(0)).gather(1, TARGET[:, None])[:, 0]
    missing = (e.attribution.sum((1, 2, 3)) - change).abs()
    assert bool((missing <= 4 * e.diagnostics["sum_error"] + 1e-5).all())
    torch.testing.assert_close(
        e.diagnostics["completeness_gap"].float(),
        missing / change.abs().clamp(min=0.05),
        atol=1e-4,
        rtol=1e-3,
    )


@pytest.mark.parametrize(("name", "noise"), [("plain", 0.2), ("mlp", 0.0), ("tuple", 0.1)])
def test_captum_estimates_the_same(name, noise):
    model, forward, x = prepared(name)
    x, target = x[:1], TARGET[:1]
    ours = ek.explain(
        model, x, target, "gradient_shap", baselines=BAG, samples=600, noise=noise, relative=False
    )
    torch.manual_seed(0)
    np.random.seed(0)  # Captum draws α from numpy's generator
    oracle = captum.attr.GradientShap(forward)
    runs = torch.stack(
        [oracle.attribute(x, BAG, target=target, n_samples=60, stdevs=noise) for _ in range(20)]
    ).detach()
    error = (ours.diagnostics["standard_error"].square() + runs.var(0) / len(runs)).sqrt()
    z = (ours.attribution - runs.mean(0)) / error.clamp(min=1e-6)
    # Captum's error comes from 20 runs: a t-distribution of 19 degrees of freedom, 360 of them
    assert float(z.abs().max()) < 5.5
    assert float(z.std()) < 1.3


class TestStatistics:
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(5))

    @pytest.mark.parametrize("stratified", [True, False])
    def test_unbiased_with_honest_error_bars(self, stratified):
        """The pixels of one run share their draws, so the bars are judged over 20 runs."""
        model = Quadratic()
        truth = model.weight * (self.x.square() - BAG.square().mean(0))
        found = [
            ek.explain(
                model, self.x, 1, method="expected_gradients", baselines=BAG, samples=70,
                stratified=stratified, seed=seed,
            )
            for seed in range(20)
        ]  # fmt: skip
        error = torch.stack([e.diagnostics["standard_error"] for e in found])
        z = (torch.stack([e.attribution for e in found]) - truth) / error
        assert float(z.abs().max()) < 5.5
        assert float(z.mean(0).abs().max()) < 5 / 20**0.5
        assert 0.85 < float(z.square().mean().sqrt()) < 1.15

    def test_with_one_baseline_the_error_bar_of_strata_is_right(self):
        """On S = Σ w x² with b = 0 the error is that of n uniform draws on n equal strata."""
        model, n = Quadratic(), 50
        options = {"method": "expected_gradients", "samples": n}
        found = [ek.explain(model, self.x, 1, seed=seed, **options) for seed in range(30)]
        maps = torch.stack([e.attribution for e in found])
        reported = torch.stack([e.diagnostics["standard_error"] for e in found]).square().mean(0)
        scale = (2 * model.weight * self.x.square()).expand_as(reported)
        expected = scale.square() / (12 * n**3)
        torch.testing.assert_close(reported, expected, rtol=0.35, atol=1e-10)
        assert float((maps.var(0) / expected).mean()) == pytest.approx(1, rel=0.6)
        plain = ek.explain(model, self.x, 1, stratified=False, **options)
        ratio = plain.diagnostics["standard_error"] / reported.sqrt()
        assert float(ratio.median()) > n / 2

    def test_every_image_has_its_own_draws(self):
        model, _, x = prepared("plain")
        options = {"method": "expected_gradients", "baselines": BAG, "samples": 5, "noise": 0.1}
        together = ek.explain(model, x, 1, batch_size=2, **options).attribution
        alone = torch.cat(
            [ek.explain(model, x[i : i + 1], 1, batch_size=2, **options).attribution
             for i in range(4)]
        )  # fmt: skip
        assert torch.equal(together, alone)
        other = ek.explain(model, x, 1, seed=1, **options).attribution
        assert not torch.allclose(together, other)

    def test_noise_adds_the_curvature(self):
        """E[S(x + ε)] − S(x) = Σ w σ² on S = Σ w x², and the map says where."""
        model, sigma = Quadratic(), 0.3
        e = ek.explain(
            model, self.x, 1, method="expected_gradients", samples=900, noise=sigma, relative=False
        )
        truth = model.weight * (self.x.square() + sigma**2)
        z = (e.attribution - truth) / e.diagnostics["standard_error"]
        assert float(z.abs().max()) < 5


def test_on_a_linear_model_one_baseline_needs_no_luck():
    model = nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).eval()
    x = torch.rand(2, 3, 12, 10)
    e = ek.explain(model, x, 2, "expected_gradients", baselines=BAG[:1], samples=5)
    weight = model[1].weight.detach()[2].reshape(3, 12, 10)
    torch.testing.assert_close(e.attribution, (x - BAG[0]) * weight, atol=1e-6, rtol=1e-4)
    assert float(e.diagnostics["standard_error"].max()) < 1e-6


def test_both_names_are_one_method():
    model, images = toy_models()["plain"]
    one, other = (
        ek.explain(model, images, 0, name) for name in ("expected_gradients", "gradient_shap")
    )
    assert torch.equal(one.attribution, other.attribution)
    assert one.method == other.method == "explainkit/expected_gradients"


def test_two_samples_have_no_error_bar():
    model, images = toy_models()["plain"]
    e = ek.explain(model, images, 0, "expected_gradients", samples=2)
    assert "standard_error" not in e.diagnostics


@pytest.mark.parametrize("model", MODELS)
def test_conformance(model):
    method = ExpectedGradients(baselines=0.3, samples=5, noise=0.1)
    check_method(method, {model: toy_models()[model]})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"noise": -1.0}, "noise: expected"),
        ({"baselines": torch.zeros(2, 3, 4, 4)}, r"baselines: expected a number or .* got \[2, 3"),
        ({"baselines": torch.zeros(3, 12)}, r"baselines: expected .* got \[3, 12\]"),
        ({"baselines": BAG[:0]}, "at least one image"),
    ],
)
def test_bad_parameters(params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, "expected_gradients", **params)


def test_a_model_that_cuts_the_gradient_is_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    with pytest.raises(ModelError, match="no gradient reaches them"):
        ek.explain(Cut().eval(), torch.rand(2, 1, 2, 2), 0, "expected_gradients")


def test_without_the_input_it_is_the_mean_gradient():
    """``∂ Σ w x² = 2 w x`` at points uniform between b and x: ``w (x + mean b)`` on average."""
    model, x = Quadratic(), prepared("plain")[2]
    bare, whole = (
        ek.explain(
            model,
            x,
            1,
            "expected_gradients",
            baselines=BAG[:1],
            samples=64,
            multiply_by_inputs=flag,
        )
        for flag in (False, True)
    )
    expected = model.weight * (x + BAG[0])
    z = (bare.attribution - expected) / bare.diagnostics["standard_error"].clamp(min=1e-6)
    assert float(z.abs().max()) < 5.5
    for name in ("completeness_gap", "sum_error"):
        torch.testing.assert_close(
            bare.diagnostics[name], whole.diagnostics[name], atol=1e-5, rtol=1e-2
        )
