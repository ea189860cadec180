"""The minimal plugin meets the requirements of a method and computes its formula."""

import torch
from explainkit_gradxinput import GradientXInput

import explainkit as ek
from explainkit.testing import check_method, toy_models


def test_requirements():
    check_method(GradientXInput())


def test_it_equals_the_method_of_the_core():
    for model, images in toy_models().values():
        model.eval()
        ours = ek.explain(model, images, 1, GradientXInput()).attribution
        core = ek.explain(model, images, 1, "explainkit/input_x_gradient").attribution
        assert torch.equal(ours, core)
