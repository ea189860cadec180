"""Networks whose right attributions are known in closed form, and what methods say about them.

The unit tests of Lee et al. (2025), "XAI-Units: Benchmarking Explainability Methods with Unit
Tests", arXiv:2506.01059, rebuilt from the paper: each network has one behavior that is known to
mislead some methods. Features are the pixels of an image of one row, and the baseline is 0.
"""

from itertools import combinations
from math import factorial

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

import explainkit as ek
from explainkit.methods import (
    DeepLift,
    FeatureAblation,
    IntegratedGradients,
    KernelShap,
    Saliency,
    SmoothGrad,
)

pytestmark = pytest.mark.filterwarnings("ignore::explainkit.errors.ExplainkitWarning")

BIG = 100.0
WEIGHTS = torch.tensor([2.0, -1.0, 0.5, 3.0], dtype=torch.float64)


class Network(nn.Module):
    """Scores images ``[batch, 1, 1, features]`` by a function of the features, and its negative."""

    def __init__(self, score):
        super().__init__()
        self.score = score

    def forward(self, images):
        found = self.score(images.flatten(1))
        return torch.stack([found, -found], 1)


def features(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def segments(x):
    return torch.arange(x.shape[3]).view(1, -1)


def attributed(score, x, method):
    return ek.explain(Network(score).eval(), x, 0, method).attribution.flatten()


def shapley(score, x):
    """Shapley values, by their definition over all coalitions."""
    count = x.shape[3]

    def value(members):
        present = torch.zeros(count, dtype=torch.float64)
        present[list(members)] = 1
        return score(x.flatten(1) * present)[0]

    found = torch.zeros(count, dtype=torch.float64)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for members in combinations(others, size):
                found[i] += weight * (value((*members, i)) - value(members))
    return found


def close(found, *expected, atol=1e-6):
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def continuous(x):
    """A weighted sum: each feature contributes its product with its weight."""
    return x @ WEIGHTS.to(x)


def conflicting(x):
    """The second feature cancels the first: ``ReLU(3 x₁ − 100 x₂)``."""
    return relu(3 * x[:, 0] - BIG * x[:, 1])


def interacting(x):
    """The second feature, 0 or 1, switches the weight of the first from 2 to 5."""
    on = x[:, 1]
    return relu(2 * x[:, 0] - BIG * on) + relu(5 * x[:, 0] - BIG * (1 - on))


def smaller(x):
    """A continuous interaction: the smaller of two features, ``x₂ − ReLU(x₂ − x₁)``."""
    return x[:, 1] - relu(x[:, 1] - x[:, 0])


def both(x):
    """Boolean and of four features."""
    return relu(x.sum(1) - 3)


def any_of(x):
    """Boolean or of four features."""
    return 1 - relu(1 - x.sum(1))


def formula(x):
    """``(x₁ and x₂) or (x₃ and x₄)``."""
    return 1 - relu(1 - relu(x[:, 0] + x[:, 1] - 1) - relu(x[:, 2] + x[:, 3] - 1))


class Shattered(nn.Module):
    """Each feature plus a sawtooth of slopes ±10 and height 0.5: the gradient is not the trend."""

    def forward(self, x):
        return (x + self.teeth(x)).sum(1)

    @staticmethod
    def teeth(x):
        kinks = torch.arange(0, 3, 0.05, dtype=x.dtype)
        slopes = torch.full_like(kinks, 20.0)
        slopes[0], slopes[1::2] = 10.0, -20.0
        return (relu(x[..., None] - kinks) * slopes).sum(-1)


ONES = features(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("score", "x"),
    [
        (continuous, features(1.0, 2.0, -1.0, 0.5)),
        (conflicting, features(2, 1)),
        (interacting, features(3, 1)),
        (smaller, features(2, 5)),
        (both, ONES),
        (any_of, ONES),
        (formula, features(1, 1, 1, 0)),
    ],
)
def test_shapley_values_of_all_units(score, x):
    found = attributed(score, x, KernelShap(segments=segments(x), baseline=0.0))
    torch.testing.assert_close(found, shapley(score, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["input_x_gradient", IntegratedGradients(steps=4), DeepLift(), "shap", "ablation"]
)
def test_contributions_of_a_sum_are_products(method):
    x = features(1.0, 2.0, -1.0, 0.5)
    named = {
        "shap": KernelShap(segments=segments(x), baseline=0.0),
        "ablation": FeatureAblation(segments=segments(x), baseline=0.0),
    }
    found = attributed(continuous, x, named.get(method, method))
    torch.testing.assert_close(found, x.flatten() * WEIGHTS)


def test_features_that_cancel_are_seen_by_shapley_values_and_by_no_gradient():
    x = features(2, 1)
    close(attributed(conflicting, x, KernelShap(segments=segments(x), baseline=0.0)), 3, -3)
    # the unit is off along the whole path from the baseline
    close(attributed(conflicting, x, IntegratedGradients(steps=64)), 0, 0)
    close(attributed(conflicting, x, Saliency()), 0, 0)
    # without the second feature, the first would count
    ablated = attributed(conflicting, x, FeatureAblation(segments=segments(x), baseline=0.0))
    close(ablated, 0, -6)


def test_a_switch_shares_what_it_changes():
    x = features(3, 1)
    # ½ (2 + 5) · 3 and ½ (5 − 2) · 3
    close(attributed(interacting, x, KernelShap(segments=segments(x), baseline=0.0)), 10.5, 4.5)
    ablated = attributed(interacting, x, FeatureAblation(segments=segments(x), baseline=0.0))
    close(ablated, 15, 9)
    path = attributed(interacting, x, IntegratedGradients(steps=512))
    assert float(path.sum()) == pytest.approx(15, abs=0.5)


def test_the_smaller_of_two_gets_all_along_the_path_and_half_of_it_by_shapley():
    x = features(2, 5)
    close(attributed(smaller, x, IntegratedGradients(steps=16)), 2, 0)
    close(attributed(smaller, x, KernelShap(segments=segments(x), baseline=0.0)), 1, 1)


def test_boolean_units():
    for score in (both, any_of):
        shap = attributed(score, ONES, KernelShap(segments=segments(ONES), baseline=0.0))
        close(shap, *[0.25] * 4)
        # a gradient is on for a quarter of the path: at its end, or at its beginning
        path = attributed(score, ONES, IntegratedGradients(steps=400))
        close(path, *[0.25] * 4, atol=0.003)
    ablation = FeatureAblation(segments=segments(ONES), baseline=0.0)
    close(attributed(both, ONES, ablation), 1, 1, 1, 1)
    close(attributed(any_of, ONES, ablation), 0, 0, 0, 0)  # one of several is enough
    close(attributed(any_of, features(1, 0, 0, 0), ablation), 1, 0, 0, 0)


def test_a_shattered_gradient_is_averaged_by_paths_and_noise():
    x = features(1.013, 2.038)
    network = Shattered()
    truth = x.flatten() + network.teeth(x.flatten())
    slope = attributed(network, x, Saliency())
    assert (slope - 1).abs().min() > 9
    assert (attributed(network, x, "input_x_gradient") - truth).abs().min() > 5
    path = attributed(network, x, IntegratedGradients(steps=1000))
    torch.testing.assert_close(path, truth, rtol=0, atol=0.05)
    torch.testing.assert_close(attributed(network, x, DeepLift()), truth, rtol=1e-6, atol=1e-6)
    smooth = attributed(network, x, SmoothGrad(samples=256))
    assert (smooth - 1).abs().max() < 2.5


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", IntegratedGradients(steps=50)])
def test_what_all_classes_share_does_not_move_a_probability(method):
    class Shared(nn.Module):
        """The last feature adds to the logits of all classes alike."""

        def forward(self, images):
            x = images.flatten(1)
            return (x[:, :3] * torch.tensor([2.0, 1.0, 3.0]).to(x) + 7 * x[:, 3:]).softmax(1)

    x = features(0.4, 0.9, 0.2, 1.5)
    found = ek.explain(Shared().eval(), x, 0, method).attribution.flatten()
    assert float(found[3].abs()) < 1e-12
    assert float(found[0]) > 1e-3
    assert float(found[1]) < -1e-3


def test_a_feature_that_matters_by_its_absence_needs_a_baseline_of_presence():
    def absent(x):
        """A feature adds 5 where it is 0."""
        return 2 * x[:, 0] + 5 * (1 - x[:, 1])

    x = features(3, 0)
    close(attributed(absent, x, IntegratedGradients(steps=8)), 6, 0)
    present = IntegratedGradients(steps=8, baseline=features(0, 1))
    close(attributed(absent, x, present), 6, 5)
    close(attributed(absent, x, DeepLift(baseline=features(0, 1))), 6, 5)
