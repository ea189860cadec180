"""Stability under noise: models whose maps are known functions of the image."""

import pytest
import torch
from metric_toys import generator, images, linear, network
from torch import nn

from explainkit.errors import ExplainkitWarning, InputError
from explainkit.metrics.robustness import max_sensitivity, relative_output_stability

METRICS = [max_sensitivity, relative_output_stability]


class Quadratic(nn.Module):
    """Half the sum of squares, and minus it: the gradient is the image."""

    def forward(self, x):
        score = x.square().flatten(1).sum(1) / 2
        return torch.stack([score, -score], 1)


def noises(x, samples, radius):
    drawn = generator(0)
    spread = radius * (x.amax((1, 2, 3), True) - x.amin((1, 2, 3), True))
    for _ in range(samples):
        yield spread * (2 * torch.rand(x.shape[1:], generator=drawn).to(x) - 1)


def test_the_map_of_a_linear_model_is_stable():
    model, _ = linear()
    for metric in METRICS:
        assert metric(model, images(), "saliency", 0).tolist() == [0, 0, 0]


def test_max_sensitivity_of_a_gradient_that_is_the_image():
    x = images()
    size = x.flatten(1).norm(dim=1)
    ratios = [noise.flatten(1).norm(dim=1) / size for noise in noises(x, 6, 0.1)]
    found = max_sensitivity(Quadratic(), x, "saliency", 0, samples=6, radius=0.1)
    torch.testing.assert_close(found, torch.stack(ratios).amax(0))


def test_relative_output_stability_of_a_gradient_that_is_the_image():
    x = images() + 0.5
    model = Quadratic()
    ratios = []
    for noise in noises(x, 6, 0.1):
        change = (noise / x).flatten(1).norm(dim=1)
        ratios.append(change / (model(x + noise) - model(x)).norm(dim=1))
    found = relative_output_stability(model, x, "saliency", 0, samples=6, radius=0.1)
    torch.testing.assert_close(found, torch.stack(ratios).amax(0))


@pytest.mark.parametrize("metric", METRICS)
def test_the_batch_changes_nothing(metric):
    model, x = network(), images(5)
    found = metric(model, x, "smoothgrad", samples=3)
    order = torch.tensor([4, 1])
    torch.testing.assert_close(metric(model, x[order], "smoothgrad", samples=3), found[order])


def test_the_predicted_class_stays_the_target():
    """At the boundary, noise changes the prediction, and the gradient with it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    x = torch.tensor([0.5, 0.5 - 1e-6, 0.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    assert max_sensitivity(model, x, "saliency", radius=0.5).item() == 0
    with pytest.warns(ExplainkitWarning, match="the noise changes the prediction"):
        flipped = [
            relative_output_stability(model, x, "saliency", samples=1, radius=0.5, seed=seed).item()
            for seed in range(8)
        ]
    assert {value == 0 for value in flipped} == {True, False}  # NaN or stable


def test_a_map_of_zeros_has_no_answer():
    model, _ = linear()
    with torch.no_grad():
        model[1].weight.zero_()
    for metric in METRICS:
        with pytest.warns(ExplainkitWarning, match="the map is zero everywhere"):
            assert metric(model, images(1), "saliency", 0).isnan().all()


def test_wrong_parameters_are_refused():
    with pytest.raises(InputError, match="samples: expected at least 1"):
        max_sensitivity(network(), images(), "saliency", samples=0)
    with pytest.raises(InputError, match="radius: expected a positive number"):
        max_sensitivity(network(), images(), "saliency", radius=0)
