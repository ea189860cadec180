"""Gradient CAMs against closed forms, their axioms, their definitions by hand, and Captum."""

import captum.attr
import pytest
import torch
from cam_toys import pooled, unbiased
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import ExplainkitWarning, MethodError, ModelError
from explainkit.methods.cam.gradient import (
    ElementwiseCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from explainkit.testing import check_method, toy_models

METHODS = {
    "gradcam": GradCAM, "gradcam_plus_plus": GradCAMPlusPlus, "xgradcam": XGradCAM,
    "layercam": LayerCAM, "hirescam": HiResCAM, "elementwise_cam": ElementwiseCAM,
}  # fmt: skip
TARGET = torch.tensor([0, 3, 1, 2])
CONVOLUTIONAL = {n: m for n, m in toy_models().items() if n not in {"mlp", "vit"}}


def images(seed=5):
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def slopes(model, layers, x, target=TARGET):
    """Outputs of layers and their gradients, by autograd alone."""
    kept = {}
    hooks = [
        dict(model.named_modules())[name].register_forward_hook(
            lambda _m, _i, out, name=name: (kept.__setitem__(name, out), out.clone())[1]
        )
        for name in layers
    ]
    out = model(x.clone().requires_grad_())
    for hook in hooks:
        hook.remove()
    out = out[0] if isinstance(out, tuple) else out
    found = torch.autograd.grad(out.gather(1, target[:, None]).sum(), [kept[n] for n in layers])
    return [kept[n].detach() for n in layers], list(found)


def by_hand(name, a, g):
    """The definitions, one image and one channel after the other."""
    maps = []
    for A, G in zip(a, g, strict=True):
        total = torch.zeros_like(A[0])
        for k in range(len(A)):
            match name:
                case "gradcam":
                    total += G[k].mean() * A[k]
                case "gradcam_plus_plus":
                    weight = 0.0
                    for p in (G[k] != 0).nonzero():
                        d = G[k][tuple(p)]
                        alpha = d**2 / (2 * d**2 + A[k].sum() * d**3)
                        weight += float(alpha * d.clamp(min=0))
                    total += weight * A[k]
                case "xgradcam":
                    if A[k].sum() != 0:
                        total += (G[k] * A[k] / A[k].sum()).sum() * A[k]
                case "layercam":
                    total += G[k].relu() * A[k]
                case "hirescam":
                    total += G[k] * A[k]
                case "elementwise_cam":
                    total += (G[k] * A[k]).relu()
        maps.append(total)
    return torch.stack(maps)[:, None]


def large(small, mode="bilinear"):
    options = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(small, (12, 10), mode=mode, **options)


def assert_close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("toy", "layer"),
    [
        ("plain", "1"),
        ("in_place", "1"),
        ("in_place", "2"),
        ("residual", "branch.1"),
        ("tuple", "features.1"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Grad-CAM")
def test_definition(name, toy, layer):
    model, _ = toy_models()[toy]
    x = images().double()
    model.double()
    a, g = slopes(model, [layer], x)
    ours = ek.explain(model, x, TARGET, name, layer=layer, placement="stretch")
    assert_close(ours.attribution, large(by_hand(name, a[0], g[0])), 1e-10)
    assert ours.layer == layer


def test_in_place_layer_is_seen_before_it_is_overwritten():
    model, _ = toy_models()["in_place"]
    plain = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU) else m for m in model)).eval()
    for layer in ("0", "2"):
        one, other = (ek.explain(m, images(), 1, "gradcam", layer=layer) for m in (model, plain))
        assert torch.equal(one.attribution, other.attribution)
        assert bool((one.attribution < 0).any())


class TestClosedForms:
    def test_pooled_head_gives_the_class_activation_map(self):
        model, x = pooled(), images()
        features = model[:2](x).detach()
        cam = torch.einsum("bk,bkhw->bhw", model[4].weight[TARGET], features)[:, None].detach()
        ours = ek.explain(model, x, TARGET, "gradcam").attribution
        assert_close(ours, cam / 120)
        score = model(x).gather(1, TARGET[:, None])[:, 0] - model[4].bias[TARGET]
        torch.testing.assert_close(ours.sum((1, 2, 3)), score.detach())

    @pytest.mark.parametrize("name", ["xgradcam", "hirescam"])
    def test_pooled_head_is_the_same_for_all_that_conserve(self, name):
        model, x = pooled(), images()
        gradcam = ek.explain(model, x, TARGET, "gradcam").attribution
        assert_close(ek.explain(model, x, TARGET, name).attribution, gradcam)

    def test_hirescam_is_complete_on_a_linear_head(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(720, 4)
        ).eval()
        x = images()
        ours = ek.explain(model, x, TARGET, "hirescam", layer="1").attribution.sum((1, 2, 3))
        score = model(x).gather(1, TARGET[:, None])[:, 0] - model[3].bias[TARGET]
        torch.testing.assert_close(ours, score.detach())

    def test_plus_plus_counts_places_whatever_their_size(self):
        """On max(score) features of one position the weight is g / (2 + g a)."""
        model = nn.Sequential(
            nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)
        )
        nn.init.ones_(model[0].weight)
        model[3].weight.data = torch.tensor([[0.0, 3.0], [1.0, -1.0]])
        x = torch.tensor([[[[5.0, 0.5]]]])
        ours = ek.explain(model.eval(), x, 0, "gradcam_plus_plus", layer="1").attribution
        # only the second position has a gradient: α = 1 / (2 + 3 · 5.5)
        torch.testing.assert_close(ours, 3 / (2 + 3 * 5.5) * x)

    def test_dead_units_give_zero_not_nan(self):
        model = pooled()
        nn.init.constant_(model[0].bias, -100.0)
        for name in METHODS:
            with pytest.warns(ExplainkitWarning, match="zero everywhere"):
                ours = ek.explain(model, images(), 0, name).attribution
            assert not ours.any()


class TestAxioms:
    """Of XGrad-CAM, in a network that is piecewise linear without biases after the layer."""

    def test_conservation(self):
        model, x = unbiased(), images()
        ours = ek.explain(
            model, x, TARGET, "xgradcam", layer="3", upsample="nearest", placement="stretch"
        )
        a, g = slopes(model, ["3"], x)
        small = by_hand("xgradcam", a[0], g[0])
        assert_close(ours.attribution, large(small, "nearest"))
        score = model(x).gather(1, TARGET[:, None])[:, 0].detach()
        torch.testing.assert_close(small.sum((1, 2, 3)), score, atol=1e-5, rtol=1e-4)

    def test_sensitivity(self):
        """On a linear head, removing a channel takes away its share of the map."""
        model, x = pooled(bias=False), images()[:1]
        for k in range(6):
            cut = pooled(bias=False)
            cut[4].weight.data[:, k] = 0
            change = (model(x) - cut(x))[0, 2]
            maps = [ek.explain(m, x, 2, "xgradcam").attribution.sum() for m in (model, cut)]
            torch.testing.assert_close(maps[0] - maps[1], change.detach(), atol=1e-6, rtol=1e-4)


class TestOptions:
    @pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
    def test_upsampling_and_rectifying(self, mode):
        model, x = pooled(), images()
        model = nn.Sequential(*model[:2], nn.AvgPool2d(2), *model[2:]).eval()
        a, g = slopes(model, ["2"], x)
        small = by_hand("gradcam", a[0], g[0])
        ours = ek.explain(
            model, x, TARGET, "gradcam", layer="2", upsample=mode, placement="stretch"
        )
        assert_close(ours.attribution, large(small, mode))
        assert ours.diagnostics["patch_grid"] == [6, 5]
        cut = ek.explain(
            model, x, TARGET, "gradcam", layer="2", upsample=mode, relu=True, placement="stretch"
        )
        assert bool((small < 0).any())
        assert_close(cut.attribution, large(small.relu(), mode))

    def test_several_layers_are_averaged(self):
        model, x = unbiased(), images()
        one, two, both = (
            ek.explain(model, x, TARGET, "layercam", layer=layer)
            for layer in ("1", "3", ("1", "3"))
        )
        assert_close(both.attribution, (one.attribution + two.attribution) / 2)
        assert both.layer == "1, 3"
        assert both.diagnostics["patch_grid"] == [[10, 8], [8, 6]]

    def test_what_is_refused(self):
        with pytest.raises(MethodError, match="upsample"):
            GradCAM(upsample="cubic")
        with pytest.raises(MethodError, match="layer"):
            GradCAM(layer=())
        model, x = toy_models()["reused"]
        with pytest.raises(ModelError, match="'relu' to run once"):
            ek.explain(model, x, 0, "gradcam", layer="relu")
        with pytest.raises(ModelError, match="near it"):
            ek.explain(model, x, 0, "gradcam", layer="secnd")
        with pytest.raises(ModelError, match="head.*to output a map"):
            ek.explain(model, x, 0, "gradcam", layer="head")
        with pytest.raises(ModelError, match="more than one spatial position"):
            ek.explain(*toy_models()["mlp"], 0, "gradcam")

    def test_the_models_spec_names_the_layer(self):
        model, x = unbiased(), images()
        vars(model)["explainkit_spec"] = ek_spec(layer="1")
        assert ek.explain(model, x, 0, "gradcam").layer == "1"
        vars(model)["explainkit_spec"] = ek_spec(layer=None)
        assert ek.explain(model, x, 0, "gradcam").layer == "3"

    def test_a_model_that_was_rebuilt_has_another_default(self):
        model = pooled()
        assert ek.explain(model, images(), 0, "gradcam").layer == "1"
        model[1] = nn.Sequential(nn.Identity(), nn.Conv2d(6, 6, 1)).eval()
        assert ek.explain(model, images(), 0, "gradcam").layer == "1"
        model[1] = nn.Identity().eval()
        assert ek.explain(model, images(), 0, "gradcam").layer == "0"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    @pytest.mark.parametrize("toy", ["plain", "vit"])
    def test_a_compiled_model(self, toy):
        model, x = toy_models()[toy]
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            compiled(x)
        ours, plain = (ek.explain(m, x, TARGET, "gradcam") for m in (compiled, model))
        assert ours.layer == f"_orig_mod.{plain.layer}"
        assert_close(ours.attribution, plain.attribution)

    def test_plus_plus_says_where_it_is_not_derived(self):
        model, x = unbiased(), images()
        with pytest.warns(ExplainkitWarning, match="name the ReLU"):
            ek.explain(model, x * 9, 0, "gradcam_plus_plus", layer="0")


def ek_spec(layer):
    from explainkit.interfaces import ModelSpec

    return ModelSpec(
        build=pooled, image_shape=(3, 12, 10), mean=(0,) * 3, std=(1,) * 3, layer=layer
    )


class TestCaptum:
    @pytest.mark.parametrize("toy", sorted(CONVOLUTIONAL))
    def test_layer_gradcam(self, toy):
        model, x = toy_models()[toy]
        model.eval()
        ours = ek.explain(
            model, x - 0.4, TARGET, "gradcam", upsample="nearest", placement="stretch"
        )
        layer = dict(model.named_modules())[ours.layer]
        forward = (lambda v: model(v)[0]) if toy == "tuple" else model
        if any(getattr(m, "inplace", False) for m in model.modules()):
            pytest.skip("Captum reads the layer after it was overwritten")
        oracle = captum.attr.LayerGradCam(forward, layer).attribute(x - 0.4, TARGET)
        drawn = (ours.attribution != 0).any(0)  # Captum also draws what the score does not read
        assert drawn.float().mean() >= 0.7
        theirs = large(oracle.detach(), "nearest")
        assert_close(ours.attribution[:, drawn], theirs[:, drawn])

    def test_layer_gradcam_relu(self):
        model, x = unbiased(), images()
        ours = ek.explain(model, x, TARGET, "gradcam", relu=True, layer="2", placement="stretch")
        oracle = captum.attr.LayerGradCam(model, model[2]).attribute(
            x, TARGET, relu_attributions=True
        )
        assert_close(ours.attribution, large(oracle.detach()))


@pytest.mark.parametrize("name", METHODS)
def test_check_method(name):
    check_method(name, CONVOLUTIONAL)
