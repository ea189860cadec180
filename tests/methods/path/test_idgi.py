"""IDGI: the telescoping sum, closed forms, every path."""

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.gradient import Saliency
from explainkit.methods.path.blur import BlurIG
from explainkit.methods.path.guided import GuidedIG
from explainkit.methods.path.idgi import IDGI
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.testing import check_method, toy_models

PATHS = [IntegratedGradients(steps=1), IntegratedGradients(steps=7), BlurIG(steps=5),
         GuidedIG(steps=5)]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_completeness_at_any_number_of_steps(toy, path):
    model, forward, x, target = toy
    e = ek.explain(model, x, target, IDGI(path=path))
    start = next(iter(path.walk(forward if isinstance(forward, nn.Module) else _First(model),
                                x, target))).points  # fmt: skip
    with torch.no_grad():
        change = (forward(x) - forward(start)).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(e.attribution.sum((1, 2, 3)), change, atol=1e-5, rtol=1e-4)
    assert float(e.diagnostics["completeness_gap"].max()) < 1e-4


class _First(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)[0]


def test_a_linear_model_has_a_closed_form():
    """Every gradient is w, so that the whole change is shared out by w²."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).eval()
    x = torch.rand(2, 3, 12, 10)
    e = ek.explain(model, x, 1, "idgi")
    weight = model[1].weight.detach()[1].reshape(3, 12, 10)
    change = (x * weight).sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(
        e.attribution, weight.square() / weight.square().sum() * change, atol=1e-6, rtol=1e-4
    )


def test_the_papers_sum_step_by_step(quadratic):
    """S = Σ w x² + v x on the straight path, with the sum written out."""
    x, steps = torch.rand(2, 3, 12, 10).double(), 6
    model = quadratic.double()
    found = ek.explain(model, x, 1, method=IDGI(path=IntegratedGradients(steps=steps))).attribution
    expected = torch.zeros_like(x)
    for k in range(steps):
        point, after = x * k / steps, x * (k + 1) / steps
        gradient = 2 * model.w * point + model.v
        share = gradient.square() / gradient.square().sum((1, 2, 3), keepdim=True)
        expected += share * (model(after) - model(point))[..., None, None]
    torch.testing.assert_close(found, expected)


class _Threshold(nn.Module):
    """Flat until the sum of the image reaches 1: the path starts without a gradient."""

    def forward(self, x):
        return torch.relu((x * torch.arange(1.0, 5.0).to(x)).sum((1, 2, 3)) - 1)[:, None]


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_flat_start_loses_nothing(steps):
    x = torch.full((1, 1, 1, 4), 0.7)
    e = ek.explain(_Threshold().eval(), x, method=IDGI(path=IntegratedGradients(steps=steps)))
    share = torch.arange(1.0, 5.0).square() / 30
    torch.testing.assert_close(e.attribution.flatten(), share * 6.0)


def test_tiny_gradients_do_not_vanish():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(-model[1].weight.abs() * 1e-25)
    x = torch.rand(1, 1, 2, 2)
    a = ek.explain(model, x, 1, "idgi").attribution
    torch.testing.assert_close(a.sum() * 1e25, model(x)[0, 0].detach() * 1e25)


def test_the_path_may_be_named():
    model, x = toy_models()["plain"]
    e = ek.explain(model, x, 0, "idgi", path="guided_ig")
    assert e.params["path"]["method"] == "explainkit/guided_ig"


def test_a_method_without_a_path_is_refused():
    with pytest.raises(MethodError, match=r"path: expected .* got Saliency"):
        IDGI(path=Saliency())


@pytest.mark.parametrize("model", sorted(toy_models()))
def test_conformance(model):
    check_method(IDGI(path=IntegratedGradients(steps=5)), {model: toy_models()[model]})


def test_conformance_on_other_paths():
    for path in (BlurIG(steps=4), GuidedIG(steps=4)):
        check_method(IDGI(path=path), {"plain": toy_models()["plain"]})
