"""Guided backprop and deconvnet against Captum, hand computation, and every spelling."""

import captum.attr
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.testing import check_method, toy_models

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU"),
    pytest.mark.filterwarnings("ignore:.*did not already require gradients"),
]

METHODS = {"guided_backprop": captum.attr.GuidedBackprop, "deconvnet": captum.attr.Deconvolution}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["plain", "in_place", "batch_norm", "reused", "tuple"])
def test_parity_with_captum_where_relus_are_modules(method, name):
    model, x = toy_models()[name]
    model.eval()
    flat = nn.Sequential(*model.features, nn.Flatten(), model.head) if name == "tuple" else model
    wrapped = flat.eval()
    ours = ek.explain(wrapped, x, 1, method)
    theirs = METHODS[method](wrapped).attribute(x, target=1).detach()
    if name == "tuple":  # Captum rectifies at ReLU modules only, and this network has tanh
        assert not torch.allclose(ours.attribution, theirs)
        return
    torch.testing.assert_close(ours.attribution, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_captum_gives_the_plain_gradient_of_functional_models_and_this_does_not(method):
    model, x = toy_models()["functional"]
    theirs = METHODS[method](model).attribute(x, target=1).detach()
    gradient = ek.explain(model, x, 1, "saliency").attribution
    torch.testing.assert_close(theirs, gradient)
    ours = ek.explain(model, x, 1, method)
    assert not torch.allclose(ours.attribution, gradient)
    rule = "rectified gradient" if method == "guided_backprop" else "rectified"
    assert ours.coverage["operators"]["relu"] == {rule: 2}


def test_by_hand():
    """score = −2 relu(x₁) + 3 relu(relu(x₂)): the first weight is negative, so it is cut."""

    class Net(nn.Module):
        def forward(self, x):
            a, b = x[:, 0, 0, 0], x[:, 0, 0, 1]
            return (-2 * torch.relu(a) + 3 * torch.relu(torch.relu(b)))[:, None]

    on, off = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, -1.0]]]])
    guided = ek.explain(Net().eval(), on, 1, "guided_backprop").attribution
    assert guided.flatten().tolist() == [0.0, 3.0]
    with pytest.warns(match="zero everywhere"):
        ek.explain(Net().eval(), off, 1, "guided_backprop")
    deconv = ek.explain(Net().eval(), off, 1, "deconvnet").attribution
    assert deconv.flatten().tolist() == [0.0, 3.0]


def test_residual_branches_are_rectified_each():
    model, x = toy_models()["residual"]
    e = ek.explain(model, x, 1, "guided_backprop")
    assert e.coverage["operators"]["relu"] == {"rectified gradient": 3}
    assert e.coverage["operators"]["add"] == {"gradient": 1}
    assert e.coverage["total"] == e.coverage["covered"]


def test_expressions_and_inner_layers():
    model, x = toy_models()["plain"]
    whole = ek.explain(model, x, 'neuron("3", 2, 1, 1)', "guided_backprop")
    part = nn.Sequential(*model[:4])
    wanted = captum.attr.NeuronGuidedBackprop(model, model[3]).attribute(x, (2, 1, 1)).detach()
    torch.testing.assert_close(whole.attribution, wanted)
    assert part(x).shape[1] == 8
    at = ek.explain(model, x, 1, "guided_backprop", at="1")
    assert at.attribution.shape == (4, 6, 12, 10)


@pytest.mark.parametrize("method", METHODS)
def test_keeps_the_promises(method):
    check_method(method)
