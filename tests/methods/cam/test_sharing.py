"""CAMs, and methods of the image's gradient, asked for together: one forward, one backward."""

import pytest
import torch
from cam_toys import unbiased
from torch import nn

import explainkit as ek
from explainkit.testing import toy_models

CAMS = ["gradcam", "gradcam_plus_plus", "xgradcam", "layercam", "hirescam"]
INPUT = ["saliency", "input_x_gradient"]
FREE = ["elementwise_cam", "eigengradcam", "eigencam", "kpca_cam"]


class Counting(nn.Module):
    """Counts its forwards, and the backwards that reach its first and its last layer."""

    def __init__(self, model, count):
        super().__init__()
        self.model = model
        self.count = count

    def forward(self, x):
        self.count("forward")
        out = self.model(x)
        out.register_hook(lambda _g: self.count("last"))
        if x.requires_grad:
            x.register_hook(lambda _g: self.count("first"))
        return out


def counted(methods, **options):
    passes = dict.fromkeys(("forward", "last", "first"), 0)

    def count(what):
        passes[what] += 1

    model = Counting(unbiased(), count).eval()
    x = torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    ek.explain(model, x, 0, "gradcam", batch_size=4)  # the default layer is found once
    passes.update(dict.fromkeys(passes, 0))
    found = ek.explain(model, x, options.pop("target", 1), methods, batch_size=4, **options)
    return dict(passes), found, model, x


def test_five_gradient_cams_and_input_gradients_cost_one_forward_and_one_backward():
    passes, found, model, x = counted(CAMS + FREE + INPUT)
    assert passes == {"forward": 1, "last": 1, "first": 1}
    for together in found:
        name = together.method.removeprefix("explainkit/")
        alone = ek.explain(model, x, 1, name, batch_size=4).attribution
        torch.testing.assert_close(together.attribution, alone, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", ["gradcam", "eigengradcam", "finercam"])
def test_a_cam_alone_goes_back_no_further_than_its_layer(name):
    passes, _, _, _ = counted(name)
    assert passes == {"forward": 1, "last": 1, "first": 0}


@pytest.mark.parametrize("name", ["eigencam", "kpca_cam"])
def test_methods_without_gradients_compute_none(name):
    passes, _, _, _ = counted(name)
    assert passes == {"forward": 1, "last": 0, "first": 0}


def test_every_target_has_its_own_backward_and_all_share_the_forward():
    passes, found, model, x = counted(["gradcam", "layercam"], target=None, targets=[0, 2, 3])
    assert passes == {"forward": 1, "last": 3, "first": 0}
    for together, target in zip(found[:3], (0, 2, 3), strict=True):
        alone = ek.explain(model, x, target, "gradcam", batch_size=4)
        torch.testing.assert_close(together.attribution, alone.attribution)


def test_second_order_and_differences_share_the_forward():
    passes, found, model, x = counted(["gradcam", "shapleycam", "finercam", "saliency"])
    assert passes["forward"] == 1
    for together in found:
        alone = ek.explain(model, x, 1, together.method, batch_size=4).attribution
        torch.testing.assert_close(together.attribution, alone, atol=1e-7, rtol=1e-5)


def test_attention_shares_its_forward_with_second_derivatives():
    model, x = toy_models()["vit"]
    together = ek.explain(model, x, 1, ["saliency", "shapleycam"], batch_size=4)
    for found in together:
        alone = ek.explain(model, x, 1, found.method, batch_size=4).attribution
        torch.testing.assert_close(found.attribution, alone, atol=1e-6, rtol=1e-4)


def test_a_layer_off_the_way_to_the_score_does_not_disturb_the_others():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside = nn.Conv2d(3, 4, 3)
            self.body = unbiased()

        def forward(self, x):
            return self.body(x), self.aside(x)

    x = torch.rand(2, 3, 12, 10)
    saliency, eigen = ek.explain(Aside().eval(), x, 1, ["saliency", "eigencam"], layer="aside")
    assert saliency.attribution.any()
    assert eigen.layer == "aside"
