"""Parity with Captum 0.9.0: inner layers, neurons, and methods that perturb the image."""

import functools
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from torch import Tensor

import explainkit as ek
from peer_rows.captum_rows import ERRORS, NET, Compared
from peer_rows.captum_rows import _lrp as lrp
from peer_rows.rows import Row, cnn, images, predicted

LAYER = "features.0"
NEURON = "features.6"
UNIT = (3, 2, 1)
"""Channel, row and column of the explained neuron in that layer."""

SEGMENTS = torch.arange(12)[:, None] // 4 * 2 + torch.arange(10) // 5
"""Six segments of the image."""


def layer_rows() -> list[Row]:
    """Attribution to a layer's output: Captum has classes for it, ours is ``at=``."""
    at = "`at=` the layer"
    rows = [
        _at("saliency", "LayerGradientXActivation", f"{at}; Captum multiplies by the output: "
            "ours was multiplied for the comparison", 1e-12, multiplied=True),
        _at("input_x_gradient", "LayerGradientXActivation", at, 1e-12),
        _at("integrated_gradients", "LayerIntegratedGradients",
            f"{at}, its output on the baseline image as `baseline=`", 1e-6),
        _at("deeplift", "LayerDeepLift", f"{at}, baseline as above", 1e-9),
        Row("conductance", "Captum LayerConductance", NET, _conductance, 1e-6,
            "Captum takes the gradient at the start of each interval, ours the mean of both ends: "
            "Captum's result is averaged over both directions of the path here"),
        Row("internal_influence", "Captum InternalInfluence", NET, _influence, 1e-6,
            "same nodes; Captum rounds the rule's weights to float32"),
    ]  # fmt: skip
    from captum.attr._utils.lrp_rules import EpsilonRule

    fields = {"composite": "epsilon", "epsilon": 1e-9}
    compare = functools.partial(
        lrp, functools.partial(EpsilonRule, 1e-9), fields, positive=False, layer=LAYER
    )
    rows.append(Row("lrp", "Captum LayerLRP, ε", NET, compare, 1e-5, f"{at}; same ε"))
    return rows


def _at(method: str, peer: str, how: str, tolerance: float, *, multiplied: bool = False) -> Row:
    def compare() -> Compared:
        model, x = cnn(), images()
        target = predicted(model, x)
        layer = model.get_submodule(LAYER)
        with torch.no_grad():
            outputs, start = layer(x), layer(torch.zeros_like(x[:1]))[0]
        fields: dict[str, Any] = {"baseline": start} if "baseline" in how else {}
        if method == "integrated_gradients":
            fields["steps"] = 50  # Captum's default
        ours = ek.explain(model, x, target, method, at=LAYER, **fields).attribution
        theirs = getattr(captum.attr, peer)(model, layer).attribute(x, target=target)
        return ours * outputs if multiplied else ours, theirs

    return Row(method, f"Captum {peer}", NET, compare, tolerance, how)


def _conductance() -> Compared:
    model, x = cnn(), images()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "conductance", layer=LAYER, steps=30).attribution
    peer = captum.attr.LayerConductance(model, model.get_submodule(LAYER))
    zero = torch.zeros_like(x)
    both = [
        peer.attribute(a, b, target, n_steps=30, method="riemann_trapezoid").detach()
        for a, b in ((x, zero), (zero, x))
    ]
    return ours, (both[0] - both[1]) / 2


def _influence() -> Compared:
    model, x = cnn(), images()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "internal_influence", layer=LAYER, steps=30).attribution
    peer = captum.attr.InternalInfluence(model, model.get_submodule(LAYER))
    return ours, peer.attribute(x, target=target, n_steps=30)


def neuron_rows() -> list[Row]:
    """A neuron's value as the target: Captum has classes for it, ours is an expression."""
    target = f"target neuron('{NEURON}', {', '.join(map(str, UNIT))})"
    rows = []
    for method, peer, tolerance in (
        ("saliency", "NeuronGradient", 1e-12),
        ("integrated_gradients", "NeuronIntegratedGradients", 1e-6),
        ("deeplift", "NeuronDeepLift", 1e-9),
        ("guided_backprop", "NeuronGuidedBackprop", 1e-12),
        ("deconvnet", "NeuronDeconvolution", 1e-12),
    ):
        compare = functools.partial(_neuron, method, peer)
        rows.append(Row(method, f"Captum {peer}", NET, compare, tolerance, target))
    return rows


def _neuron(method: str, peer: str) -> Compared:
    model, x = cnn(), images()
    text = f"neuron('{NEURON}', {', '.join(map(str, UNIT))})"
    fields = {"steps": 50} if method == "integrated_gradients" else {}  # Captum's default
    ours = ek.explain(model, x, text, method, **fields).attribution
    made = getattr(captum.attr, peer)(model, model.get_submodule(NEURON))
    return ours, made.attribute(x.clone().requires_grad_(), UNIT)


def perturbation_rows() -> list[Row]:
    """Methods that perturb the image and measure the scores."""
    one_channel = "ours has one channel, Captum's repeats it"
    return [
        Row("occlusion", "Captum Occlusion", NET, _occlusion, 1e-6,
            f"same windows and strides; {one_channel}; ours covers every pixel by default, "
            "Captum's default stride is 1; Captum sums in float32"),
        Row("feature_ablation", "Captum FeatureAblation", NET, _ablation, 1e-9, one_channel),
        Row("kernel_shap", "Captum ShapleyValues", NET, _shapley, 1e-5,
            "six segments: both exact, ours by all 64 coalitions, Captum by all 720 orders, "
            "summed in float32"),
        Row("kernel_shap", "Captum KernelShap", NET, _kernel_shap, 5.0,
            "20 Captum runs of 500 samples; ours is exact here (all 64 coalitions), eliminates the "
            "constraint that Captum weights by 1e6, and reports standard errors", ERRORS,
            requires="sklearn"),
        Row("shapley_sampling", "Captum ShapleyValueSampling", NET, _sampling, 5.0,
            "two estimates: 300 orders in ours, 20 runs of 50 in Captum; ours pairs each order "
            "with its reverse", ERRORS),
    ]  # fmt: skip


def _changed(
    method: str, theirs: Callable[..., Tensor], fields: dict[str, Any], **options: Any
) -> Compared:
    model, x = cnn(), images()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, method, **fields).attribution
    return ours, theirs(model, x, target, **options)[:, :1]


def _occlusion() -> Compared:
    def theirs(model: Any, x: Tensor, target: Tensor) -> Tensor:
        found: Tensor = captum.attr.Occlusion(model).attribute(
            x, (3, 5, 4), (3, 3, 2), 0.3, target, perturbations_per_eval=16
        )
        return found

    fields = {"window": (5, 4), "stride": (3, 2), "baseline": 0.3}
    return _changed("occlusion", theirs, fields)


def _ablation() -> Compared:
    def theirs(model: Any, x: Tensor, target: Tensor) -> Tensor:
        found: Tensor = captum.attr.FeatureAblation(model).attribute(
            x, 0.3, target, feature_mask=SEGMENTS[None, None]
        )
        return found

    return _changed("feature_ablation", theirs, {"segments": SEGMENTS, "baseline": 0.3})


def _shapley() -> Compared:
    def theirs(model: Any, x: Tensor, target: Tensor) -> Tensor:
        found: Tensor = captum.attr.ShapleyValues(model).attribute(
            x, 0, target, feature_mask=SEGMENTS[None, None], perturbations_per_eval=6
        )
        return found

    return _changed("kernel_shap", theirs, {"segments": SEGMENTS, "samples": 65})


def _kernel_shap() -> Compared:
    def theirs(model: Any, x: Tensor, target: Tensor) -> Tensor:
        return captum.attr.KernelShap(model).attribute(
            x, 0, target, feature_mask=SEGMENTS[None, None], n_samples=500,
            perturbations_per_eval=500,
        )  # fmt: skip

    return _estimates("kernel_shap", 65, theirs)


def _sampling() -> Compared:
    def theirs(model: Any, x: Tensor, target: Tensor) -> Tensor:
        return captum.attr.ShapleyValueSampling(model).attribute(
            x, 0, target, feature_mask=SEGMENTS[None, None], n_samples=50, perturbations_per_eval=6
        )

    return _estimates("shapley_sampling", 300, theirs)


def _estimates(method: str, samples: int, theirs: Callable[..., Tensor]) -> Compared:
    """Both in standard errors of their difference; the peer's mean is shifted to 0."""
    model, x = cnn(), images(count=1)
    target = predicted(model, x)
    ours = ek.explain(model, x, target, method, segments=SEGMENTS, samples=samples)
    torch.manual_seed(0)
    runs = torch.stack([theirs(model, x, target)[:, :1] for _ in range(20)]).double()
    error = ours.diagnostics["standard_error"].square() + runs.var(0) / len(runs)
    z = (ours.attribution - runs.mean(0)) / error.sqrt().clamp(min=1e-9)
    return z, torch.zeros_like(z)
