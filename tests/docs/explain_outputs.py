"""Snippets of docs/how-to/explain-outputs.md; run by tests/test_docs.py."""

import torch
from torch import nn


class Detector(nn.Module):
    """Scores of two classes and "no object" for four queries, and their boxes, as in DETR."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 7)

    def forward(self, x):
        found = self.head(self.features(x).relu().unflatten(2, (2, -1)).mean((3, 4))
                          .transpose(1, 2).repeat(1, 2, 1))  # fmt: skip
        return {"logits": found[..., :3], "pred_boxes": found[..., 3:].sigmoid()}


class Segmenter(nn.Module):
    """Scores of two classes at half resolution, as in DeepLab."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        scores = self.head(self.features(x).relu())
        return {"out": scores - scores.mean((0, 2, 3), True)}


images = torch.rand(2, 3, 16, 24)
detr = Detector().eval()

# --8<-- [start:detector]
import explainkit as ek

detector = ek.adapt(detr, class_names=["cat", "dog"])
explanation = ek.explain(detector, images, 'box_score("best", "cat")', "integrated_gradients")
explanation.plot()  # the box is outlined
# --8<-- [end:detector]
assert explanation.diagnostics["boxes"].shape == (2, 1, 4)

# --8<-- [start:boxes]
found = ek.explain(
    detector,
    images,
    targets=[
        'box_score(3, "cat")',
        "box_score(3, 0) - box_score(3, 2)",  # a cat rather than no object
        'box_coordinate("best", "left", "dog")',
    ],
    method="occlusion",
    window=4,
)
# --8<-- [end:boxes]
assert len(found) == 3


class Yolo(nn.Module):
    """A head as Ultralytics' models have: four sides and two class scores of each anchor."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 6, 4, 4)

    def forward(self, x):
        return self.head(x).flatten(2), None


yolo = Yolo().eval()

# --8<-- [start:yolo]
from explainkit.expressions import output

anchor, label = 7, 1
ek.explain(yolo, images, output(0, [4 + label, anchor]))
# --8<-- [end:yolo]

deeplab = Segmenter().eval()

# --8<-- [start:segmenter]
from explainkit.expressions import mask

segmenter = ek.adapt(deeplab, class_names=["road", "car"])
ek.explain(segmenter, images, 'mask("car", [0.5, 0, 1, 0.5])', "gradcam", layer="features")

predicted = segmenter(images[:1])["out"].argmax(1)[0] == 1  # a fixed region
rather = mask("car", predicted) - mask("road", predicted)
ek.explain(segmenter, images[:1], targets=[mask("car"), rather], method="integrated_gradients")
# --8<-- [end:segmenter]


class Towers(nn.Module):
    """A model of images and texts, called as those of OpenCLIP."""

    def __init__(self):
        super().__init__()
        self.visual, self.words = nn.Linear(3 * 16 * 24, 4), nn.Embedding(128, 4)

    def encode_image(self, images):
        return self.visual(images.flatten(1))

    def encode_text(self, tokens):
        return self.words(tokens).mean(1)


def tokenizer(texts):
    return torch.tensor([[ord(letter) for letter in text] for text in texts])


towers = Towers().eval()

# --8<-- [start:clip]
clip = ek.adapt(towers, tokenizer=tokenizer)
ek.explain(clip, images, 'similarity("a photo of a cat")', "integrated_gradients")
ek.explain(clip, images, 'similarity("a cat") - similarity("a dog")', "integrated_gradients")
# --8<-- [end:clip]

encoder = clip

# --8<-- [start:encoder]
from explainkit.expressions import feature, similarity

other = encoder(images[1:]).detach()[0]
ek.explain(encoder, images, targets=[feature(3), similarity(other)])
# --8<-- [end:encoder]
