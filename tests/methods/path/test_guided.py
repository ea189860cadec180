"""Guided integrated gradients against the paper's algorithm, written out for one image."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError, ModelError
from explainkit.methods.path.guided import GuidedIG
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.methods.path.straight_line import line_integral
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 4])


def papers_path(gradient, image, baseline, steps, fraction, max_dist):
    """The points of the path of one image, in the space of images."""
    point = baseline.copy()
    points = [point.copy()]
    total = np.abs(image - baseline).sum()
    for step in range(1, steps + 1):
        along = step / steps
        near = baseline + max(along - max_dist, 0) * (image - baseline)
        far = baseline + min(along + max_dist, 1) * (image - baseline)
        size = np.abs(gradient(point))
        behind = np.abs(point - baseline) < np.abs(near - baseline)
        point[behind] = near[behind]
        while True:
            size[np.isclose(point, far, rtol=0, atol=1e-12)] = np.inf
            missing = np.abs(image - point).sum() - total * (1 - along)
            if missing <= 1e-9:
                break
            threshold = np.quantile(size, fraction, method="lower")
            chosen = (size <= threshold) & np.isfinite(size)
            share = min(1.0, missing / np.abs(far - point)[chosen].sum())
            point[chosen] += share * (far - point)[chosen]
        points.append(point.copy())
    return np.stack(points)


@pytest.mark.parametrize("name", ["plain", "mlp", "vit"])
@pytest.mark.parametrize(("fraction", "max_dist"), [(0.25, 0.02), (0.1, 0.3), (0.5, 1.0)])
def test_the_paths_are_the_papers(name, fraction, max_dist):
    model, x = toy_models()[name]
    model, x = model.double(), x[:2].double() - 0.4
    x[:, :, 0] = 0.1  # values that have nowhere to go
    method = GuidedIG(baseline=0.1, steps=20, fraction=fraction, max_dist=max_dist)
    ours = torch.stack([visit.points for visit in method.walk(model, x, TARGET[:2])], 1)

    for image, path, label in zip(x, ours, TARGET, strict=False):

        def gradient(point, label=label):
            leaf = torch.from_numpy(point)[None].requires_grad_()
            return torch.autograd.grad(model(leaf)[0, label], leaf)[0][0].numpy().copy()

        start = np.full(image.shape, 0.1)
        theirs = papers_path(gradient, image.numpy(), start, 20, fraction, max_dist)
        torch.testing.assert_close(path, torch.from_numpy(theirs), atol=1e-8, rtol=0)


def test_completeness(toy):
    model, forward, x, target = toy
    e = ek.explain(model, x, target, "guided_ig", steps=60, baseline=0.2)
    with torch.no_grad():
        scores = forward(x) - forward(torch.full_like(x, 0.2))
    change = scores.gather(1, target[:, None])[:, 0]
    gap = (e.attribution.sum((1, 2, 3)) - change).abs() / change.abs().clamp(min=0.05)
    torch.testing.assert_close(e.diagnostics["completeness_gap"].float(), gap, atol=1e-4, rtol=1e-3)
    assert float(gap.max()) < 0.02


def test_both_ends_of_a_step_leave_a_smaller_gap_than_its_start():
    model, x = toy_models()["vit"]
    visits = list(GuidedIG(steps=40).walk(model, x, TARGET))
    change = visits[-1].scores - visits[0].scores
    start = sum(((b.points - a.points) * a.gradients).sum((1, 2, 3)) for a, b in pairwise(visits))
    ends = line_integral(visits, torch.float32).values.sum((1, 2, 3))
    assert bool(((ends - change).abs() < (start - change).abs() / 10).all())


def test_a_short_leash_is_the_straight_path():
    model, x = toy_models()["plain"]
    guided = ek.explain(model, x, TARGET, GuidedIG(max_dist=0.0, steps=12)).attribution
    straight = line_integral(IntegratedGradients(steps=12).walk(model, x, TARGET), x.dtype).values
    torch.testing.assert_close(guided, straight, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 9])
def test_closed_forms(quadratic, steps):
    """Exact on a linear model, complete on a quadratic one, at any number of steps."""
    x = torch.rand(2, 3, 12, 10)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).eval()
    weight = linear[1].weight.detach()[1].reshape(3, 12, 10)
    e = ek.explain(linear, x, 1, "guided_ig", steps=steps, baseline=0.5)
    torch.testing.assert_close(e.attribution, (x - 0.5) * weight, atol=1e-6, rtol=1e-4)
    e = ek.explain(quadratic, x, 1, method="guided_ig", steps=steps, max_dist=0.4)
    assert float(e.diagnostics["completeness_gap"].max()) < 1e-5


def test_values_of_no_use_yet_go_first():
    """S = x₀ (x₁ − x₀) + 3 x₁: on the straight path the gradients of x₀ cancel."""

    class Saddle(nn.Module):
        def forward(self, x):
            one, other = x.flatten(1).unbind(1)
            return (torch.relu(one) * torch.relu(other - one) + 3 * other)[:, None]

    x = torch.ones(1, 1, 1, 2)
    model = Saddle().eval()
    free = ek.explain(model, x, 1, method="guided_ig", max_dist=1.0, fraction=0.5).attribution
    assert float(free[0, 0, 0, 0].abs()) < 0.02
    torch.testing.assert_close(free.sum(), torch.tensor(3.0), atol=0.02, rtol=0)


@pytest.mark.parametrize("model", sorted(toy_models()))
def test_conformance(model):
    check_method(GuidedIG(steps=6), {model: toy_models()[model]})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"fraction": 0.0}, "fraction: expected a number above 0 and at most 1"),
        ({"max_dist": 1.1}, "max_dist: expected at least 0 and at most 1"),
        ({"baseline": torch.zeros(2)}, r"baseline: expected .* got \[2\]"),
    ],
)
def test_bad_parameters(params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, "guided_ig", **params)


def test_a_model_that_cuts_the_gradient_is_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    with pytest.raises(ModelError, match="no gradient reaches them"):
        ek.explain(Cut().eval(), torch.rand(2, 1, 2, 2), 0, "guided_ig")
