"""Test-time augmentation of class activation maps."""

import pytest
import torch
from cam_toys import pooled, unbiased
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods import AugSmooth, FinerCAM, GradCAM, Saliency, ScoreCAM
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 2])


def images():
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("base", [GradCAM(relu=True), FinerCAM(), ScoreCAM(), "layer"])
def test_it_is_the_mean_over_the_copies(base):
    base = GradCAM(layer="0", placement="layer") if base == "layer" else base
    model, x = pooled(), images()
    ours = ek.explain(model, x, TARGET, AugSmooth(base, scales=(0.5, 1.0)))
    copies = [(s * one, s, flip) for s in (0.5, 1.0) for flip, one in ((0, x), (1, x.flip(3)))]
    maps = [ek.explain(model, one, TARGET, base).attribution for one, _, _ in copies]
    maps = [one.flip(3) if flip else one for one, (_, _, flip) in zip(maps, copies, strict=True)]
    torch.testing.assert_close(ours.attribution, torch.stack(maps).mean(0))
    assert ours.at == ("0" if base == GradCAM(layer="0", placement="layer") else None)


def test_the_map_of_a_mirrored_image_is_mirrored():
    model, x = unbiased(), images()
    base = GradCAM(placement="stretch")
    for method, symmetric in ((base, False), (AugSmooth(base), True)):
        one, other = (ek.explain(model, y, 1, method).attribution for y in (x, x.flip(3)))
        assert torch.allclose(one, other.flip(3), atol=1e-6) == symmetric


def test_all_copies_explain_the_class_of_the_image_and_one_shares_its_forward():
    x, passes = images(), []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = pooled()

        def forward(self, x):
            passes.append(len(x))
            return self.model(x)

    model = Counting().eval()
    ek.explain(model, x, 0, "gradcam", batch_size=4)  # the default layer is found once
    passes.clear()
    ours = ek.explain(model, x, None, "aug_smooth", batch_size=4)
    assert passes == [4] * 6
    assert torch.equal(ours.target, ours.predicted)
    own = ek.explain(model, x, ours.target, "aug_smooth", batch_size=4)
    assert torch.equal(own.attribution, ours.attribution)


def test_without_copies_it_is_its_base():
    model, x = pooled(), images()
    ours = ek.explain(model, x, TARGET, "aug_smooth", flip=False, scales=(1.0,))
    assert torch.equal(ours.attribution, ek.explain(model, x, TARGET, "gradcam").attribution)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"base": Saliency()}, "base: expected a class activation map"),
        ({"scales": ()}, "scales: expected finite numbers, at least one"),
        ({"scales": (1.0, float("inf"))}, "scales: expected finite numbers"),
    ],
)
def test_refusals(params, message):
    with pytest.raises(MethodError, match=message):
        AugSmooth(**params)


def test_check_method():
    check_method("aug_smooth", {n: m for n, m in toy_models().items() if n in {"plain", "vit"}})
