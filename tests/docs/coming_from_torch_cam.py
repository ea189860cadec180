"""Snippets of docs/coming-from/torch-cam.md; run where torch-cam is installed."""

import warnings

import torch
from PIL import Image

import explainkit as ek
from explainkit.testing import toy_models

warnings.simplefilter("ignore")
net, images = toy_models()["plain"]  # [4, 3, 12, 10]
model = ek.adapt(net, class_names=["angry", "disgust", "fear", "happy", "sad"])
images = images[:2]
face = Image.fromarray((images[0] * 255).byte().permute(1, 2, 0).numpy())


# --8<-- [start:theirs_cam]
from torchcam.methods import GradCAM

with GradCAM(model, target_layer="4") as extractor:
    scores = model(images)
    maps = extractor(scores.argmax(1).tolist(), scores)[0]  # [2, 4, 3], in [0, 1]
# --8<-- [end:theirs_cam]

# --8<-- [start:cam]
explanation = ek.explain(model, images, method="gradcam", layer="4", relu=True)
explanation.attribution  # [2, 1, 12, 10], each cell where its receptive field is
# --8<-- [end:cam]

# --8<-- [start:theirs_layers]
from torchcam.methods import LayerCAM

with LayerCAM(model, target_layer=["1", "4"]) as extractor:
    scores = model(images)
    fused = extractor.fuse_cams(extractor(scores.argmax(1).tolist(), scores))
# --8<-- [end:theirs_layers]

# --8<-- [start:layers]
explanation = ek.explain(model, images, method="layercam", layer=("1", "4"))
# --8<-- [end:layers]

# --8<-- [start:theirs_overlay]
from torchcam.utils import overlay_mask
from torchvision.transforms.functional import to_pil_image

figure = overlay_mask(face, to_pil_image(fused[0], mode="F"), alpha=0.5)
# --8<-- [end:theirs_overlay]

# --8<-- [start:overlay]
explanation.plot(alpha=0.5).savefig("heatmaps.png")
# --8<-- [end:overlay]

# --8<-- [start:theirs_score]
from torchcam.methods import ScoreCAM

with ScoreCAM(model, target_layer="4", batch_size=64) as extractor, torch.no_grad():
    scores = model(images[:1])
    maps = extractor(scores.argmax(1).item(), scores)[0]
# --8<-- [end:theirs_score]

# --8<-- [start:score]
explanation = ek.explain(model, images[:1], method="score_cam", layer="4")
# --8<-- [end:score]

# --8<-- [start:theirs_finer]
from torchcam.methods import FinerCAM

with FinerCAM(model, target_layer="4") as extractor:
    scores = model(images[:1])
    maps = extractor(3, scores)[0]
# --8<-- [end:theirs_finer]

# --8<-- [start:finer]
from explainkit.methods import FinerCAM, GradCAM

explanation = ek.explain(model, images[:1], "happy", FinerCAM(base=GradCAM(layer="4")))
# --8<-- [end:finer]
