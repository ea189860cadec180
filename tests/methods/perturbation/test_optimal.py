"""Optimized masks on models whose answer is known."""

import pytest
import torch
from games import linear_model
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError, ModelError
from explainkit.methods.perturbation.optimal import (
    ExtremalPerturbation,
    MeaningfulPerturbation,
    smooth_maximum,
)
from explainkit.testing import check_method, toy_models


class _Patches(nn.Module):
    """One patch raises the score of class 0, another lowers it."""

    def forward(self, x):
        spoken = x[:, 0, 10:14, 15:19].mean((1, 2)) * 4 - x[:, 0, 2:5, 2:5].mean((1, 2))
        return torch.stack([spoken, -spoken], 1)


X = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize("method", ["meaningful_perturbation", "extremal_perturbation"])
def test_the_patch_that_raises_the_score(method):
    e = ek.explain(_Patches().eval(), X, 0, method, steps=150, baseline=0.0)
    found = e.attribution[0, 0]
    assert float(found[10:14, 15:19].mean()) > 0.9
    assert float(found[2:5, 2:5].mean()) < 0.05
    assert float(found.mean()) < 0.2


@pytest.mark.parametrize("area", [0.05, 0.3])
def test_the_area_is_kept(area):
    model, _ = linear_model((1, 24, 24))
    e = ek.explain(model, X, 0, ExtremalPerturbation(area=area, steps=200, area_weight=20.0))
    assert float(e.attribution.mean()) == pytest.approx(area, abs=0.03)


def test_the_smooth_maximum_is_one_of_the_bumps():
    coarse = torch.zeros(1, 1, 7, 6)
    coarse[0, 0, 3, 2] = 1
    mask = smooth_maximum(coarse, 4.0, 2, sharpness=200.0)[0, 0]
    rows, columns = torch.arange(14)[:, None] - 6.5, torch.arange(12) - 4.5
    distance = (rows.square() + columns.square()).sqrt() / 4
    expected = (-2 * (distance - 0.5).clamp(min=0).square()).exp()
    near = (rows.abs() <= 8) & (columns.abs() <= 8)
    torch.testing.assert_close(mask[near], expected[near], atol=0.02, rtol=0)
    assert torch.allclose(smooth_maximum(torch.ones(2, 1, 5, 5), 3.0, 2), torch.ones(()), atol=0.02)


def test_a_model_without_gradients_is_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    with pytest.raises(ModelError, match="use a method that needs none, such as rise"):
        ek.explain(Cut().eval(), torch.rand(1, 1, 8, 8), 0, "meaningful_perturbation")


@pytest.mark.parametrize("kind", ["plain", "batch_norm", "tuple", "vit"])
@pytest.mark.parametrize("method", [MeaningfulPerturbation, ExtremalPerturbation])
def test_conformance(method, kind):
    check_method(method(steps=5), {kind: toy_models()[kind]})


@pytest.mark.parametrize("method", [MeaningfulPerturbation, ExtremalPerturbation])
def test_many_steps_do_not_depend_on_the_neighbors(method):
    model, x = toy_models()["vit"]
    together = ek.explain(model, x, 1, method(steps=40)).attribution
    alone = ek.explain(model, x[2:3], 1, method(steps=40)).attribution
    assert torch.equal(together[2:3], alone)


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        (MeaningfulPerturbation, {"steps": 0}, "steps: expected at least 1"),
        (MeaningfulPerturbation, {"lr": 0.0}, "lr: expected a number above 0"),
        (ExtremalPerturbation, {"area": 1.0}, "area: expected a number above 0 and below 1"),
        (ExtremalPerturbation, {"sigma": -1.0}, "sigma: expected a number above 0"),
    ],
)
def test_bad_parameters(method, params, message):
    with pytest.raises(MethodError, match=message):
        method(**params)
