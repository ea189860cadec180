"""Parity with zennit 1.0.0: its composites and attributors."""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

import explainkit as ek
from peer_rows.rows import SAME, Row, cnn, faces, images, predicted

LOW, HIGH = -3.0, 3.0
"""Pixel bounds for the box rule."""

PRESETS = {
    "EpsilonPlus": {"composite": "epsilon_plus"},
    "EpsilonPlusFlat": {"composite": "epsilon_plus_flat"},
    "EpsilonAlpha2Beta1": {"composite": "epsilon_alpha2_beta1"},
    "EpsilonAlpha2Beta1Flat": {"composite": "epsilon_alpha2_beta1_flat"},
    "EpsilonGammaBox": {"composite": "epsilon_gamma_box", "low": LOW, "high": HIGH},
}


def rows() -> list[Row]:
    """Every composite, with and without BatchNorm, and the attributors."""
    found = []
    for name in PRESETS:
        for norm in (False, True):
            network = "CNN with BatchNorm" if norm else "CNN"
            compare = functools.partial(_lrp, name, norm=norm)
            how = "both start with the score"
            if norm:
                how = "zennit with SequentialMergeBatchNorm; ours merges BatchNorm by default"
            if name.endswith("Flat"):
                how += "; ours stabilizes the flat rule with 1e-9, zennit with 1e-6"
            found.append(Row("lrp", f"zennit {name}", network, compare, 1e-6, how))
    trained = functools.partial(_lrp, "EpsilonPlus", trained=True)
    found += [
        Row("lrp", "zennit EpsilonPlus", "fer_hw3/cnn", trained, 1e-3, "float32"),
        Row("excitation_backprop", "zennit ExcitationBackprop", "CNN", _excitation, 1e-6,
            "both start with 1; zero_params=['bias'] in zennit, whose default gives biases a "
            "share; ours omits them, as the paper does"),
        Row("deep_taylor", "zennit ZBox and ZPlus", "CNN", _deep_taylor, 1e-6,
            "zennit has no composite of that name: built from its rules, without biases"),
        Row("guided_backprop", "zennit GuidedBackprop", "CNN",
            functools.partial(_composite, "guided_backprop", "GuidedBackprop"), 1e-12, SAME),
        Row("deconvnet", "zennit DeconvNet", "CNN",
            functools.partial(_composite, "deconvnet", "DeconvNet"), 1e-12, SAME),
        Row("saliency", "zennit Gradient", "CNN", functools.partial(_attributor, "saliency",
            "Gradient", {}, {}), 1e-12, SAME),
        Row("integrated_gradients", "zennit IntegratedGradients", "CNN",
            functools.partial(_attributor, "integrated_gradients", "IntegratedGradients",
                {"rule": "riemann_right", "steps": 20}, {"n_iter": 20}), 1e-9,
            "zennit's rule is riemann_right; ours is gausslegendre by default"),
        Row("occlusion", "zennit Occlusion", "CNN", _occlusion, 1e-9,
            "adjacent windows, invert=True in zennit (its default keeps the window and hides the "
            "rest); zennit returns the remaining score, ours the drop: zennit's was subtracted "
            "from the score for the comparison"),
    ]  # fmt: skip
    return found


def _seed(model: Any, target: Tensor, *, of_one: bool = False) -> Any:
    """The start of zennit's backward pass at the target: its score, or 1."""
    classes = torch.eye(5 if hasattr(model, "head") else 7)

    def start(scores: Tensor) -> Tensor:
        chosen = classes.to(scores)[target]
        return chosen if of_one else chosen * scores

    return start


def through(composite: Any, model: Any, x: Tensor, start: Any) -> Tensor:
    """The map of a composite, for a given start of the backward pass."""
    gradient = importlib.import_module("zennit.attribution").Gradient
    with gradient(model=model, composite=composite) as attributor:
        found: Tensor = attributor(x.clone(), start)[1]
    return found


def _lrp(name: str, *, norm: bool = False, trained: bool = False) -> tuple[Tensor, Tensor]:
    composites = importlib.import_module("zennit.composites")
    canonizers = importlib.import_module("zennit.canonizers")
    model, x = faces() if trained else (cnn(norm=norm), images())
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "lrp", **PRESETS[name]).attribution
    options: dict[str, Any] = (
        {"canonizers": [canonizers.SequentialMergeBatchNorm()]} if norm else {}
    )
    if name == "EpsilonGammaBox":
        options |= {"low": torch.full_like(x[:1], LOW), "high": torch.full_like(x[:1], HIGH)}
    composite = getattr(composites, name)(**options)
    return ours, through(composite, model, x, _seed(model, target))


def _excitation() -> tuple[Tensor, Tensor]:
    composites = importlib.import_module("zennit.composites")
    model, x = cnn(rectified=True), images(positive=True)
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "excitation_backprop").attribution
    start = _seed(model, target, of_one=True)
    return ours, through(
        composites.ExcitationBackprop(stabilizer=1e-9, zero_params=["bias"]), model, x, start
    )


def _deep_taylor() -> tuple[Tensor, Tensor]:
    composites, rules = (importlib.import_module(f"zennit.{n}") for n in ("composites", "rules"))
    kinds = importlib.import_module("zennit.types")
    model, x = cnn(rectified=True), images()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "deep_taylor", low=LOW, high=HIGH).attribution
    low, high = torch.full_like(x[:1], LOW), torch.full_like(x[:1], HIGH)
    composite = composites.SpecialFirstLayerMapComposite(
        layer_map=[
            (kinds.Activation, rules.Pass()),
            (kinds.Linear, rules.ZPlus(stabilizer=1e-9, zero_params=["bias"])),
        ],
        first_map=[(kinds.Convolution, rules.ZBox(low, high, stabilizer=1e-9))],
    )
    return ours, through(composite, model, x, _seed(model, target))


def _composite(method: str, name: str) -> tuple[Tensor, Tensor]:
    composites = importlib.import_module("zennit.composites")
    model, x = cnn(), images()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, method).attribution
    start = _seed(model, target, of_one=True)
    return ours, through(getattr(composites, name)(), model, x, start)


def _attributor(
    method: str, name: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    attribution = importlib.import_module("zennit.attribution")
    model, x = cnn(), images()
    target = predicted(model, x)
    found = ek.explain(model, x, target, method, **ours).attribution
    with getattr(attribution, name)(model=model, **theirs) as attributor:
        return found, attributor(x.clone(), _seed(model, target, of_one=True))[1]


def _occlusion() -> tuple[Tensor, Tensor]:
    attribution = importlib.import_module("zennit.attribution")
    model, x = cnn(), images()
    target = predicted(model, x)
    fields = {"window": (4, 5), "stride": (4, 5)}
    ours = ek.explain(model, x, target, "occlusion", **fields).attribution
    start = _seed(model, target)
    occlude = functools.partial(
        attribution.occlude_independent, fill_fn=torch.zeros_like, invert=True
    )
    with attribution.Occlusion(model=model, occlusion_fn=occlude, **fields) as attributor:
        left = attributor(x.clone(), start)[1]
    with torch.no_grad():
        score = model(x).gather(1, target[:, None])[:, :, None, None]
    return ours, score - left[:, :1]
