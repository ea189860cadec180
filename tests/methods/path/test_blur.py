"""Blur integrated gradients: scale-space axioms, closed forms, completeness."""

import math

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.path.blur import BlurIG, scale_space
from explainkit.testing import check_method, toy_models

IMAGES = torch.rand(2, 3, 14, 9, generator=torch.Generator().manual_seed(1)).double()


class TestScaleSpace:
    @pytest.mark.parametrize(("one", "other"), [(0.2, 0.1), (0.7, 1.5), (3.0, 4.0)])
    def test_blurs_add_up(self, one, other):
        twice = scale_space(scale_space(IMAGES, one), other)
        torch.testing.assert_close(twice, scale_space(IMAGES, math.hypot(one, other)))

    @pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0, 30.0])
    def test_the_mean_stays_and_nothing_leaves_the_range(self, sigma):
        blurred = scale_space(IMAGES, sigma)
        torch.testing.assert_close(blurred.mean((2, 3)), IMAGES.mean((2, 3)))
        assert bool((blurred.amax((2, 3)) < IMAGES.amax((2, 3))).all())
        assert bool((blurred.amin((2, 3)) > IMAGES.amin((2, 3))).all())

    def test_ends(self):
        torch.testing.assert_close(scale_space(IMAGES, 0.0), IMAGES)
        flat = IMAGES.mean((2, 3), keepdim=True).expand_as(IMAGES)
        torch.testing.assert_close(scale_space(IMAGES, 100.0), flat)

    def test_heat_equation(self):
        """∂L/∂σ = σ ΔL, with the five-point Laplacian and reflecting ends."""
        sigma, h = 1.3, 1e-4
        slope = (scale_space(IMAGES, sigma + h) - scale_space(IMAGES, sigma - h)) / (2 * h)
        blurred = scale_space(IMAGES, sigma)
        edged = nn.functional.pad(blurred, (1, 1, 1, 1), mode="replicate")
        laplacian = (
            edged[..., 2:, 1:-1] + edged[..., :-2, 1:-1] + edged[..., 1:-1, 2:]
            + edged[..., 1:-1, :-2] - 4 * blurred
        )  # fmt: skip
        torch.testing.assert_close(slope, sigma * laplacian, atol=1e-7, rtol=1e-6)

    def test_it_is_the_gaussian(self):
        sigma, dot = 3.0, torch.zeros(1, 1, 61, 61).double()
        dot[..., 30, 30] = 1
        away = torch.arange(61).double() - 30
        line = torch.exp(-away.square() / (2 * sigma**2))
        kernel = torch.outer(line, line) / line.sum() ** 2
        found = scale_space(dot, sigma)[0, 0]
        assert float((found - kernel).abs().max()) < 0.03 * float(kernel.max())
        assert float((found.sum(0) * away.square()).sum()) == pytest.approx(sigma**2, rel=1e-4)


def test_completeness(toy):
    model, forward, x, target = toy
    gaps = []
    for steps in (50, 400):
        e = ek.explain(model, x, target, "blur_ig", steps=steps)
        with torch.no_grad():
            start = forward(scale_space(x, 10 / 3))
            change = (forward(x) - start).gather(1, target[:, None])[:, 0]
        gap = (e.attribution.sum((1, 2, 3)) - change).abs() / change.abs().clamp(min=0.05)
        torch.testing.assert_close(
            e.diagnostics["completeness_gap"].float(), gap, atol=1e-4, rtol=1e-3
        )
        gaps.append(float(gap.max()))
    assert gaps[0] < 0.03
    assert gaps[1] < 0.004


@pytest.mark.parametrize("steps", [1, 7])
def test_a_linear_model_has_a_closed_form(steps):
    model = nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).eval()
    x = torch.rand(2, 3, 12, 10)
    e = ek.explain(model, x, 1, "blur_ig", steps=steps, max_sigma=2.5)
    weight = model[1].weight.detach()[1].reshape(3, 12, 10)
    torch.testing.assert_close(
        e.attribution, (x - scale_space(x, 2.5)) * weight, atol=1e-6, rtol=1e-4
    )


def test_a_quadratic_model_is_complete_at_any_number_of_steps(quadratic):
    x = torch.rand(2, 3, 12, 10)
    for steps in (1, 5):
        e = ek.explain(quadratic, x, 1, method="blur_ig", steps=steps)
        assert float(e.diagnostics["completeness_gap"].max()) < 1e-5


def test_the_papers_integral():
    """The same as the integral over σ with the analytic derivative σ ΔL, finely sampled."""
    model, x = toy_models()["mlp"]
    model, x = model.double(), x.double()
    ours = ek.explain(model, x, 2, "blur_ig", steps=400, max_sigma=3.0).attribution
    total, count = torch.zeros_like(x), 2000
    for k in range(count):
        sigma = 3.0 * (k + 0.5) / count
        points = scale_space(x, sigma).requires_grad_()
        (gradient,) = torch.autograd.grad(model(points)[:, 2].sum(), points)
        edged = nn.functional.pad(points.detach(), (1, 1, 1, 1), mode="replicate")
        laplacian = (
            edged[..., 2:, 1:-1] + edged[..., :-2, 1:-1] + edged[..., 1:-1, 2:]
            + edged[..., 1:-1, :-2] - 4 * points.detach()
        )  # fmt: skip
        total -= gradient * sigma * laplacian * 3.0 / count
    torch.testing.assert_close(ours, total, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("model", sorted(toy_models()))
def test_conformance(model):
    check_method(BlurIG(steps=6), {model: toy_models()[model]})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"max_sigma": 0.0}, "max_sigma: expected a number above 0"),
        ({"max_sigma": float("nan")}, "max_sigma: expected"),
    ],
)
def test_bad_parameters(params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, "blur_ig", **params)
