"""Captum's attributions as methods, and methods as Captum attributions: both equal direct calls."""

import random

import numpy as np
import pytest
import torch
from captum import attr
from captum.metrics import sensitivity_max
from torch import nn

import explainkit as ek
from explainkit.errors import InputError, MethodError
from explainkit.interop.captum import from_captum, to_captum
from explainkit.testing import toy_models

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting .*hooks"),
    pytest.mark.filterwarnings("ignore:.*did not already require gradients"),
]

CLASSES = torch.tensor([1, 0, 4, 2])


@pytest.fixture
def plain():
    return toy_models()["plain"]


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (attr.Saliency, {"abs": False}),
        (attr.IntegratedGradients, {"n_steps": 9, "baselines": 0.2}),
        (attr.InputXGradient, {}),
        (attr.GuidedBackprop, {}),
        (attr.Deconvolution, {}),
        (attr.DeepLift, {"multiply_by_inputs": False}),
        (attr.Occlusion, {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}),
        (attr.FeatureAblation, {"feature_mask": torch.arange(120).reshape(1, 1, 12, 10) // 12}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrapped_attribution_equals_the_direct_call(plain, kind, params):
    model, x = plain
    ours = ek.explain(model, x, CLASSES, from_captum(kind, **params))
    own = {k: v for k, v in params.items() if k == "multiply_by_inputs"}
    rest = {k: v for k, v in params.items() if k not in own}
    theirs = kind(model, **own).attribute(x.clone().requires_grad_(), target=CLASSES, **rest)
    torch.testing.assert_close(ours.attribution, theirs.detach().float(), rtol=1e-6, atol=1e-6)
    assert ours.method == f"captum.attr.{kind.__name__}"
    assert params.items() <= dict(ours.params).items() or "feature_mask" in params


def test_hooks_of_captum_see_the_forward(plain):
    model, x = plain
    guided, gradient = (
        ek.explain(model, x, 1, from_captum(kind)).attribution
        for kind in (attr.GuidedBackprop, attr.Saliency)
    )
    assert not torch.allclose(guided.abs(), gradient.abs(), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "params"), [(attr.LayerGradCam, {}), (attr.LayerConductance, {"n_steps": 7})]
)
def test_a_layer_attribution_has_the_layers_shape(plain, kind, params):
    model, x = plain
    by_path = ek.explain(model, x, 1, from_captum(kind, layer="3", **params))
    by_module = ek.explain(model, x, 1, from_captum(kind, layer=model[3], **params))
    theirs = kind(model, model[3]).attribute(x.clone().requires_grad_(), target=1, **params)
    torch.testing.assert_close(by_path.attribution, theirs.detach().float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(by_module.attribution, by_path.attribution)
    assert by_path.at == by_path.layer == by_module.params["layer"] == "3"


def test_a_map_of_the_image_made_with_a_layer(plain):
    model, x = plain
    params = {"neuron_selector": (3, 1, 1), "n_steps": 5}
    ours = ek.explain(model, x, 1, from_captum(attr.NeuronConductance, layer="3", **params))
    theirs = attr.NeuronConductance(model, model[3]).attribute(
        x.clone().requires_grad_(), target=1, **params
    )
    torch.testing.assert_close(ours.attribution, theirs.detach().float(), rtol=1e-6, atol=1e-6)
    assert (ours.layer, ours.at) == ("3", None)


def test_baselines_are_cut_to_each_image(plain):
    model, x = plain
    baselines = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(3))
    method = from_captum(attr.DeepLift, baselines=baselines)
    theirs = attr.DeepLift(model).attribute(x.clone().requires_grad_(), baselines, target=CLASSES)
    for size in (None, 3):
        ours = ek.explain(model, x, CLASSES, method, batch_size=size).attribution
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_a_sample_of_baselines_is_left_whole(plain):
    model, x = plain
    sample = torch.rand(7, 3, 12, 10, generator=torch.Generator().manual_seed(3))
    ours = ek.explain(model, x[:2], 1, from_captum(attr.DeepLiftShap, baselines=sample))
    theirs = attr.DeepLiftShap(model).attribute(x[:2].clone().requires_grad_(), sample, target=1)
    torch.testing.assert_close(ours.attribution, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_random_maps_depend_on_the_seed_alone(plain):
    model, x = plain
    base = from_captum(attr.IntegratedGradients, n_steps=3)
    method = from_captum(attr.NoiseTunnel, attribution_method=base, nt_samples=3, stdevs=0.1)
    both = ek.explain(model, x[:2], 1, method, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tunnel = attr.NoiseTunnel(attr.IntegratedGradients(model))
        theirs = tunnel.attribute(x[1:2], nt_samples=3, stdevs=0.1, target=1, n_steps=3)
    torch.testing.assert_close(both.attribution[1:], theirs.float(), rtol=1e-6, atol=1e-6)
    alone = ek.explain(model, x[1:2], 1, method, seed=5)
    assert torch.equal(alone.attribution, both.attribution[1:])
    other = ek.explain(model, x[1:2], 1, method, seed=6)
    assert not torch.equal(alone.attribution, other.attribution)
    assert both.seed == 5
    assert both.params["attribution_method"]["n_steps"] == 3


def test_nothing_is_left_behind(plain):
    model, x = plain
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    method = from_captum(attr.DeepLift)
    ek.explain(model, x, 1, method)
    method(model, x, torch.tensor([1, 1, 1, 1]))  # outside of the engine, too
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not x.requires_grad


def test_expressions_and_unusual_outputs_can_be_explained():
    model, x = toy_models()["tuple"]
    ours = ek.explain(model, x, "logit(0) - logit(2)", from_captum(attr.InputXGradient))
    theirs = ek.explain(model, x, "logit(0) - logit(2)", "input_x_gradient")
    torch.testing.assert_close(ours.attribution, theirs.attribution, rtol=1e-6, atol=1e-6)


def test_a_result_can_be_saved(plain, tmp_path):
    model, x = plain
    method = from_captum(attr.Occlusion, sliding_window_shapes=(3, 4, 4), strides=4)
    found = ek.explain(model, x, 1, method)
    loaded = ek.Explanation.load(found.save(tmp_path / "saved"))
    assert loaded.params == {"seed": 0, "sliding_window_shapes": [3, 4, 4], "strides": 4}


def test_errors_are_one_line(plain):
    model, x = plain
    with pytest.raises(MethodError, match=r"^Saliency takes abs, seed, got 'n_steps'$"):
        from_captum(attr.Saliency, n_steps=3)
    with pytest.raises(MethodError, match="takes .*, got 'target'"):
        from_captum(attr.Saliency, target=3)
    with pytest.raises(MethodError, match=r"expected a class of captum\.attr, got 'Saliency'"):
        from_captum("Saliency")
    with pytest.raises(MethodError, match="^NeuronGradient explains no score of the model"):
        from_captum(attr.NeuronGradient, layer="3")
    with pytest.raises(MethodError, match="omit at= and wrap the Layer form"):
        ek.explain(model, x, 1, from_captum(attr.Saliency), at="0")
    wide = from_captum(attr.Occlusion, sliding_window_shapes=(3, 50, 50))
    with pytest.raises(MethodError, match=r"^Occlusion: Sliding window"):
        ek.explain(model, x, 1, wide)
    inner = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ek.ModelError, match="expected a layer inside Sequential"):
        ek.explain(model, x, 1, from_captum(attr.LayerGradCam, layer=inner[0]))


def test_a_method_as_a_captum_attribution(plain):
    model, x = plain
    for name, params in [("integrated_gradients", {"steps": 8}), ("rise", {"samples": 32})]:
        ours = to_captum(model, name, **params)
        assert isinstance(ours, attr.Attribution)
        direct = ek.explain(model, x, CLASSES, name, **params).attribution
        for target in (CLASSES, CLASSES.tolist()):
            assert torch.equal(ours.attribute(x, target=target), direct)
        one = ek.explain(model, x, 3, name, **params).attribution
        assert torch.equal(ours.attribute(x, target=3), one)
        assert torch.equal(ours.attribute(x, torch.tensor([3])), one)
        (tupled,) = ours.attribute((x,), target=3)
        assert torch.equal(tupled, one)
    steps = to_captum(model, "integrated_gradients", steps=2).attribute(x, 3, steps=8)
    assert torch.equal(steps, ek.explain(model, x, 3, "integrated_gradients", steps=8).attribution)
    with pytest.raises(InputError, match="expected one tensor of images, got 2 inputs"):
        ours.attribute((x, x), target=3)
    with pytest.raises(InputError, match="additional_forward_args: expected None"):
        ours.attribute(x, 3, torch.ones(1))


def test_captums_own_tools_take_a_method(plain):
    model, x = plain
    tunnel = attr.NoiseTunnel(to_captum(model, "input_x_gradient"))
    theirs = attr.NoiseTunnel(attr.InputXGradient(model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = tunnel.attribute(x, nt_samples=4, stdevs=0.1, target=1)
        torch.manual_seed(0)
        expected = theirs.attribute(x, nt_samples=4, stdevs=0.1, target=1).detach()
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
        torch.manual_seed(0)
        ours = sensitivity_max(to_captum(model, "saliency").attribute, x, target=1)
        torch.manual_seed(0)
        saliency = attr.Saliency(model)
        expected = sensitivity_max(
            lambda v, **k: saliency.attribute(v, abs=False, **k), x, target=1
        )
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
