"""How fast, and how exact.

Numbers instead of adjectives: what should sum up is summed up, what should be equal is compared,
and work is counted in passes, which are the same on every machine. The tables are what this page's
own code found when it was run.

Topic: Numbers
Order: 40
"""

# %% Does the map add up?
# Complete methods share out the change of the score from a baseline, so what is missing can be
# measured: |sum of the map − change| / max(|change|, 0.05). The worst of four images, on nine
# networks that are written in nine ways: rectifiers as functions, in place and reused, residual
# sums, batch normalization, a tuple as output, attention.
import warnings

import torch

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")  # the toys' maps on purpose have what explainkit warns of
METHODS = {
    "deeplift": {},
    "deeplift_shap": {},
    "integrated_gradients": {"steps": 50},
    "idgi": {},
    "expected_gradients": {"samples": 25},
}
toys = toy_models()


def gap(model, images, method, **params):
    """The worst completeness gap."""
    found = ek.explain(model, images, method=method, **params)
    return float(found.diagnostics["completeness_gap"].max())


rows = []
for name, (model, images) in toys.items():
    gaps = {method: gap(model, images, method, **params) for method, params in METHODS.items()}
    rows.append({"network": name} | {method: f"{value:.0g}" for method, value in gaps.items()})
rows

# %% Ask for less
# A path method's gap depends on its steps. It can be told a tolerance instead, and takes as many
# gradients as that needs.
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
# Rules belong to operators, and each map says which ones it met. One that no rule knows is an
# error, or a stated fallback: never a silent gradient.
rows = []
for name in ("plain", "functional", "reused", "residual"):
    met = ek.explain(*toys[name], method="lrp").coverage["operators"]
    words = [
        f"{count} {operator}: {rule.replace('_', '-')}"
        for operator, rules in met.items()
        for rule, count in rules.items()
        if rule != "linear"
    ]
    rows.append(
        {"network": name, "LRP's rules (linear operators keep their own)": ", ".join(words)}
    )
rows

# %% How many passes?
# Methods that need the same pass share it. A hook on the first layer counts the images
# that go through it: asked for one by one, and together.


def images_run(model, images, methods, alone):
    """How many images go through the model's first layer."""
    shown = []
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    hook = first.register_forward_hook(lambda _layer, _inputs, output: shown.append(len(output)))
    for chosen in methods if alone else [methods]:
        ek.explain(model, images, 0, chosen)
    hook.remove()
    return sum(shown)


model, images = toys["residual"]
SHARED = {
    "4 maps of gradients": ["saliency", "input_x_gradient", "gradcam", "hirescam"],
    "4 maps of rules": ["guided_backprop", "deconvnet", "deep_taylor", "excitation_backprop"],
    "2 black boxes": ["lime", "hsic"],
}
rows = []
for name, methods in SHARED.items():
    alone, together = (images_run(model, images[:1], methods, one) for one in (True, False))
    rows.append(
        {"methods": name, "images run, alone": alone, "together": together,
         "ratio": alone / together}
    )  # fmt: skip
rows

# %% The same numbers
# An image's map does not depend on its neighbors, and the same seed gives the same map. The
# largest difference relative to the map's largest value, between an image alone and in a batch
# of four:
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
            "batch size chosen": f"{float((batch - alone).abs().max() / alone.abs().max()):.0g}",
            "batch_size=2": "equal to the bit" if torch.equal(fixed_batch, fixed) else "differs",
        }
    )
rows
