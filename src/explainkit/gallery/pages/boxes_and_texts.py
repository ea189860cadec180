"""A detector, and a model of images and texts.

Not every model returns one score per class. A target names the score: that of a box, or of a text.
The models here are small and trained on this page, on scenes whose parts are known, so the page can
show whether a map finds the right one.

Topic: Other outputs
Order: 16
"""

# %% Scenes
# A disc and a cross, each red, green or blue, in two quarters of a noisy image.
#
# Alt: Six noisy images, each with a disc and a cross in red, green or blue, in different quarters.
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, normalize, one_hot

import explainkit as ek
from explainkit.render.compare import images_figure

SHAPES, COLORS = ("disc", "cross"), ("red", "green", "blue")


def scenes(count, seed, objects=2):
    """Images [count, 3, 48, 48]; and of each object its shape, its color, its mask and center."""
    generator = torch.Generator().manual_seed(seed)
    quarters = torch.rand(count, 4, generator=generator).argsort(1)[:, :objects]
    centers = torch.stack([quarters % 2, quarters // 2], -1) * 24 + 12
    centers = centers + torch.randint(-3, 4, centers.shape, generator=generator)
    shapes = torch.rand(count, 2, generator=generator).argsort(1)[:, :objects]
    colors = torch.randint(3, shapes.shape, generator=generator)
    x, y = (
        (torch.arange(48) - centers[..., axis, None]).abs().unsqueeze(axis - 2) for axis in (0, 1)
    )
    cross = (torch.maximum(x, y) < 8) & (torch.minimum(x, y) < 3)
    masks = torch.where(shapes[..., None, None] == 0, x**2 + y**2 < 56, cross)
    paint = masks[:, :, None] * one_hot(colors, 3)[..., None, None]
    noise = torch.rand(count, 3, 48, 48, generator=generator)
    return 0.3 + 0.2 * noise + 0.4 * paint.sum(1), shapes, colors, masks, centers / 48


images, shapes, colors, masks, _ = scenes(6, seed=1)
images_figure([one.permute(1, 2, 0).numpy() for one in images], columns=6)

# %% A detector that also segments
# Like DETR it returns logits of each class and of "no object" with a box, here for each of 6 × 6
# cells; and like DeepLab a class for each pixel, at a quarter of the resolution.


class Network(nn.Module):
    """Boxes and masks from the same features."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        self.coarse = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()
        )
        self.boxes = nn.Conv2d(32, 7, 1)
        self.pixels, self.regions = nn.Conv2d(16, 3, 1), nn.Conv2d(32, 3, 1)
        cells = torch.cartesian_prod(torch.arange(6), torch.arange(6)).flip(1)
        self.register_buffer("cells", cells.float())

    def forward(self, images):
        fine = self.fine(images - 0.4)
        coarse = self.coarse(fine)
        found = self.boxes(coarse).flatten(2).mT
        centers = (self.cells + found[..., 3:5].sigmoid()) / 6
        boxes = torch.cat([centers, found[..., 5:].sigmoid()], 2)
        pixels = self.pixels(fine) + interpolate(self.regions(coarse), scale_factor=2)
        return {"logits": found[..., :3], "pred_boxes": boxes, "out": pixels}


def losses(found, shapes, masks, centers):
    """Of classes and boxes of cells, and of classes of pixels."""
    cells = (6 * centers).long() @ torch.tensor([1, 6])
    wanted = torch.full(found["logits"].shape[:2], 2).scatter(1, cells, shapes)
    chosen = found["pred_boxes"].gather(1, cells[..., None].expand(-1, -1, 4))
    boxes = torch.cat([centers, torch.full_like(centers, 15 / 48)], 2)
    covered = avg_pool2d(masks.float(), 4) > 0.5
    pixels = torch.where(covered, shapes[..., None, None], 2).amin(1)
    rare = torch.tensor([1.0, 1.0, 0.2])  # most cells show no object
    return (
        cross_entropy(found["logits"].mT, wanted, rare)
        + 5 * (chosen - boxes).abs().mean()
        + cross_entropy(found["out"], pixels, torch.tensor([1.0, 1.0, 0.5]))
    )


torch.manual_seed(0)
network = Network()
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
train = scenes(1024, seed=0)
for step in range(300):
    batch = torch.arange(32 * step, 32 * step + 32) % 1024
    pixels, kinds, _, covered, centers = (part[batch] for part in train)
    optimizer.zero_grad()
    losses(network(pixels), kinds, covered, centers).backward()
    optimizer.step()

detector = ek.adapt(network.eval(), class_names=SHAPES)
test = scenes(96, seed=2)
with torch.no_grad():
    found = detector(test[0])
best = found["logits"].softmax(2)[..., :2].argmax(1)
centers = found["pred_boxes"].gather(1, best[..., None].expand(-1, -1, 4))[..., :2]
true = test[4].gather(1, test[1].argsort(1)[..., None].expand(-1, -1, 2))
kinds = torch.where(avg_pool2d(test[3].float(), 4) > 0.5, test[1][..., None, None], 2).amin(1)
[
    {"boxes within 3 pixels": float(((centers - true).abs() * 48 < 3).all(2).double().mean()),
     "right class of pixels of objects":
     float((found["out"].argmax(1) == kinds)[kinds < 2].double().mean()),
     "of the background": float((found["out"].argmax(1) == kinds)[kinds == 2].double().mean())}
]  # fmt: skip

# %% Why is there a disc?
# The score of the best box of a class. The figure outlines the box. The baseline is the mean gray
# of the background: black never occurs in these scenes, and may look like anything to the network.
#
# Alt: Three scenes, each with a box around its disc, and under each the maps for the score of that
# box: integrated gradients and occlusion are red on the disc alone, Grad-CAM is blue around it.
METHODS = ["integrated_gradients", "gradcam", "occlusion"]
disc = 'box_score("best", "disc")'
ek.explain(detector, images[:3], disc, METHODS, layer="coarse", window=6, baseline=0.4).plot()

# %% Does the map find it?
# The share of the positive part of a map on the explained object, on the other one, and on the
# background, over twelve new scenes. All three methods find the disc. For the cross they disagree:
# integrated gradients have most of their positive part on the disc.
some = [part[:12] for part in test]
order = some[1].argsort(1)
discs, crosses = some[3].gather(1, order[..., None, None].expand(-1, -1, 48, 48)).unbind(1)


def shares(maps, *parts):
    """The mean share of the map in each part, over the images."""
    total = maps.flatten(1).sum(1)
    return [float(((maps * part).flatten(1).sum(1) / total).nanmean()) for part in parts]


def table(model, images, targets, parts, methods, **options):
    """For each target and method, the shares of the map's positive part."""
    rows = []
    for one in ek.explain(model, images, targets=targets, method=methods, **options):
        found = shares(one.heatmap().clamp(min=0), *parts.values())
        row = {"target": f"`{one.expression}`", "method": one.method.rpartition("/")[2]}
        rows.append(row | dict(zip(parts, found, strict=True)))
    return rows


parts = {"on the disc": discs, "on the cross": crosses, "elsewhere": ~(discs | crosses)}
targets = [disc, disc.replace("disc", "cross")]
table(detector, some[0], targets, parts, METHODS, layer="coarse", window=6, baseline=0.4, steps=32)

# %%
# An edge of the box is a target, too. One might expect that the left half of the disc moves its
# left edge. The shares of the two halves in the absolute map:
left = torch.arange(48) < 48 * some[4].gather(1, order[:, :1, None].expand(-1, -1, 2))[..., :1]
edge = ek.explain(
    detector,
    some[0],
    'box_coordinate("best", "left", "disc")',
    "integrated_gradients",
    steps=32,
    baseline=0.4,
)
sizes = edge.heatmap().abs()
halves = shares(sizes * discs, left.float().expand(-1, 48, 48), (~left).float().expand(-1, 48, 48))
[dict(zip(["left half of the disc", "right half"], halves, strict=True))]

# %% A model of images and texts
# As in CLIP, two towers are trained so that an image is closer to its own caption than to others.
# Training images have one object; the six captions are such as "a red disc".
WORDS = ("a", *COLORS, *SHAPES)
CAPTIONS = [f"a {color} {shape}" for color in COLORS for shape in SHAPES]


class Towers(nn.Module):
    """A CNN for images, and for texts the mean of learned words."""

    def __init__(self):
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        )  # fmt: skip
        self.embed = nn.Linear(32, 16)
        self.words = nn.Embedding(len(WORDS), 16)

    def encode_image(self, images):
        return self.embed(self.coarse(images - 0.4).amax((2, 3)))

    def encode_text(self, tokens):
        return self.words(tokens).mean(1)


def tokenizer(texts):
    """The numbers of the words of each text."""
    return torch.tensor([[WORDS.index(word) for word in text.split()] for text in texts])


def similarities(towers, images):
    """The cosines of images and captions."""
    pair = towers.encode_image(images), towers.encode_text(tokenizer(CAPTIONS))
    return normalize(pair[0]) @ normalize(pair[1]).mT


towers = Towers()
optimizer = torch.optim.Adam(towers.parameters(), 6e-3)
train = scenes(1024, seed=0, objects=1)
captions = (2 * train[2] + train[1])[:, 0]
for step in range(400):
    batch = torch.arange(32 * step, 32 * step + 32) % 1024
    optimizer.zero_grad()
    cross_entropy(10 * similarities(towers, train[0][batch]), captions[batch]).backward()
    optimizer.step()
clip = ek.adapt(towers.eval(), tokenizer=tokenizer)
new = scenes(96, seed=2, objects=1)
with torch.no_grad():
    predicted = similarities(towers, new[0]).argmax(1)
accuracy = float((predicted == (2 * new[2] + new[1])[:, 0]).double().mean())
print(f"{accuracy:.1%} of 96 new images are closest to their own caption.")

# %% Where is the text in the image?
# Scenes with a red disc and a blue cross. A text may be a caption, a single word, or the difference
# of two.
#
# Alt: One scene with a red disc and a blue cross, and the maps of four texts over it: a red disc, a
# blue cross, red, and a red disc rather than a blue cross.
both = scenes(400, seed=3)
kinds = both[1].argsort(1)
first, second = both[2].gather(1, kinds).unbind(1)
wanted = ((first == 0) & (second == 2)).nonzero()[:12, 0]
pixels = both[0][wanted]
discs, crosses = both[3].gather(1, kinds[..., None, None].expand(-1, -1, 48, 48))[wanted].unbind(1)
TEXTS = [
    'similarity("a red disc")',
    'similarity("a blue cross")',
    'similarity("red")',
    'similarity("a red disc") - similarity("a blue cross")',
]
ek.explain(clip, pixels[:1], targets=TEXTS, method="integrated_gradients", baseline=0.4).plot()

# %%
parts = {"on the red disc": discs, "on the blue cross": crosses, "elsewhere": ~(discs | crosses)}
table(
    clip,
    pixels,
    TEXTS,
    parts,
    ["integrated_gradients", "occlusion"],
    window=6,
    baseline=0.4,
    steps=32,
)

# %% From the shell
# The same targets are texts there. Trained models of this kind come from a hub, which this page
# does without:
#
# ```sh
# explainkit explain street.jpg --model transformers:facebook/detr-resnet-50 \
#     --target 'box_score("best", "car")' --method integrated_gradients
# ```
