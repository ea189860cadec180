"""Units that prefer uniform images to patterns, and units behind inactive ReLUs."""

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.activation_maximization import rectifiers
from explainkit.activation_maximization.optimize import Fourier
from explainkit.interfaces import ModelSpec
from explainkit.results.visualization import has_converged

SHAPE = (1, 12, 12)


def blob(bias):
    """Two ReLU units: one activated by dark pixels everywhere, one by an edge."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight[0].fill_(-0.1)
        model[0].weight[1].copy_(torch.tensor([[-1.0, 0.0, 1.0]] * 3) / 3)
        model[0].bias.copy_(torch.tensor([bias, 0.0]))
    return model


def spec_of(model):
    model.explainkit_spec = ModelSpec(
        build=lambda: model, image_shape=SHAPE, mean=(0.5,), std=(0.25,)
    )
    return model


@pytest.mark.parametrize("maximizer", ["fourier", "pixel", "pyramid", "cppn", "plain"])
@pytest.mark.parametrize("bias", [-1.0, -1.7])
def test_no_uniform_image_scores_higher(maximizer, bias):
    """−1.7: zero for all but the darkest images; black gives 0.1. The first gradient is zero."""
    model = spec_of(blob(bias))
    found = ek.maximize(model, 'channel("1", 0)', maximizer=maximizer, steps=40)
    black = model(torch.full((1, *SHAPE), -2.0))[0, 0].detach().mean()
    assert not found.dead.any()
    assert float(found.score) > 0.97 * float(black) > 0


def test_a_unit_above_every_uniform_image_is_optimized_once(monkeypatch):
    calls = []
    optimize = Fourier.__call__

    def count(self, problem):
        calls.append(problem.flat)
        return optimize(self, problem)

    monkeypatch.setattr(Fourier, "__call__", count)
    model = spec_of(blob(-1.0))
    ek.maximize(model, 'channel("1", 1)', steps=20)
    assert calls == [None]
    ek.maximize(model, 'channel("1", 0)', steps=3)
    assert [flat is None for flat in calls] == [True, True, False]
    assert torch.equal(calls[2].unique(), torch.tensor([-2.0]))


def test_the_second_run_does_not_depend_on_the_batch():
    model = spec_of(blob(-1.0))
    whole = ek.maximize(model, 'channels("1")', steps=10)
    for unit in range(2):
        alone = ek.maximize(model, f'channel("1", {unit})', steps=10)
        assert torch.equal(alone.images[0], whole.images[unit])
        assert torch.equal(alone.trace[:, 0], whole.trace[:, unit])


def test_gradients_are_redirected_only_where_a_relu_is_inactive():
    torch.manual_seed(0)
    x = torch.randn(3, 4, requires_grad=True)
    weight = torch.tensor([1.0, -1.0, 2.0, 0.5])
    scores = (x.relu() * weight).sum(1)
    passed = rectifiers.redirect(scores)
    (found,) = torch.autograd.grad(scores.sum(), x)
    raised = torch.where((x > 0) | (weight > 0), weight, 0)
    assert torch.equal(found, raised)
    assert torch.equal(passed, ((x < 0) & (weight > 0)).any(1))


def test_inner_relus_redirect_only_where_no_gradient_passes():
    inner = torch.tensor([[-1.0, -2.0], [1.0, -2.0]], requires_grad=True)
    scores = (inner.relu().sum(1, keepdim=True) + 1).relu().sum(1)
    passed = rectifiers.redirect(scores)
    (found,) = torch.autograd.grad(scores.sum(), inner)
    assert torch.equal(found, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert passed.tolist() == [True, False]


def test_a_channel_is_redirected_only_if_it_is_inactive_everywhere():
    maps = torch.tensor([[[[-1.0, 2.0]], [[-1.0, -2.0]]], [[[-1.0, -2.0]], [[1.0, -2.0]]]])
    maps.requires_grad_()
    # the first score increases with both channels, the second with 1 and decreases with 0
    scores = (maps.relu() * torch.tensor([[1.0, 1.0], [-1.0, 1.0]])[..., None, None]).sum((1, 2, 3))
    passed = rectifiers.redirect(scores)
    (found,) = torch.autograd.grad(scores.sum(), maps)
    assert found.flatten(1).tolist() == [[0, 1, 1, 1], [0, 0, 1, 0]]
    assert passed.tolist() == [True, False]


def test_a_relu_with_another_batch_size_is_not_redirected():
    maps = torch.full((6, 3), -1.0, requires_grad=True)
    scores = maps.relu().reshape(2, 9).sum(1)
    passed = rectifiers.redirect(scores)
    (found,) = torch.autograd.grad(scores.sum(), maps)
    assert not found.any()
    assert not passed.any()


@pytest.mark.parametrize("bias", [-1.0, -1.3])
def test_a_unit_that_is_zero_for_every_random_image_is_activated(bias):
    """Zero below an edge of half the maximum contrast, which random images reach only by chance."""
    model = spec_of(blob(-1.0))
    with torch.no_grad():
        model[0].bias[1] = bias
    found = ek.maximize(model, 'channel("1", 1)', steps=48)
    noise = torch.randn(500, *SHAPE, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    activations = model(torch.cat([found.images, noise])).detach().mean((2, 3))[:, 1]
    assert float(activations[0]) > 2 * float(activations[1:].max()) > 0


def test_a_unit_with_some_inactive_hidden_relus_is_not_dead_after_one_step():
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 3)
    found = ek.maximize(nn.Sequential(*layers).eval(), "classes()", shape=SHAPE, steps=1)
    assert not found.dead.any()


def test_convergence_is_measured_relative_to_the_noise():
    steps = torch.linspace(0, 1, 200)[:, None]
    noise = 0.1 * torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    flat, rising = 1 - torch.exp(-40 * steps), steps
    assert has_converged(flat + noise).float().mean() > 0.9
    assert not has_converged(rising + noise).any()
    assert has_converged(torch.ones(1, 2)).all()
