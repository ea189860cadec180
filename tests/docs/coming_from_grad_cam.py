"""Snippets of docs/coming-from/pytorch-grad-cam.md; run where it is installed."""

import warnings

import torch

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")  # of pytorch-grad-cam, about hooks
net, images = toy_models()["plain"]  # [4, 3, 12, 10]
model = ek.adapt(net, class_names=["angry", "disgust", "fear", "happy", "sad"])
images = images[:2]
photo = images[0].permute(1, 2, 0).numpy()
vit, photos = toy_models()["vit"]


def scaled(values):
    """To [0, 1], as pytorch-grad-cam scales every map."""
    values = torch.as_tensor(values)
    values = values - values.amin((-2, -1), keepdim=True)
    return values / values.amax((-2, -1), keepdim=True)


# --8<-- [start:theirs_cam]
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

with GradCAM(model=model, target_layers=[model[4]]) as cam:
    maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(3), ClassifierOutputTarget(4)])
# --8<-- [end:theirs_cam]

# --8<-- [start:cam]
explanation = ek.explain(
    model, images, ["happy", "sad"], "gradcam", layer="4", relu=True, placement="stretch"
)
explanation.attribution  # signed and in units of the score: without relu=, negative parts too
# --8<-- [end:cam]
assert torch.allclose(scaled(explanation.heatmap()), scaled(maps), atol=1e-3)

# --8<-- [start:theirs_overlay]
from pytorch_grad_cam.utils.image import show_cam_on_image

figure = show_cam_on_image(photo, maps[0], use_rgb=True)
# --8<-- [end:theirs_overlay]

# --8<-- [start:overlay]
explanation.plot(alpha=0.6).savefig("heatmaps.png")
# --8<-- [end:overlay]

# --8<-- [start:theirs_several]
from pytorch_grad_cam import GradCAMPlusPlus, LayerCAM, XGradCAM

maps = {}
for kind in (GradCAM, GradCAMPlusPlus, XGradCAM, LayerCAM):
    with kind(model=model, target_layers=[model[4]]) as cam:
        maps[kind.__name__] = cam(input_tensor=images, targets=None)
# --8<-- [end:theirs_several]

# --8<-- [start:several]
methods = ["GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM"]  # or gradcam, gradcam_plus_plus, …
explanations = ek.explain(model, images, method=methods, layer="4", placement="stretch")
explanations.get(method="layercam").plot()
# --8<-- [end:several]
layercam = explanations.get(method="layercam").heatmap().clamp(min=0)
assert torch.allclose(scaled(layercam), scaled(maps["LayerCAM"]), atol=1e-3)


# --8<-- [start:theirs_vit]
def reshape(tokens):
    return tokens[:, 1:].reshape(len(tokens), 6, 5, -1).permute(0, 3, 1, 2)


with GradCAM(model=vit, target_layers=[vit.blocks[-1].norm], reshape_transform=reshape) as cam:
    maps = cam(input_tensor=photos, targets=None)
# --8<-- [end:theirs_vit]

# --8<-- [start:vit]
explanation = ek.explain(vit, photos, method="gradcam")  # finds layer, patches and prefix tokens
# --8<-- [end:vit]

# --8<-- [start:theirs_road]
from pytorch_grad_cam.metrics.road import ROADCombined

with GradCAM(model=model, target_layers=[model[4]]) as cam:
    maps = cam(input_tensor=images, targets=None)
targets = [ClassifierOutputTarget(3), ClassifierOutputTarget(4)]
scores = ROADCombined(percentiles=[20, 40])(images, maps, targets, model)
# --8<-- [end:theirs_road]

# --8<-- [start:road]
from explainkit.metrics import road

explanation = ek.explain(model, images, ["happy", "sad"], "gradcam")
road(model, images, explanation.attribution, explanation.target, shares=(0.2, 0.4))
explanation.scorecard()  # does hiding what the map marks do what the map says?
# --8<-- [end:road]
