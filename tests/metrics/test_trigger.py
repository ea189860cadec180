"""Methods with a known answer, on a network that was trained to look at a planted patch."""

import pytest
import torch
from trigger import trained_trigger, triggers

import explainkit as ek


@pytest.fixture(scope="module")
def planted():
    net, (images, labels) = trained_trigger(512, 32), triggers(30, seed=2)
    with torch.no_grad():
        assert (net(images).argmax(1) == labels).all()
    return net, images, labels


def card(planted, method, **params):
    return ek.explain(*planted, method, **params).scorecard()


@pytest.mark.parametrize("method", ["deeplift", "gradcam", "integrated_gradients"])
def test_methods_that_mark_the_patch_are_supported(planted, method):
    params = {"steps": 16} if method == "integrated_gradients" else {}
    found = card(planted, method, **params)
    assert (found.p[:, 0] <= 0.05).double().mean() >= 0.95
    assert found.verdict.count("supported") >= 27
    assert not found.low_power


@pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning")
def test_guided_backprop_recovers_the_image_and_fails(planted):
    assert (card(planted, "guided_backprop").p[:, 0] <= 0.05).double().mean() <= 0.05


def test_eigencam_finds_the_patch_but_not_the_class(planted):
    found = card(planted, "eigencam")
    assert (found.p[:, 0] <= 0.05).double().mean() >= 0.95
    assert set(found.verdict) == {"not class-specific"}
