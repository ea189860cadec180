"""Guided Grad-CAM: a product of two maps from one forward."""

import captum.attr
import pytest
import torch
from cam_toys import pooled, unbiased

import explainkit as ek
from explainkit.errors import ExplainkitWarning, MethodError
from explainkit.methods.cam.eigen import EigenCAM
from explainkit.methods.cam.gradient import GradCAM, LayerCAM
from explainkit.methods.cam.guided import GuidedGradCAM
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 2])


def images():
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "base", [GradCAM(relu=True), LayerCAM(layer="1", upsample="nearest", placement="stretch")]
)
@pytest.mark.filterwarnings("ignore:.*nowhere positive", "ignore:.*zero everywhere")
def test_is_the_product(base):
    for model, x in ((unbiased(), images()), (toy_models()["vit"][0], images())):
        if base.layer and "patches" in dict(model.named_modules()):
            continue
        ours = ek.explain(model, x, TARGET, GuidedGradCAM(base=base))
        guided = ek.explain(model, x, TARGET, "guided_backprop")
        cam = ek.explain(model, x, TARGET, base)
        torch.testing.assert_close(ours.attribution, guided.attribution * cam.attribution)
        assert ours.layer == cam.layer
        for name in ("convolution", "relu", "gelu"):
            operators = [e.coverage["operators"].get(name) for e in (ours, guided)]
            assert operators[0] == operators[1]


@pytest.mark.filterwarnings("ignore:.*nowhere positive", "ignore:Setting backward hooks")
def test_captum():
    model, x = unbiased(), images()
    ours = ek.explain(
        model,
        x,
        TARGET,
        GuidedGradCAM(base=GradCAM(layer="2", relu=True, upsample="nearest", placement="stretch")),
    )
    oracle = captum.attr.GuidedGradCam(model, model[2]).attribute(
        x.clone().requires_grad_(), TARGET
    )
    torch.testing.assert_close(ours.attribution, oracle.detach(), atol=1e-7, rtol=1e-5)


def test_one_forward():
    count = []
    model, method = unbiased(), GuidedGradCAM(base=GradCAM(layer="3"))
    ek.explain(model, images(), TARGET, method, batch_size=4)  # what the layer sees is found once
    model.register_forward_hook(lambda *_: count.append(1))
    ek.explain(model, images(), TARGET, method, batch_size=4)
    assert len(count) == 1


def test_evidence_against_the_class_is_said_to_be_cut():
    model, x = pooled(), images()
    model[4].weight.data.abs_().neg_()
    with pytest.warns(ExplainkitWarning) as caught:
        ek.explain(model, x, 0, "guided_gradcam")
    assert any("nowhere positive in some image, so relu=True" in str(w.message) for w in caught)


def test_refusal():
    with pytest.raises(MethodError, match="base: expected a gradient CAM"):
        GuidedGradCAM(base=EigenCAM())


def test_check_method():
    names = ("functional", "in_place", "tuple", "vit")
    check_method(GuidedGradCAM(base=GradCAM()), {n: toy_models()[n] for n in names})
