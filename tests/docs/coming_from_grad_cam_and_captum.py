"""Snippets of docs/coming-from/beyond-one-label.md; run where both libraries are installed."""

import warnings

# --8<-- [start:imports]
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

import explainkit as ek
from explainkit.expressions import mask

# --8<-- [end:imports]
warnings.simplefilter("ignore")  # of the others, about hooks
torch.manual_seed(0)
images = torch.rand(2, 3, 16, 24)


class Detector(nn.Module):
    """Scores of two classes and "no object" for four queries, and their boxes, as in DETR."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6 * 96, 4 * 7)

    def forward(self, x):
        found = self.head(self.features(x).relu().flatten(1)).unflatten(1, (4, 7))
        return {"logits": found[..., :3], "pred_boxes": found[..., 3:].sigmoid()}


class Segmenter(nn.Module):
    """Scores of two classes at half resolution, as in DeepLab."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        scores = self.head(self.features(x).relu())
        return {"out": scores - scores.mean((2, 3), True)}


class Towers(nn.Module):
    """A model of images and texts, called as those of OpenCLIP."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(
            nn.Conv2d(3, 6, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 96, 4)
        )
        self.words = nn.Embedding(128, 4)

    def encode_image(self, images):
        return self.visual(images)

    def encode_text(self, tokens):
        return self.words(tokens).mean(1)


class Fusion(nn.Module):
    """Scores of an image and a depth map."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(4, 8, 3), nn.Linear(8, 3)

    def forward(self, rgb, depth):
        return self.head(self.features(torch.cat([rgb, depth], 1)).relu().mean((2, 3)))


def tokenizer(texts):
    return torch.tensor([[ord(letter) for letter in text] for text in texts])


def alike(one, other):
    """Whether maps are equal once each is clipped and scaled to [0, 1]."""
    maps = [torch.as_tensor(values).detach().flatten(1).clamp(min=0) for values in (one, other)]
    maps = [values - values.amin(1, keepdim=True) for values in maps]
    maps = [values / values.amax(1, keepdim=True) for values in maps]
    return torch.allclose(*maps, atol=1e-3)


detr = Detector().eval()

# --8<-- [start:boxes]
ours = ek.explain(detr, images, "box_score(3, 0)", "gradcam", layer="features")
# --8<-- [end:boxes]


# --8<-- [start:boxes_grad_cam]
class Logits(nn.Module):
    def __init__(self, detr):
        super().__init__()
        self.detr = detr

    def forward(self, images):
        return self.detr(images)["logits"]


with GradCAM(model=Logits(detr), target_layers=[detr.features]) as cam:
    maps = cam(input_tensor=images, targets=[lambda logits: logits[3, 0]] * len(images))
# --8<-- [end:boxes_grad_cam]
relu = ek.explain(detr, images, "box_score(3, 0)", "gradcam", layer="features", relu=True)
assert alike(relu.attribution, maps)

# --8<-- [start:boxes_captum]
cam = LayerGradCam(lambda images: detr(images)["logits"][:, 3], detr.features)
maps = LayerAttribution.interpolate(cam.attribute(images, 0), images.shape[2:], "bilinear")
# --8<-- [end:boxes_captum]
assert torch.allclose(ours.attribution, maps, atol=1e-6)

deeplab = Segmenter().eval()

# --8<-- [start:masks]
predicted = deeplab(images)["out"].argmax(1) == 1
ours = [
    ek.explain(deeplab, image[None], mask(1, region), "gradcam", layer="features")
    for image, region in zip(images, predicted, strict=True)
]
# --8<-- [end:masks]


# --8<-- [start:masks_grad_cam]
class Scores(nn.Module):
    def __init__(self, deeplab):
        super().__init__()
        self.deeplab = deeplab

    def forward(self, images):
        return self.deeplab(images)["out"]


class Mask:
    def __init__(self, label, mask):
        self.label, self.mask = label, mask

    def __call__(self, scores):
        return (scores[self.label] * self.mask).sum()


predicted = deeplab(images)["out"].argmax(1) == 1
with GradCAM(model=Scores(deeplab), target_layers=[deeplab.features]) as cam:
    maps = cam(input_tensor=images, targets=[Mask(1, mask) for mask in predicted])
# --8<-- [end:masks_grad_cam]
relu = [
    ek.explain(deeplab, image[None], mask(1, region), "gradcam", layer="features", relu=True)
    for image, region in zip(images, predicted, strict=True)
]
assert alike(torch.cat([one.attribution for one in relu]), maps)

# --8<-- [start:masks_captum]
predicted = deeplab(images)["out"].argmax(1, keepdim=True)


def score(images):
    scores = deeplab(images)["out"]
    return (scores * torch.zeros_like(scores).scatter(1, predicted, 1)).sum((2, 3))


cam = LayerGradCam(score, deeplab.features)
maps = LayerAttribution.interpolate(cam.attribute(images, 1), images.shape[2:], "bilinear")
# --8<-- [end:masks_captum]
for one, theirs, region in zip(ours, maps, predicted == 1, strict=True):
    assert torch.allclose(one.attribution[0], theirs / region.sum(), atol=1e-6)

towers = Towers().eval()

# --8<-- [start:texts]
clip = ek.adapt(towers, tokenizer=tokenizer)
ours = ek.explain(clip, images, 'similarity("a cat")', "gradcam", layer="model.visual.1")
# --8<-- [end:texts]


# --8<-- [start:texts_grad_cam]
class Similarity(nn.Module):
    def __init__(self, towers, text):
        super().__init__()
        self.towers, self.text = towers, towers.encode_text(tokenizer([text])).detach()

    def forward(self, images):
        return torch.cosine_similarity(self.towers.encode_image(images), self.text)[:, None]


with GradCAM(model=Similarity(towers, "a cat"), target_layers=[towers.visual[1]]) as cam:
    maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(0)] * len(images))
# --8<-- [end:texts_grad_cam]
relu = ek.explain(
    clip, images, 'similarity("a cat")', "gradcam", layer="model.visual.1", relu=True
)  # fmt: skip
assert alike(relu.attribution, maps)

# --8<-- [start:texts_captum]
text = towers.encode_text(tokenizer(["a cat"])).detach()


def score(images):
    return torch.cosine_similarity(towers.encode_image(images), text)


cam = LayerGradCam(score, towers.visual[1])
maps = LayerAttribution.interpolate(cam.attribute(images), images.shape[2:], "bilinear")
# --8<-- [end:texts_captum]
assert torch.allclose(ours.attribution, maps, atol=1e-6)

fusion, depth = Fusion().eval(), torch.rand(2, 1, 16, 24)

# --8<-- [start:inputs]
ours = ek.explain(fusion, (images, depth), 1, "integrated_gradients", steps=20)
# --8<-- [end:inputs]

# --8<-- [start:inputs_captum]
maps = IntegratedGradients(fusion).attribute((images, depth), target=1, n_steps=20)
# --8<-- [end:inputs_captum]
for mine, theirs in zip(ours, maps, strict=True):
    assert torch.allclose(mine.attribution, theirs.float(), atol=1e-5)

net = nn.Sequential(
    nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 5, 3, padding=1),
    nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3),
).eval()  # fmt: skip
scans = torch.rand(2, 1, 6, 8, 8)

# --8<-- [start:volumes]
ours = ek.explain(net, scans, 1, "gradcam", layer="4")
# --8<-- [end:volumes]

# --8<-- [start:volumes_grad_cam]
with GradCAM(model=net, target_layers=[net[4]]) as cam:
    maps = cam(input_tensor=scans, targets=[ClassifierOutputTarget(1)] * len(scans))
# --8<-- [end:volumes_grad_cam]
assert maps.shape == (2, 6, 8, 8)  # by splines, not linearly: other numbers

# --8<-- [start:volumes_captum]
cam = LayerGradCam(net, net[4])
maps = LayerAttribution.interpolate(cam.attribute(scans, 1), scans.shape[2:], "trilinear")
# --8<-- [end:volumes_captum]
assert torch.allclose(ours.attribution, maps, atol=1e-6)
