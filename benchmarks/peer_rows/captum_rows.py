"""Parity with Captum 0.9.0: gradients, paths and propagation on the image."""

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import captum.attr
import numpy as np
import torch
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import Tensor, nn

import explainkit as ek
from peer_rows.rows import LAST, SAME, Row, cnn, faces, images, predicted, transformer

NET = "CNN"
RULES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")
PATH_WEIGHTS = "same nodes; Captum rounds the rule's weights to float32"
ERRORS = "standard errors of the difference"

Compared = tuple[Tensor, Tensor]


def on_cnn(method: str, peer: Callable[[nn.Module], Any], **ours: Any) -> Callable[[], Compared]:
    """Both maps for the predicted classes of a `Cnn`."""
    return functools.partial(_both, method, peer, lambda: (cnn(), images()), ours)


def _both(
    method: str,
    peer: Callable[[nn.Module], Any],
    made: Callable[[], tuple[nn.Module, Tensor]],
    ours: dict[str, Any],
    theirs: dict[str, Any] | None = None,
) -> Compared:
    model, x = made()
    target = predicted(model, x)
    found = ek.explain(model, x, target, method, **ours).attribution
    return found, peer(model).attribute(x.clone().requires_grad_(), target=target, **theirs or {})


def gradient_rows() -> list[Row]:
    """One gradient, or an average of them."""
    rows = []
    for made, network, tolerance in (
        (lambda: (cnn(), images()), NET, 1e-12),
        (transformer, "transformer", 1e-10),
        (faces, "fer_hw3/cnn", 1e-4),
    ):
        signed = functools.partial(
            _both, "saliency", captum.attr.Saliency, made, {}, {"abs": False}
        )
        product = functools.partial(_both, "input_x_gradient", captum.attr.InputXGradient, made, {})
        how = f"{SAME}; ours keeps the sign by default (`absolute=`): Captum's default is |a|"
        rows.append(Row("saliency", "Captum Saliency", network, signed, tolerance, how))
        rows.append(
            Row("input_x_gradient", "Captum InputXGradient", network, product, tolerance, SAME)
        )
    how = (
        "the same noise in both; ours draws each image's noise from a separate generator, so a map "
        "does not depend on the batch"
    )
    for name, theirs in (
        ("smoothgrad", "smoothgrad"), ("smoothgrad_squared", "smoothgrad_sq"),
        ("vargrad", "vargrad"),
    ):  # fmt: skip
        compare = functools.partial(_noisy, name, theirs)
        rows.append(Row(name, "Captum NoiseTunnel", NET, compare, 1e-6, how))
    return rows


def _noisy(name: str, kind: str, samples: int = 6) -> Compared:
    """Captum draws the noise of all copies at once: it is given our draws."""
    model, x = cnn(), images()
    target = predicted(model, x)
    found = ek.explain(model, x, target, name, samples=samples, noise=0.2, relative=False)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.randn(x.shape[1:], generator=generator) for _ in range(samples)]).to(
        x
    )
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model))
    with patch.object(torch, "normal", lambda *_: (0.2 * draws).repeat(len(x), 1, 1, 1)):
        theirs = tunnel.attribute(
            x.clone().requires_grad_(), nt_type=kind, nt_samples=samples, stdevs=0.2,
            target=target, abs=False,
        )  # fmt: skip
    return found.attribution, theirs


def path_rows() -> list[Row]:
    """Integrals along paths from a baseline."""
    rows = []
    for rule in RULES:
        compare = functools.partial(
            _both, "integrated_gradients", captum.attr.IntegratedGradients,
            lambda: (cnn(), images()), {"rule": rule, "steps": 20}, {"method": rule, "n_steps": 20},
        )  # fmt: skip
        how = PATH_WEIGHTS
        if rule == "riemann_trapezoid":
            how += "; both sum to (n − 1)/n, as Captum's rule does"
        rows.append(
            Row("integrated_gradients", f"Captum IntegratedGradients, {rule}", NET, compare,
                1e-6, how)
        )  # fmt: skip
    how = (
        "two estimates of one expectation: 600 samples in ours, 60 runs of 60 in Captum; ours is "
        "stratified along the path, for smaller errors, and draws each image's samples separately"
    )
    rows.append(
        Row("expected_gradients", "Captum GradientShap", NET, _gradient_shap, 5.0, how, ERRORS)
    )
    return rows


def _gradient_shap() -> Compared:
    """Both in standard errors of their difference; the peer's mean is shifted to 0."""
    model, x = cnn(), images(count=1)
    target, bag = predicted(model, x), images(count=3).flip(3)
    ours = ek.explain(model, x, target, "expected_gradients", baselines=bag, samples=600)
    torch.manual_seed(0)
    np.random.seed(0)
    peer = captum.attr.GradientShap(model)
    runs = torch.stack(
        [peer.attribute(x, bag, target=target, n_samples=60).detach() for _ in range(60)]
    )
    error = ours.diagnostics["standard_error"].square() + runs.var(0) / len(runs)
    z = (ours.attribution - runs.mean(0)) / error.sqrt().clamp(min=1e-9)
    return z, torch.zeros_like(z)


def propagation_rows() -> list[Row]:
    """Rules of the backward pass, on networks whose activations are modules that run once."""
    once = f"{SAME} if every ReLU is a module; ours also handles functional ones (below)"
    rows = [
        Row("guided_backprop", "Captum GuidedBackprop", NET,
            on_cnn("guided_backprop", captum.attr.GuidedBackprop), 1e-12, once),
        Row("deconvnet", "Captum Deconvolution", NET,
            on_cnn("deconvnet", captum.attr.Deconvolution), 1e-12, once),
        Row("deeplift", "Captum DeepLift", NET,
            on_cnn("deeplift", captum.attr.DeepLift), 1e-9,
            f"{SAME} (rescale); a ReLU next to pooling differs (below)"),
        Row("deeplift_shap", "Captum DeepLiftShap", NET, _deeplift_shap, 1e-9,
            f"{SAME}; ours runs each baseline once for all images"),
        Row("gradcam", "Captum LayerGradCam", NET, _layer_gradcam, 1e-6,
            "ours is upsampled bilinearly, Captum's is not: both are upsampled here"),
        Row("guided_gradcam", "Captum GuidedGradCam", NET, _guided_gradcam, 1e-6,
            "with upsample='nearest'; ours is bilinear by default, as in the paper"),
    ]  # fmt: skip
    for name, rule, fields, positive, tolerance, how in (
        ("ε", functools.partial(EpsilonRule, 1e-9), {"composite": "epsilon", "epsilon": 1e-9},
         False, 1e-5, "same ε = 1e-9 (ours is 1e-6 by default)"),
        ("γ", GammaRule, {"composite": "gamma", "epsilon": 1e-9}, True, 1e-5,
         ("positive images, no biases: Captum boosts positive weights regardless of the signs of "
         "inputs, outputs and biases; ours boosts the contributions with the output's sign")),
        ("α1β0", Alpha1_Beta0_Rule, {"composite": "alpha_beta", "alpha": 1.0,
         "epsilon": 1e-9}, True, 1e-5,
         ("positive images, no biases: Captum clips weights, so negative inputs contribute with "
         "the wrong sign and biases in full; ours clips contributions")),
    ):  # fmt: skip
        compare = functools.partial(_lrp, rule, fields, positive=positive)
        rows.append(Row("lrp", f"Captum LRP, {name}", NET, compare, tolerance, how))
    return rows


def _deeplift_shap() -> Compared:
    model, x = cnn(), images()
    target, bag = predicted(model, x), images(count=3).flip(3)
    ours = ek.explain(model, x, target, "deeplift_shap", baselines=bag).attribution
    return ours, captum.attr.DeepLiftShap(model).attribute(x, bag, target=target)


def _layer_gradcam() -> Compared:
    model, x = cnn(), images()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "gradcam", layer=LAST, placement="stretch").attribution
    peer = captum.attr.LayerGradCam(model, model.get_submodule(LAST))
    small = peer.attribute(x, target).detach()
    return ours, captum.attr.LayerAttribution.interpolate(small, x.shape[2:], "bilinear")


def _guided_gradcam() -> Compared:
    from explainkit.methods.cam.gradient import GradCAM

    model, x = cnn(), images()
    target = predicted(model, x)
    base = GradCAM(layer=LAST, relu=True, upsample="nearest", placement="stretch")
    ours = ek.explain(model, x, target, "guided_gradcam", base=base).attribution
    peer = captum.attr.GuidedGradCam(model, model.get_submodule(LAST))
    return ours, peer.attribute(x.clone().requires_grad_(), target)


def _lrp(
    rule: Callable[[], Any], fields: dict[str, Any], *, positive: bool, layer: str | None = None
) -> Compared:
    model, x = cnn(bias=not positive, rectified=positive), images(positive=positive)
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "lrp", at=layer, **fields).attribution
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = rule()
    if layer is None:
        return ours, captum.attr.LRP(model).attribute(x, target)
    return ours, captum.attr.LayerLRP(model, model.get_submodule(layer)).attribute(x, target)
