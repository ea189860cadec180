"""How fast, and how exact.

This page measures accuracy and work. Sums and results that should be equal are compared, and work
is counted in passes, which do not depend on the machine. The tables are the output of its code.

Topic: Numbers
Order: 40
"""

# %% Does the map add up?
# Complete methods distribute the change of the score from a baseline, so the error can be
# measured: |sum of the map − change| / max(|change|, 0.05). The table has the largest gap of four
# images on nine networks: functional, in-place and reused ReLUs, residual connections, batch
# normalization, a tuple as output, attention, and others.
import warnings

import torch

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")  # the toy models trigger warnings on purpose
METHODS = {
    "deeplift": {},
    "deeplift_shap": {},
    "integrated_gradients": {"steps": 50},
    "idgi": {},
    "expected_gradients": {"samples": 25},
}
toys = toy_models()


def gap(model, images, method, **params):
    """The largest completeness gap."""
    found = ek.explain(model, images, method=method, **params)
    return float(found.diagnostics["completeness_gap"].max())


rows = []
for name, (model, images) in toys.items():
    gaps = {method: gap(model, images, method, **params) for method, params in METHODS.items()}
    rows.append({"network": name} | {method: f"{value:.0g}" for method, value in gaps.items()})
rows

# %% Choose the accuracy
# The gap of a path method depends on its steps. With a tolerance instead, it takes as many
# gradients as necessary.
rows = []
model, images = toys["vit"]
for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
    one = ek.explain(model, images, method="integrated_gradients", tolerance=tolerance)
    rows.append(
        {
            "tolerance": f"{tolerance:g}",
            "worst gap": f"{float(one.diagnostics['completeness_gap'].max()):.0g}",
            "gradients per image": ", ".join(map(str, one.diagnostics["steps"].tolist())),
        }
    )
rows

# %% Which operators had a rule?
# Rules apply to operators, and each map lists the operators in its graph. An operator without a
# rule is an error or an explicit fallback, never a silent gradient.
rows = []
for name in ("plain", "functional", "reused", "residual"):
    covered = ek.explain(*toys[name], method="lrp").coverage["operators"]
    counts = [
        f"{count} {operator}: {rule.replace('_', '-')}"
        for operator, rules in covered.items()
        for rule, count in rules.items()
        if rule != "linear"
    ]
    rows.append({"network": name, "LRP's rules (besides linear operators)": ", ".join(counts)})
rows

# %% How many passes?
# Methods that need the same pass share it. A hook on the first layer counts the images that pass
# through it, for separate calls and for one call.


def images_run(model, images, methods, alone):
    """The number of images that pass through the model's first layer."""
    shown = []
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    hook = first.register_forward_hook(lambda _layer, _inputs, output: shown.append(len(output)))
    for chosen in methods if alone else [methods]:
        ek.explain(model, images, 0, chosen)
    hook.remove()
    return sum(shown)


model, images = toys["residual"]
SHARED = {
    "4 gradient methods": ["saliency", "input_x_gradient", "gradcam", "hirescam"],
    "4 propagation methods": ["guided_backprop", "deconvnet", "deep_taylor", "excitation_backprop"],
    "2 black-box methods": ["lime", "hsic"],
}
rows = []
for name, methods in SHARED.items():
    alone, together = (images_run(model, images[:1], methods, one) for one in (True, False))
    rows.append(
        {"methods": name, "images run, separately": alone, "together": together,
         "ratio": alone / together}
    )  # fmt: skip
rows

# %% Reproducibility
# An image's map does not depend on the other images in the batch, and the same seed gives the same
# map. The table has the largest difference between an image alone and in a batch of four, relative
# to the map's largest value.
rows = []
model, images = toys["residual"]
for method in ("saliency", "smoothgrad", "lrp", "occlusion", "rise", "lime"):
    batch, alone, fixed_batch, fixed = (
        ek.explain(model, part, 0, method, batch_size=size).attribution[0]
        for size in (None, 2) for part in (images, images[:1])
    )  # fmt: skip
    rows.append(
        {
            "method": method,
            "default batch size": f"{float((batch - alone).abs().max() / alone.abs().max()):.0g}",
            "batch_size=2": "bit-identical" if torch.equal(fixed_batch, fixed) else "differs",
        }
    )
rows
