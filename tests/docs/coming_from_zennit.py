"""Snippets of docs/coming-from/zennit.md; run where zennit is installed."""

import warnings

import torch

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")
net, images = toy_models()["plain"]  # [4, 3, 12, 10]
model = ek.adapt(net, class_names=["angry", "disgust", "fear", "happy", "sad"])
images = images[:2]


def close(ours, theirs, tolerance=1e-3):
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


# --8<-- [start:theirs_plus]
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlusFlat

chosen = torch.eye(5)[[3, 4]]
with Gradient(model=model, composite=EpsilonPlusFlat()) as attributor:
    output, maps = attributor(images, lambda output: output * chosen)
# --8<-- [end:theirs_plus]

# --8<-- [start:plus]
explanation = ek.explain(
    model, images, ["happy", "sad"], method="lrp", composite="epsilon_plus_flat"
)
explanation.coverage["operators"]  # which rule each kind of operator got
explanation.diagnostics["conservation_gap"]
# --8<-- [end:plus]
close(explanation.attribution, maps)

# --8<-- [start:theirs_box]
from zennit.composites import EpsilonGammaBox

composite = EpsilonGammaBox(low=torch.zeros_like(images), high=torch.ones_like(images))
with Gradient(model=model, composite=composite) as attributor:
    output, maps = attributor(images, lambda output: output * chosen)
# --8<-- [end:theirs_box]

# --8<-- [start:box]
explanation = ek.explain(
    model, images, ["happy", "sad"], "lrp", composite="epsilon_gamma_box", low=0.0, high=1.0
)
# --8<-- [end:box]
close(explanation.attribution, maps)

# --8<-- [start:theirs_layer]
inner = []
handle = model[1].register_forward_hook(lambda module, args, output: inner.append(output))
with EpsilonPlusFlat().context(model) as modified:
    output = modified(images.clone().requires_grad_())
    (relevance,) = torch.autograd.grad((output * chosen).sum(), inner[-1])
handle.remove()
# --8<-- [end:theirs_layer]

# --8<-- [start:layer]
explanation = ek.explain(
    model, images, ["happy", "sad"], "lrp", at="1", composite="epsilon_plus_flat"
)
# --8<-- [end:layer]

# --8<-- [start:theirs_smooth]
from zennit.attribution import SmoothGrad

with SmoothGrad(noise_level=0.1, n_iter=20, model=model) as attributor:
    output, maps = attributor(images, lambda output: output * chosen)
# --8<-- [end:theirs_smooth]

# --8<-- [start:smooth]
explanation = ek.explain(
    model, images, ["happy", "sad"], "smoothgrad", noise=0.1, samples=20, relative=True
)
# --8<-- [end:smooth]

# --8<-- [start:theirs_excitation]
from zennit.composites import ExcitationBackprop

with Gradient(model=model, composite=ExcitationBackprop(zero_params=["bias"])) as attributor:
    output, maps = attributor(images, torch.eye(5)[[3, 4]])
# --8<-- [end:theirs_excitation]

# --8<-- [start:excitation]
explanation = ek.explain(model, images, ["happy", "sad"], "excitation_backprop")
# --8<-- [end:excitation]
close(explanation.attribution, maps)
