"""The minimal plugin keeps explainkit's promises and does what it says."""

import torch
from explainkit_gradxinput import GradientXInput

import explainkit as ek
from explainkit.testing import check_method, toy_models


def test_promises():
    check_method(GradientXInput())


def test_it_is_the_core_s_method_of_that_formula():
    for model, images in toy_models().values():
        model.eval()
        ours = ek.explain(model, images, 1, GradientXInput()).attribution
        core = ek.explain(model, images, 1, "explainkit/input_x_gradient").attribution
        assert torch.equal(ours, core)
