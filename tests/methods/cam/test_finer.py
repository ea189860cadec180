"""Finer-CAM: a CAM of a difference of scores."""

import pytest
import torch
from cam_toys import pooled

import explainkit as ek
from explainkit.errors import MethodError, TargetError
from explainkit.methods.cam.eigen import EigenCAM
from explainkit.methods.cam.finer import FinerCAM
from explainkit.methods.cam.gradient import GradCAM, LayerCAM, XGradCAM
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 2])


def images():
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def test_definition_on_a_pooled_head():
    """The class activation map of ``w_c − α Σ p_j w_j / Σ p_j`` over the nearest scores."""
    model, x = pooled(classes=6), images()
    features, scores = model[:2](x).detach(), model(x).detach()
    ours = ek.explain(model, x, TARGET, "finercam", strength=0.7, similar=2)
    for i, c in enumerate(TARGET.tolist()):
        others = sorted(
            (j for j in range(6) if j != c), key=lambda j: abs(scores[i, j] - scores[i, c])
        )[:2]
        p = scores[i].softmax(0)[others]
        w = model[4].weight[c] - 0.7 * (p[:, None] * model[4].weight[others]).sum(0) / p.sum()
        expected = torch.einsum("k,khw->hw", w.detach(), features[i]) / 120
        torch.testing.assert_close(ours.attribution[i, 0], expected)
        assert ours.diagnostics["similar"][i].tolist() == others


@pytest.mark.parametrize("base", [GradCAM(), LayerCAM(), XGradCAM(layer="0", relu=True)])
def test_without_strength_it_is_its_base(base):
    model, x = pooled(), images()
    ours = ek.explain(model, x, TARGET, FinerCAM(base=base, strength=0.0))
    torch.testing.assert_close(ours.attribution, ek.explain(model, x, TARGET, base).attribution)


def test_what_classes_share_cancels():
    model, x = pooled(), images()
    model[4].weight.data[:, :3] = 2.0
    one = ek.explain(model, x, 1, "finercam").attribution
    model[4].weight.data[:, :3] = -7.0
    torch.testing.assert_close(ek.explain(model, x, 1, "finercam", similar=3).attribution, one)


def test_a_difference_as_expression_is_the_same_for_two_classes():
    model, x = pooled(classes=2), images()
    ours = ek.explain(model, x, 1, "finercam").attribution
    expected = ek.explain(model, x, "logit(1) - logit(0)", "gradcam").attribution
    torch.testing.assert_close(ours, expected)


def test_refusals():
    with pytest.raises(MethodError, match="base: expected a gradient CAM"):
        FinerCAM(base=EigenCAM())
    with pytest.raises(MethodError, match="similar"):
        FinerCAM(similar=0)
    with pytest.raises(MethodError, match="strength"):
        FinerCAM(strength=-1.0)
    with pytest.raises(TargetError, match="a class among others"):
        ek.explain(pooled(), images(), lambda out: out[:, 0], "finercam")
    with pytest.raises(TargetError, match="labels of a multi-label model.*: use gradcam"):
        ek.explain(pooled(), images(), 1, "finercam", task="multilabel")


def test_check_method():
    check_method("finercam", {n: m for n, m in toy_models().items() if n != "mlp"})


def test_given_classes_replace_the_most_similar():
    """By name or index, weighted by the softmax of their scores alone; twice is once."""
    model, x = pooled(classes=4), images()
    names = ["cat", "dog", "owl", "elk"]
    ours = ek.explain(model, x, 1, "finercam", against=("owl", 0, 2), class_names=names)
    p = model(x).detach()[:, [2, 0]].softmax(1)
    for i in range(4):
        text = f"logit(1) - {float(p[i, 0])!r} * logit(2) - {float(p[i, 1])!r} * logit(0)"
        expected = ek.explain(model, x[i : i + 1], text, "gradcam").attribution[0]
        torch.testing.assert_close(ours.attribution[i], expected)
        assert ours.diagnostics["similar"][i].tolist() == [2, 0]


def test_given_classes_that_cannot_be_compared_with():
    model, x = pooled(classes=4), images()
    with pytest.raises(TargetError, match="against: expected classes other than .*, got class 3"):
        ek.explain(model, x, TARGET, "finercam", against=(3,))
    with pytest.raises(TargetError, match="from 0 to 3"):
        ek.explain(model, x, 0, "finercam", against=(4,))
    with pytest.raises(MethodError, match="against: expected classes, got none"):
        FinerCAM(against=())
