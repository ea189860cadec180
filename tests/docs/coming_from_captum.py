"""Snippets of docs/coming-from/captum.md; run by tests/test_docs.py."""

import warnings

import torch

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")  # Captum's, about hooks
net, images = toy_models()["plain"]  # [4, 3, 12, 10]
model = ek.adapt(net, class_names=["angry", "disgust", "fear", "happy", "sad"])
target = 3


def close(ours, theirs, tolerance=1e-4):
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


# --8<-- [start:captum_ig]
from captum.attr import IntegratedGradients

maps, delta = IntegratedGradients(model).attribute(
    images, target=target, n_steps=50, return_convergence_delta=True
)
# --8<-- [end:captum_ig]

# --8<-- [start:ig]
explanation = ek.explain(model, images, target, "integrated_gradients", steps=50)

explanation.attribution
explanation.diagnostics["completeness_gap"]  # delta, relative to the change of the score
# --8<-- [end:ig]
close(explanation.attribution, maps)

# --8<-- [start:captum_occlusion]
from captum.attr import Occlusion

maps = Occlusion(model).attribute(
    images,
    target=target,
    sliding_window_shapes=(3, 4, 4),
    strides=(1, 2, 2),
    perturbations_per_eval=64,
)
# --8<-- [end:captum_occlusion]

# --8<-- [start:occlusion]
explanation = ek.explain(model, images, target, "occlusion", window=4, stride=2)
# --8<-- [end:occlusion]
close(explanation.attribution.expand_as(maps), maps)

# --8<-- [start:captum_gradcam]
from captum.attr import LayerAttribution, LayerGradCam

cells = LayerGradCam(model, model.get_submodule("4")).attribute(images, target=target)
maps = LayerAttribution.interpolate(cells, (12, 10), interpolate_mode="bilinear")
# --8<-- [end:captum_gradcam]

# --8<-- [start:gradcam]
explanation = ek.explain(model, images, target, "gradcam", layer="4", placement="stretch")
# --8<-- [end:gradcam]
close(explanation.attribution, maps.detach())

# --8<-- [start:captum_noise]
from captum.attr import NoiseTunnel, Saliency

torch.manual_seed(0)
maps = NoiseTunnel(Saliency(model)).attribute(
    images, target=target, nt_type="smoothgrad", nt_samples=25, stdevs=0.1, abs=False
)
# --8<-- [end:captum_noise]

# --8<-- [start:noise]
explanation = ek.explain(
    model, images, target, "smoothgrad", samples=25, noise=0.1, relative=False, seed=0
)
explanation.diagnostics["standard_error"]  # of every pixel
# --8<-- [end:noise]
both = torch.stack([explanation.attribution.flatten(), maps.flatten()])
assert torch.corrcoef(both)[0, 1] > 0.9  # the same estimate from other noise

# --8<-- [start:captum_all]
attribution = IntegratedGradients(model)
maps = torch.stack([attribution.attribute(images, target=k, n_steps=20) for k in range(5)])
# --8<-- [end:captum_all]

# --8<-- [start:all]
explanations = ek.explain(model, images, targets="all", method="integrated_gradients", steps=20)
explanations.get(target="happy").plot()
# --8<-- [end:all]
close(torch.stack([e.attribution for e in explanations]), maps)
