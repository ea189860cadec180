"""Conductance: its quadrature rules."""

import pytest
import torch
from torch.autograd.function import once_differentiable

import explainkit as ek
from explainkit.errors import ExplainkitWarning, MethodError
from explainkit.methods.path.conductance import Conductance
from explainkit.testing import toy_models


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


class Powers(torch.nn.Module):
    """S = Σ y³ with y = x², observed at the layer ``square``: a path integral of known degree."""

    class Square(torch.nn.Module):
        def forward(self, x):
            return x.square()

    def __init__(self):
        super().__init__()
        self.square = self.Square()

    def forward(self, x):
        return self.square(x).pow(3).flatten(1).sum(1, keepdim=True)


def test_gauss_nodes_integrate_the_derivative_of_the_layer():
    """``3 α⁴ x⁴ · 2 α x²`` is a polynomial of degree 5 in α: three nodes are exact, ``c = x⁶``."""
    model, x = Powers().eval(), torch.rand(2, 1, 3, 2) + 0.5
    e = ek.explain(model, x, 1, "conductance", layer="square", steps=3, rule="gausslegendre")
    assert relative(e.attribution, x**6) < 1e-5
    with pytest.warns(ExplainkitWarning, match="completeness_gap"):
        rough = ek.explain(model, x, 1, "conductance", layer="square", steps=3)
    assert float((rough.attribution - x**6).abs().max()) > 0.01


def test_both_rules_agree_on_a_network():
    model, x = toy_models()["mlp"]
    fine, gauss = (
        ek.explain(model, x[:1], 1, "conductance", layer="1", steps=steps, rule=rule)
        for steps, rule in ((400, "trapezoid"), (12, "gausslegendre"))
    )
    assert relative(gauss.attribution, fine.attribution) < 1e-3
    assert float(gauss.diagnostics["completeness_gap"].max()) < 1e-3


def test_an_operator_without_a_second_derivative_is_named():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Identity()

        def forward(self, x):
            return self.layer(Own.apply(x)).flatten(1)

    x = torch.rand(1, 1, 2, 2)
    with pytest.raises(MethodError, match="use rule='trapezoid'"):
        ek.explain(Net().eval(), x, 0, "conductance", layer="layer", rule="gausslegendre")
    e = ek.explain(Net().eval(), x, 0, "conductance", layer="layer")
    torch.testing.assert_close(e.attribution.sum(), 2 * x[0, 0, 0, 0])


def test_refusals():
    with pytest.raises(MethodError, match="steps: expected at least 2"):
        Conductance("0", steps=1, rule="riemann_trapezoid")
    with pytest.raises(MethodError, match="rule: expected one of"):
        Conductance("0", rule="simpson")
