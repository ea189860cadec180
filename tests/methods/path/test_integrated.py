"""Integrated gradients against closed forms and Captum 0.9.0 as an oracle."""

import warnings

import captum.attr
import pytest
import torch

import explainkit as ek
from explainkit.errors import ExplainkitWarning, MethodError
from explainkit.methods.path.integrated import IntegratedGradients, quadrature
from explainkit.methods.path.straight_line import line_integral
from explainkit.testing import check_method, toy_models

RULES = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]
TARGET = torch.tensor([0, 3, 1, 4])


def assert_close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@pytest.mark.parametrize("rule", RULES)
def test_captum_parity(toy, rule):
    model, forward, x, target = toy
    baseline = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(3))
    explanation = ek.explain(
        model, x, target, "integrated_gradients", steps=20, rule=rule, baseline=baseline
    )
    oracle, delta = captum.attr.IntegratedGradients(forward).attribute(
        x, baseline.expand_as(x).contiguous(), target,
        n_steps=20, method=rule, return_convergence_delta=True,
    )  # fmt: skip
    assert_close(explanation.attribution, oracle)
    change = (forward(x) - forward(baseline[None])).gather(1, target[:, None])[:, 0].detach()
    gap = delta.abs() / change.abs().clamp(min=0.05)
    torch.testing.assert_close(
        explanation.diagnostics["completeness_gap"].float(), gap.float(), atol=1e-4, rtol=1e-3
    )


class TestLinear:
    """On a linear model the integral has a closed form."""

    @pytest.mark.parametrize("rule", RULES[:4])
    def test_integral_is_exact_with_one_step(self, linear, rule):
        model, x, weight = linear
        e = ek.explain(model, x, 1, "integrated_gradients", steps=1, rule=rule, baseline=0.5)
        assert_close(e.attribution, (x - 0.5) * weight[1])
        assert float(e.diagnostics["completeness_gap"].max()) < 1e-5

    def test_trapezoid_misses_captums_share(self, linear):
        model, x, weight = linear
        e = ek.explain(model, x, 1, "integrated_gradients", steps=10, rule="riemann_trapezoid")
        assert_close(e.attribution, x * weight[1] * 9 / 10)


class Steep(torch.nn.Sequential):
    """A score that changes within a small part of the path."""

    def __init__(self, scale):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(4, 1), torch.nn.Sigmoid())
        torch.nn.init.constant_(self[1].weight, scale)
        torch.nn.init.constant_(self[1].bias, -3.2 * scale)


class TestSteps:
    def test_tolerance_is_met_and_reported(self, toy):
        model, forward, x, target = toy
        e = ek.explain(model, x, target, "integrated_gradients", steps=2, tolerance=0.01)
        with torch.no_grad():
            scores = (forward(x) - forward(torch.zeros_like(x))).gather(1, target[:, None])[:, 0]
        gap = (e.attribution.sum((1, 2, 3)) - scores).abs() / scores.abs().clamp(min=0.05)
        assert float(gap.max()) <= 0.0101
        torch.testing.assert_close(
            e.diagnostics["completeness_gap"].float(), gap.detach(), atol=1e-4, rtol=1e-2
        )

    def test_each_image_stops_by_itself(self):
        model, x = toy_models()["vit"]
        x = x - 0.4
        together = ek.explain(model, x, TARGET, "integrated_gradients", steps=1, tolerance=1e-3)
        alone = [
            ek.explain(
                model,
                x[i : i + 1],
                TARGET[i : i + 1],
                "integrated_gradients",
                steps=1,
                tolerance=1e-3,
            )
            for i in range(4)
        ]
        steps = [int(e.diagnostics["steps"]) for e in alone]
        assert together.diagnostics["steps"].tolist() == steps
        assert len(set(steps)) > 1

    def test_by_default_the_gap_is_at_most_one_percent(self, toy):
        model, _, x, target = toy
        e = ek.explain(model, x, target, "integrated_gradients")
        assert float(e.diagnostics["completeness_gap"].max()) < 0.0101
        assert int(e.diagnostics["steps"].max()) <= 200
        reference = ek.explain(model, x, target, "integrated_gradients", steps=300).attribution
        assert float((e.attribution - reference).norm()) < 0.06 * float(reference.norm())

    def test_a_number_of_steps_is_exact(self):
        model, x = toy_models()["plain"]
        e = ek.explain(model, x, 0, "integrated_gradients", steps=3)
        total = torch.zeros_like(x)
        for node, weight in zip(*quadrature("gausslegendre", 3), strict=True):
            points = (float(node) * x).requires_grad_()
            (gradient,) = torch.autograd.grad(model(points)[:, 0].sum(), points)
            total += float(weight) * gradient * x
        torch.testing.assert_close(e.attribution, total)
        assert e.diagnostics["steps"].tolist() == [3] * 4

    @pytest.mark.parametrize("method", ["integrated_gradients", "conductance"])
    def test_few_steps_are_warned_of(self, method):
        layer = {"layer": "0"} if method == "conductance" else {}
        for scale, steps, wide in ((8.0, 1, True), (8.0, 400, False), (1e-9, 1, False)):
            model = Steep(scale)
            options = {"steps": steps, **layer}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                e = ek.explain(model, torch.ones(1, 1, 2, 2), 0, method, **options)
            assert any("completeness_gap above 0.05" in str(w.message) for w in caught) == wide
            assert (float(e.diagnostics["completeness_gap"]) > 0.05) == wide

    def test_a_tolerance_out_of_reach_is_said(self):
        model, x = toy_models()["plain"]
        with pytest.warns(ExplainkitWarning, match="completeness gap .* after 10 steps"):
            e = ek.explain(model, x, 0, "integrated_gradients", max_steps=10, tolerance=1e-12)
        assert "raise max_steps" in e.diagnostics["warnings"][0]

    def test_refinement_needs_fewer_gradients_than_equal_steps(self):
        """With ReLUs that switch within a narrow interval of the path."""
        layer = torch.nn.Linear(8, 64)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
            layer.bias.copy_(-layer.weight.sum(1) * torch.linspace(0.28, 0.32, 64))
        model = torch.nn.Sequential(
            torch.nn.Flatten(), layer, torch.nn.ReLU(), torch.nn.Linear(64, 2)
        )
        x = torch.ones(1, 2, 2, 2)
        e = ek.explain(model.eval(), x, 0, "integrated_gradients", tolerance=1e-3)
        assert float(e.diagnostics["completeness_gap"]) <= 1e-3
        used = int(e.diagnostics["steps"])
        gaps = [
            float(
                ek.explain(model, x, 0, "integrated_gradients", steps=n, rule=rule).diagnostics[
                    "completeness_gap"
                ]
            )
            for rule in ("gausslegendre", "riemann_middle")
            for n in range(used, 2 * used)
        ]
        assert sorted(gaps)[len(gaps) // 2] > 1e-3
        reference = ek.explain(model, x, 0, "integrated_gradients", steps=2000).attribution
        assert float((e.attribution - reference).abs().max()) < 0.02 * float(reference.abs().max())

    @pytest.mark.parametrize("rule", RULES)
    def test_quadrature_converges(self, rule):
        nodes, weights = quadrature(rule, 200)
        assert float(weights @ nodes.square()) == pytest.approx(1 / 3, abs=0.01)

    def test_gauss_legendre_is_exact_for_its_degree(self):
        nodes, weights = quadrature("gausslegendre", 5)
        for degree in range(10):
            assert float(weights @ nodes**degree) == pytest.approx(1 / (degree + 1), abs=1e-14)


def test_the_walked_path_is_the_same_integral():
    """Methods that use the path get the points between baseline and image."""
    model, x = toy_models()["mlp"]
    method = IntegratedGradients(baseline=0.3, steps=60)
    visits = list(method.walk(model, x, TARGET))
    assert len(visits) == 61
    assert torch.equal(visits[0].points, torch.full_like(x, 0.3))
    assert torch.equal(visits[-1].points, x)
    walked = line_integral(visits, x.dtype).values
    assert_close(walked, ek.explain(model, x, TARGET, method).attribution, 1e-3)


@pytest.mark.parametrize("model", sorted(toy_models()))
def test_conformance(model):
    check_method(IntegratedGradients(steps=6), {model: toy_models()[model]})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"rule": "simpson"}, "rule: expected gausslegendre or .*, got 'simpson'"),
        ({"rule": "riemann_trapezoid", "steps": 1}, "at least 2"),
        ({"tolerance": -1.0}, "tolerance: expected a number above 0"),
        ({"max_steps": 3}, "max_steps: expected at least 9, got 3"),
        ({"baseline": torch.zeros(2)}, r"baseline: expected .* got \[2\]"),
    ],
)
def test_bad_parameters(params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, "integrated_gradients", **params)


class TestWithoutTheInput:
    @pytest.mark.parametrize("steps", [None, 2])
    def test_the_mean_gradient_of_a_quadratic(self, quadratic, steps):
        """``∇S = 2 w x + v``, whose mean from b to x is ``w (x + b) + v``."""
        x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(4)) + 1
        bare, whole = (
            ek.explain(
                quadratic, x, 1, "integrated_gradients", baseline=0.5, steps=steps,
                multiply_by_inputs=flag,
            )
            for flag in (False, True)
        )  # fmt: skip
        assert_close(bare.attribution, quadratic.w * (x + 0.5) + quadratic.v)
        gap = "completeness_gap"
        assert torch.equal(bare.diagnostics[gap], whole.diagnostics[gap])
        assert bare.diagnostics[gap].max() < 1e-3

    def test_captum_parity(self):
        model, x = toy_models()["plain"]
        ours = ek.explain(
            model.eval(), x, TARGET, "integrated_gradients", steps=20, multiply_by_inputs=False
        )
        oracle = captum.attr.IntegratedGradients(model, multiply_by_inputs=False)
        assert_close(ours.attribution, oracle.attribute(x, target=TARGET, n_steps=20))
