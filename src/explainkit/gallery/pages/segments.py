"""Segments.

A network that segments gives each pixel a class. Why these pixels, and why this class? The network
here is small and trained on this page, on scenes in which the class of an object depends on
something beside it, so the page can show whether a map finds that.

Topic: Other outputs
Order: 17
"""

# %% Scenes
# Two discs on noise. A disc with a red mark beside it is of class "red", one with a blue mark of
# class "blue", and one without a mark is background. The mark is background, too: no pixel of a
# disc shows its class.
#
# Alt: Six noisy images, each with two pale discs in different quarters. One disc of each has a
# small red or blue square at one side.
from collections import Counter

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

import explainkit as ek
from explainkit.expressions import mask
from explainkit.render.compare import images_figure

CLASSES = ("red", "blue", "background")
PAINT = torch.tensor([[0.4, -0.2, -0.2], [-0.2, -0.2, 0.4], [0, 0, 0]])


def apart(points):
    """How far each pixel is from points [count, 2, xy], along x and along y."""
    pixel = torch.arange(48)
    return [(pixel - points[..., axis, None]).abs().unsqueeze(axis - 2) for axis in (0, 1)]


def scenes(count, seed):
    """Images [count, 3, 48, 48]; of each of two discs its kind, its mask, and that of its mark."""
    generator = torch.Generator().manual_seed(seed)
    quarters = torch.rand(count, 4, generator=generator).argsort(1)[:, :2]
    centers = torch.stack([quarters % 2, quarters // 2], -1) * 24 + 12
    centers = centers + torch.randint(-2, 3, centers.shape, generator=generator)
    kinds = torch.rand(count, 3, generator=generator).argsort(1)[:, :2]
    sides = torch.tensor([[0, -8], [0, 8], [-8, 0], [8, 0]])
    beside = centers + sides[torch.randint(4, (count, 2), generator=generator)]
    x, y = apart(centers)
    discs = x**2 + y**2 < 36
    marks = torch.maximum(*apart(beside)) < 3
    marks = marks & ~discs & (kinds < 2)[..., None, None]
    paint = 0.3 * discs[:, :, None] + marks[:, :, None] * PAINT[kinds][..., None, None]
    noise = torch.rand(count, 3, 48, 48, generator=generator)
    return 0.3 + 0.2 * noise + paint.sum(1), kinds, discs, marks


images_figure([one.permute(1, 2, 0).numpy() for one in scenes(6, seed=1)[0]], columns=6)

# %% A network that segments
# Like DeepLab it returns the logits of each class for each pixel, here at a quarter of the
# resolution, from fine features and from coarse ones that see further.


class Segmenter(nn.Module):
    """Logits of three classes."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.context = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()
        )
        self.near, self.far = nn.Conv2d(16, 3, 3, 1, 1), nn.Conv2d(32, 3, 1)

    def forward(self, images):
        fine = self.fine(images - 0.4)
        return {"out": self.near(fine) + interpolate(self.far(self.context(fine)), scale_factor=2)}


def classes_of(kinds, discs):
    """The class of each pixel at a quarter of the resolution."""
    covered = avg_pool2d(discs.float(), 4) > 0.5
    return torch.where(covered, kinds[..., None, None], 2).amin(1)


torch.manual_seed(0)
network = Segmenter()
optimizer = torch.optim.Adam(network.parameters(), 4e-3)
pixels, kinds, discs, _ = scenes(1024, seed=0)
wanted, rare = classes_of(kinds, discs), torch.tensor([1.0, 1.0, 0.5])
for step in range(400):
    batch = torch.arange(32 * step, 32 * step + 32) % 1024
    optimizer.zero_grad()
    cross_entropy(network(pixels[batch])["out"], wanted[batch], rare).backward()
    optimizer.step()

segmenter = ek.adapt(network.eval(), class_names=CLASSES)
pixels, kinds, discs, marks = scenes(96, seed=2)
with torch.no_grad():
    predicted = segmenter(pixels)["out"].argmax(1)
wanted = classes_of(kinds, discs)
right = [(predicted == wanted)[wanted == i].double().mean() for i in range(3)]
[{"pixels": name, "correct": float(share)} for name, share in zip(CLASSES, right, strict=True)]

# %% Why is there a blue disc?
# `mask("blue")` is the margin by which the class wins, summed where it is predicted. The figure has
# three scenes with a blue disc; all numbers below are of twelve.
#
# Alt: Three scenes with two pale discs, one of which has a blue mark, and four maps of each. Those
# of integrated gradients, DeepLIFT and occlusion are red on this disc and its mark, and nothing on
# the other disc. Grad-CAM is blue nearly everywhere, and least so at the disc with the mark.
METHODS = ["integrated_gradients", "deeplift", "occlusion", "gradcam"]
OPTIONS = {"method": METHODS, "baseline": 0.4, "steps": 32, "window": 6}
chosen = (kinds == 1).any(1).nonzero()[:12, 0]
which = (kinds[chosen] == 1).int().argmax(1)
disc, mark = discs[chosen, which], marks[chosen, which]
pixels, regions = pixels[chosen], predicted[chosen] == 1
found = ek.explain(segmenter, pixels, mask("blue"), **OPTIONS)
ek.explain(segmenter, pixels[:3], mask("blue"), **OPTIONS).plot()

# %% The truth
# What the network does without a part: the mark or the disc is replaced by the mean gray of the
# background. Without either, almost nothing of the score is left: the network needs both.
rows = [{"without": "nothing", "score": float(found[0].score.mean())}]
for name, part in {"the mark": mark, "the disc": disc}.items():
    without = ek.explain(segmenter, torch.where(part[:, None], 0.4, pixels), mask("blue"))
    rows.append({"without": name, "score": float(without.score.mean())})
rows

# %% Does the map find the mark?
# The shares of the positive part of each map. The second target compares two classes over one
# region, the pixels that are predicted blue in the scene as it is: why blue rather than red?
# Integrated gradients and DeepLIFT have more than a third on the mark, and of the comparison, where
# the disc matters less, three fifths. Occlusion hides squares, which reach beyond both. Grad-CAM
# has no positive part for the first target (nan).
rather = [
    ek.explain(segmenter, image[None], mask("blue", region) - mask("red", region), **OPTIONS)
    for image, region in zip(pixels, regions, strict=True)
]


def shares(maps):
    """The mean share of the positive part of maps [count, 48, 48] on each part of the scene."""
    positive = maps.clamp(min=0)
    total = positive.flatten(1).sum(1)
    parts = {"on the disc": disc, "on its mark": mark, "elsewhere": ~(disc | mark)}
    return {
        name: float(((positive * part).flatten(1).sum(1) / total).nanmean())
        for name, part in parts.items()
    }


rows = []
for i, method in enumerate(METHODS):
    differences = torch.cat([one[i].heatmap() for one in rather])
    rows.append({"method": method, "target": "blue"} | shares(found[i].heatmap()))
    rows.append({"method": method, "target": "blue rather than red"} | shares(differences))
rows

# %% What the test says
# Verdicts are withheld: on these scenes, a map that is known to predict what hiding does fails the
# test too often (the positive control). "Low power" is not "wrong": here, the known truth tells.
[
    {
        "method": card.method.rpartition("/")[2],
        "verdicts": ", ".join(f"{number} {text}" for text, number in Counter(card.verdict).items()),
    }
    for card in found.scorecards()
]
