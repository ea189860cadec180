"""Gradient methods against closed forms, axioms, statistics, and Captum 0.9.0 as an oracle."""

import itertools

import captum.attr
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.catalog.factories import load_method
from explainkit.errors import MethodError, ModelError
from explainkit.methods.gradient import (
    InputXGradient,
    Saliency,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.testing import check_method, toy_models

MODELS = sorted(toy_models())
TARGET = torch.tensor([0, 3, 1, 4])


def prepared(name):
    """A toy model in eval mode, its logits only, and images of both signs."""
    model, images = toy_models()[name]
    model.eval()
    forward = (lambda x: model(x)[0]) if name == "tuple" else model
    return model, forward, images - 0.4


def assert_close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def noise_of(images, samples, seed=0):
    """The draws of the documented generator: one per image, all started at the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(images.shape[1:], generator=generator) for _ in range(samples)])


@pytest.mark.parametrize("name", MODELS)
class TestCaptum:
    def test_saliency(self, name):
        model, forward, x = prepared(name)
        ours = ek.explain(model, x, TARGET, "saliency", absolute=True).attribution
        assert_close(
            ours, captum.attr.Saliency(forward).attribute(x.clone().requires_grad_(), TARGET)
        )

    def test_signed_saliency(self, name):
        model, forward, x = prepared(name)
        ours = ek.explain(model, x, TARGET).attribution
        assert_close(
            ours,
            captum.attr.Saliency(forward).attribute(x.clone().requires_grad_(), TARGET, abs=False),
        )

    def test_input_x_gradient(self, name):
        model, forward, x = prepared(name)
        ours = ek.explain(model, x, TARGET, "input_x_gradient").attribution
        oracle = captum.attr.InputXGradient(forward).attribute(x.clone().requires_grad_(), TARGET)
        assert_close(ours, oracle.detach())

    @pytest.mark.parametrize(
        ("ours", "theirs"), [("smoothgrad", "smoothgrad"), ("smoothgrad_squared", "smoothgrad_sq")]
    )
    def test_noise(self, name, ours, theirs, monkeypatch):
        model, forward, x = prepared(name)
        found = ek.explain(
            model,
            x,
            TARGET,
            ours,
            samples=6,
            noise=0.2,
            relative=False,
            base=Saliency(absolute=True),
        )
        oracle = self.captum_noise(monkeypatch, forward, x, theirs)
        assert_close(found.attribution, oracle)

    def test_vargrad_in_float64(self, name, monkeypatch):
        model, _, x = prepared(name)
        found = ek.explain(model, x, TARGET, "vargrad", samples=6, noise=0.2, relative=False)
        model = model.double()
        forward = (lambda v: model(v)[0]) if name == "tuple" else model
        oracle = self.captum_noise(monkeypatch, forward, x.double(), "vargrad", absolute=False)
        assert_close(found.attribution.double(), oracle)

    @staticmethod
    def captum_noise(monkeypatch, forward, x, kind, *, absolute=True):
        noise = noise_of(x, 6).to(x)
        # Captum lays the copies of an image side by side and draws for all of them at once
        draws = (0.2 * noise).repeat(len(x), 1, 1, 1)

        def normal(_mean, std):
            assert std.shape == draws.shape
            return draws

        monkeypatch.setattr(torch, "normal", normal)
        tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(forward))
        return tunnel.attribute(
            x.clone().requires_grad_(),
            nt_type=kind,
            nt_samples=6,
            stdevs=0.2,
            target=TARGET,
            abs=absolute,
        )


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *itertools.product(["saliency", "input_x_gradient", "smoothgrad"], MODELS),
        *itertools.product(["smoothgrad_squared", "vargrad"], ["batch_norm", "vit"]),
    ],
)
def test_conformance(name, model):
    method = load_method(name)
    fields = {"samples": 5}
    few = {key: value for key, value in fields.items() if hasattr(method, key)}
    check_method(load_method(name, **few), {model: toy_models()[model]})


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (SmoothGrad, IntegratedGradients(steps=4)),
        (SmoothGradSquared, InputXGradient()),
        (VarGrad, InputXGradient()),
    ],
)
def test_noise_wraps_any_method(kind, base):
    check_method(kind(base=base, samples=3), {"plain": toy_models()["plain"]})


class TestLinear:
    """On a linear model every one of these methods has a closed form."""

    def test_gradient_is_the_weight(self, linear):
        model, x, weight = linear
        assert torch.equal(ek.explain(model, x, 2).attribution, weight[2].expand(2, -1, -1, -1))

    def test_noise_changes_nothing(self, linear):
        model, x, weight = linear
        smooth = ek.explain(model, x, 0, "smoothgrad")
        assert_close(smooth.attribution, weight[0].expand(2, -1, -1, -1))
        assert float(smooth.diagnostics["standard_error"].max()) < 1e-6


class _Quadratic(nn.Module):
    """S = Σ x², so that ∂S/∂x = 2x and noise passes straight into the map."""

    def __init__(self):
        super().__init__()
        self.eval()

    def forward(self, x):
        return x.square().flatten(1).sum(1, keepdim=True)


class TestStatistics:
    x = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(5))

    def test_smoothgrad_is_unbiased_and_its_error_bar_is_right(self):
        e = ek.explain(_Quadratic(), self.x, method="smoothgrad", samples=400, noise=0.3)
        error = e.diagnostics["standard_error"]
        sigma = 0.3 * (self.x.amax((1, 2, 3)) - self.x.amin((1, 2, 3)))
        expected = (2 * sigma / 400**0.5)[:, None, None, None].expand_as(error)
        torch.testing.assert_close(error, expected, rtol=0.15, atol=0)
        z = (e.attribution - 2 * self.x) / error
        assert float(z.abs().max()) < 4.5
        assert 0.5 < float(z[0].std()) < 1.6

    def test_squares_and_variances(self):
        sigma = 0.25
        options = {"samples": 2000, "noise": sigma, "relative": False}
        squared = ek.explain(_Quadratic(), self.x, method="smoothgrad_squared", **options)
        expected = 4 * (self.x.square() + sigma**2)
        error = squared.diagnostics["standard_error"]
        assert float(((squared.attribution - expected) / error).abs().max()) < 4.5
        variance = ek.explain(_Quadratic(), self.x, method="vargrad", **options).attribution
        torch.testing.assert_close(
            variance, torch.full_like(variance, 4 * sigma**2), rtol=4.5 * (2 / 2000) ** 0.5, atol=0
        )

    def test_vargrad_keeps_digits_that_captums_formula_loses(self):
        x = self.x + 1000
        ours = ek.explain(
            _Quadratic(), x, method="vargrad", samples=8, noise=0.01, relative=False
        ).attribution
        noise = noise_of(x, 8).double() * 0.01
        maps = 2 * (x[:, None].float() + noise.float()).double()
        truth = maps.var(1, correction=0)
        assert_close(ours.double(), truth, 1e-4)
        naive = maps.float().square().mean(1) - maps.float().mean(1).square()
        assert float((naive - truth).abs().max()) > 100 * float((ours - truth).abs().max())

    def test_seeds(self):
        a, again, b = (
            ek.explain(_Quadratic(), self.x, method="smoothgrad", samples=3, seed=seed).attribution
            for seed in (1, 1, 2)
        )
        assert torch.equal(a, again)
        assert not torch.allclose(a, b)

    def test_float64_sees_the_same_noise(self):
        one = ek.explain(_Quadratic(), self.x, method="smoothgrad", samples=3).attribution
        two = ek.explain(_Quadratic(), self.x.double(), method="smoothgrad", samples=3).attribution
        assert_close(one.double(), two)


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("smoothgrad", {"samples": 0}, "samples: expected at least 1"),
        ("smoothgrad", {"noise": -0.1}, "noise: expected"),
        ("vargrad", {"noise": float("nan")}, "noise: expected"),
    ],
)
def test_bad_parameters(method, params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, method, **params)


def test_a_model_that_cuts_the_gradient_is_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    with pytest.raises(ModelError, match="no gradient reaches them"):
        ek.explain(Cut().eval(), torch.rand(2, 1, 2, 2), 0)


def test_noise_may_differ_by_channel():
    """The mean gradient of ``Σ x³`` is ``3 (x² + σ²)``: each channel tells its own σ."""

    class Cubic(torch.nn.Module):
        def forward(self, x):
            return x.double().pow(3).flatten(1).sum(1, keepdim=True)

    x = torch.zeros(1, 3, 40, 40)
    e = ek.explain(
        Cubic().eval(), x, 1, "smoothgrad", noise=(0.0, 0.1, 0.4), samples=20, relative=False
    )
    found = (e.attribution / 3).mean((0, 2, 3))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.01, 0.16]), atol=1e-6, rtol=0.05)
    one, same = (
        ek.explain(*toy_models()["plain"], 1, method, noise=noise, samples=3).attribution
        for method, noise in (("smoothgrad", 0.2), ("smoothgrad", (0.2, 0.2, 0.2)))
    )
    torch.testing.assert_close(one, same)
    for name in ("smoothgrad", "expected_gradients"):
        with pytest.raises(
            MethodError, match="noise: expected one deviation, or one for each of 3"
        ):
            ek.explain(*toy_models()["plain"], 1, name, noise=(0.1, 0.2))
        with pytest.raises(MethodError, match="noise: expected a finite deviation"):
            ek.explain(*toy_models()["plain"], 1, name, noise=(0.1, 0.2, -1.0))
