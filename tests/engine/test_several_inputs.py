"""Models of several inputs: each input has a map, and what is held fixed stays fixed."""

import copy
import warnings

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import InputError, MethodError, ModelError, UnknownNameError
from explainkit.methods import IntegratedGradients
from explainkit.methods.path.xrai import BlackAndWhite
from explainkit.testing import toy_models

RANDOM = torch.Generator().manual_seed(0)
RGB = torch.rand(3, 3, 12, 16, generator=RANDOM)
DEPTH = torch.rand(3, 1, 12, 16, generator=RANDOM)


class One(nn.Module):
    """Three classes of an image."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(channels, 4, 3, padding=1)  # as many as rgb and depth together
        self.act = nn.Softplus()
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, rgb):
        return self.head(self.act(self.first(rgb))).mean((2, 3))


class Both(One):
    """A product of both inputs."""

    def __init__(self):
        super().__init__(4)

    def forward(self, rgb, depth):
        return super().forward(torch.cat([rgb * depth, depth], 1))


class Captioned(nn.Module):
    """An image and tokens, which say what matters of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.words = nn.Embedding(10, 3)

    def forward(self, input_ids, pixel_values, scale=1.0):
        assert not input_ids.is_floating_point()
        weights = self.words(input_ids).mean(1)
        return scale * (pixel_values * weights[..., None, None]).mean((2, 3))


def ignoring(model):
    """The model with a second input, which it ignores."""
    found, kind = copy.copy(model), type(model)
    forward = {"forward": lambda self, rgb, depth: kind.forward(self, rgb)}
    found.__class__ = type(kind.__name__, (kind,), forward)
    return found


METHODS = [name.removeprefix("explainkit/") for name in ek.list_methods() if "explainkit/" in name]
PARAMS = {
    "integrated_gradients": {"steps": 5}, "blur_ig": {"steps": 5}, "guided_ig": {"steps": 5},
    "idgi": {"path": IntegratedGradients(steps=5)}, "deep_taylor": {"low": 0.0, "high": 1.0},
    "conductance": {"layer": "act", "steps": 5}, "internal_influence": {"layer": "act", "steps": 5},
    "xrai": {"base": BlackAndWhite(steps=5), "segments": 4}, "occlusion": {"window": 4, "stride": 4},
    "rise": {"samples": 8}, "sobol": {"samples": 4, "segments": 2}, "partition_shap": {"samples": 16},
    "hsic": {"samples": 32, "segments": 2}, "kernel_shap": {"samples": 32, "segments": 2},
    "lime": {"samples": 32, "segments": 2}, "shapley_sampling": {"samples": 4, "segments": 2},
    "feature_ablation": {"segments": 2}, "extremal_perturbation": {"steps": 5},
    "meaningful_perturbation": {"steps": 5},
}  # fmt: skip
TOKENS = {"attention_rollout", "gradient_rollout", "legrad", "libragrad", "attn_lrp"}
SHARED = TOKENS - {"libragrad", "attn_lrp"} | {
    "ablation_cam", "aug_smooth", "eigencam", "eigengradcam", "elementwise_cam", "finercam",
    "gradcam", "gradcam_plus_plus", "hirescam", "kpca_cam", "layercam", "recipro_cam", "score_cam",
    "shapleycam", "xgradcam", "conductance", "internal_influence", "full_gradient", "xrai",
}  # fmt: skip
"""Maps of positions of a layer or of the whole image, not of an input."""
MASKS = {"extremal_perturbation", "meaningful_perturbation"}
"""Masks of an input that the score depends on."""
SAMPLED = {"smoothgrad", "smoothgrad_squared", "vargrad", "expected_gradients", "gradient_shap"}
"""The noise of an image depends on its number of channels, here on those of both inputs."""


@pytest.mark.parametrize("method", METHODS)
def test_an_ignored_input_has_a_zero_map_and_the_other_that_of_one_input(method):
    model, rgb = toy_models()["vit"] if method in TOKENS else (One().eval(), RGB)
    rgb = rgb[:1]
    depth = torch.rand(1, 1, *rgb.shape[2:], generator=torch.Generator().manual_seed(3))
    options = {"method": method, **PARAMS.get(method, {})}
    if method in MASKS:
        with pytest.raises(ModelError, match="no gradient reaches them"):
            ek.explain(ignoring(model), (rgb, depth), 1, **options)
        options["wrt"] = "rgb"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own, *rest = ek.explain(ignoring(model), (rgb, depth), 1, **options)
        alone = ek.explain(model, rgb, 1, method, **PARAMS.get(method, {})).attribution
    assert torch.equal(own.inputs, rgb)
    for ignored in rest:
        assert torch.equal(ignored.inputs, depth)
        if method in SHARED:
            assert torch.equal(ignored.attribution, own.attribution)
            assert any("one map for all" in text for text in ignored.diagnostics["warnings"])
        else:
            assert ignored.attribution.abs().max() < 1e-7
    if method in SAMPLED:
        assert (own.attribution - alone).abs().mean() < 0.6 * alone.abs().mean()
    elif method == "guided_ig":  # its path moves the pixels with the smallest gradients first
        torch.testing.assert_close(own.attribution.sum(), alone.sum(), rtol=0.05, atol=1e-3)
    else:
        torch.testing.assert_close(own.attribution, alone, rtol=2e-5, atol=1e-6)


def test_integrated_gradients_are_complete_over_both_inputs():
    model = Both().eval()
    base = {"rgb": torch.rand(3, 12, 16), "depth": 0.25}
    found = ek.explain(
        model, (RGB, DEPTH), 2, "integrated_gradients", steps=40, baseline=base,
    )  # fmt: skip
    rest = model(base["rgb"].expand_as(RGB), torch.full_like(DEPTH, 0.25))[:, 2].detach()
    total = sum(one.attribution.sum((1, 2, 3)) for one in found)
    torch.testing.assert_close(total, found[0].score - rest, atol=1e-6, rtol=1e-4)
    for one in found:
        assert one.attribution.abs().sum() > 0
    as_tuple = ek.explain(
        model, (RGB, DEPTH), 2, "integrated_gradients", steps=40, baseline=(base["rgb"], 0.25),
    )  # fmt: skip
    assert torch.equal(as_tuple[1].attribution, found[1].attribution)


def test_one_input_is_explained_with_the_other_held_fixed():
    model = Both().eval()
    found = ek.explain(model, (RGB, DEPTH), 0, "integrated_gradients", wrt="depth", steps=60)
    assert [one.input for one in found] == ["depth"]
    rest = model(RGB, torch.zeros_like(DEPTH))[:, 0].detach()
    torch.testing.assert_close(
        found[0].attribution.sum((1, 2, 3)), found[0].score - rest, atol=1e-4, rtol=1e-3
    )
    by_place = ek.explain(model, (RGB, DEPTH), 0, "integrated_gradients", wrt=1, steps=60)
    assert torch.equal(by_place[0].attribution, found[0].attribution)
    # each image belongs to its own fixed input, whatever the batch
    one = ek.explain(model, (RGB[1:2], DEPTH[1:2]), 0, "occlusion", wrt="depth", window=4)
    three = ek.explain(model, (RGB, DEPTH), 0, "occlusion", wrt="depth", window=4)
    torch.testing.assert_close(one[0].attribution[0], three[0].attribution[1])


def test_the_order_of_a_dict_does_not_matter():
    model, kwargs = Both().eval(), {"method": ["saliency", "occlusion"], "window": 4, "stride": 4}
    one = ek.explain(model, {"rgb": RGB, "depth": DEPTH}, 0, **kwargs)
    other = ek.explain(model, {"depth": DEPTH, "rgb": RGB}, 0, **kwargs)
    assert len(one) == len(other) == 4
    for method in kwargs["method"]:
        for name in ("rgb", "depth"):
            first, second = (f.get(method=method, input=name) for f in (one, other))
            torch.testing.assert_close(first.attribution, second.attribution)


def test_tokens_are_held_fixed_and_never_get_a_gradient():
    model = Captioned().eval()
    ids = torch.tensor([[1, 2], [3, 4], [5, 6]])
    inputs = {"input_ids": ids, "pixel_values": RGB, "scale": 2.0}
    for method, params in (("input_x_gradient", {}), ("occlusion", {"window": 4, "stride": 4})):
        [found] = ek.explain(model, inputs, 1, method, **params)
        assert found.input == "pixel_values"
        torch.testing.assert_close(found.score, model(**inputs)[:, 1].detach())
        # linear: both are exactly x · weight
        wanted = RGB * 2 * model.words(ids).mean(1)[..., None, None] / (12 * 16)
        wanted = torch.stack([torch.zeros_like(DEPTH[:, 0]), wanted[:, 1], 0 * DEPTH[:, 0]], 1)
        got = found.attribution.sum(1).unflatten(1, (3, 4)).unflatten(3, (4, 4))
        cells = wanted.sum(1).unflatten(1, (3, 4)).unflatten(3, (4, 4))
        if method == "input_x_gradient":
            torch.testing.assert_close(found.attribution, wanted.detach())
        else:
            torch.testing.assert_close(
                got.mean((2, 4)) * 1.0, cells.sum((2, 4)).detach(), atol=1e-5, rtol=1e-4
            )
    assert model.words.weight.grad is None
    one_text = ek.explain(model, inputs | {"input_ids": ids[:1]}, 1)
    assert len(one_text[0]) == 3


def test_results_are_saved_judged_and_shown(tmp_path):
    x, model = torch.rand(1, 3, 24, 24), Both().eval()
    found = ek.explain(model, (x, x[:, :1]), 1, "input_x_gradient")
    card = found.get(input="depth").scorecard()
    assert len(card.verdict) == 1
    again = ek.Explanation.load(found[1].save(tmp_path))
    assert again.input == "depth"
    found[1].report(tmp_path / "depth.html")
    assert found._repr_html_().count("input_x_gradient") >= 2
    several = ek.explain(model, (RGB, DEPTH), 1)
    with pytest.raises(MethodError, match="explain the images one by one"):
        several[0].scorecard()
    with pytest.raises(UnknownNameError, match="saliency of 1.* for input rgb"):
        several.get(input="thermal")


WRONG = [
    ((RGB, DEPTH[:2]), {}, "one number, height and width to explain together.*wrt='rgb'"),
    ((RGB, DEPTH), {"wrt": "thermal"}, "wrt: expected names among rgb, depth, got 'thermal'"),
    ((RGB, DEPTH), {"wrt": []}, "wrt: expected names among rgb, depth, got none"),
    (RGB, {"wrt": "rgb"}, "wrt: expected several inputs"),
    ((RGB, DEPTH[:2]), {"wrt": "rgb"}, "depth: expected a row for each image, 3, or one for all"),
    ((RGB, DEPTH), {"at": "act"}, "expected a model of one image for at="),
    ((RGB, DEPTH.long()), {"wrt": "depth"}, "expected floating-point images"),
    ({"rgb": RGB.long()}, {}, "expected an image .* among the inputs"),
    (
        (RGB, DEPTH), {"method": "integrated_gradients", "baseline": {"rgb": 0}},
        "expected a value for each explained input, got none for 'depth'",
    ),
    (
        (RGB, DEPTH), {"method": "integrated_gradients", "baseline": (0, RGB)},
        "depth: expected a number or an image .1, 12, 16.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "options", "reason"), WRONG)
def test_what_no_input_can_be_is_an_error(inputs, options, reason):
    with pytest.raises(InputError, match=reason):
        ek.explain(Both().eval(), inputs, **options)


def test_the_model_and_its_inputs_stay_as_they_are():
    model = Both().train()
    before, kind = {k: v.clone() for k, v in model.state_dict().items()}, type(model)
    rgb = RGB.clone().requires_grad_()
    with pytest.warns(match="train mode"):
        ek.explain(model, (rgb, DEPTH), 0, "saliency")
    assert type(model) is kind
    assert model.training
    assert rgb.grad is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
