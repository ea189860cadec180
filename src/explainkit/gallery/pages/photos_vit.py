"""Photos, explained by a vision transformer.

No trained vision transformer is available as a package, so this page trains a small one, of the
class `ViTForImageClassification` of transformers, to tell four photos apart by small patches. That
is an easy task, but its answer is known: in a mosaic of the four photos, a map for one of them
should be in its quarter, as in the grid pointing game (Böhle et al., 2021, arXiv:2104.00032).

Topic: Photos
Order: 14
Packages: scikit-image, transformers
"""

# %% Four photos, and mosaics of them
# Patches of 64 × 64 pixels to train with, and mosaics of four patches of 32 × 32 to explain. The
# photos are part of scikit-image: Chelsea the cat (Stéfan van der Walt, CC0), a cup of coffee
# (Rachel Michetti, CC0), the launch of a Falcon 9 (SpaceX, public domain), and the astronaut Eileen
# Collins (NASA, public domain).
#
# Alt: Six mosaics of four patches each, such as fur, wood, porcelain, sky and hair.
import numpy as np
import skimage.data
import torch
from transformers import ViTConfig, ViTForImageClassification

import explainkit as ek
from explainkit.adapters.preprocessing import Preprocessing, Resize
from explainkit.render.compare import images_figure

NAMES = ["cat", "coffee", "rocket", "astronaut"]
photos = [
    torch.from_numpy(np.ascontiguousarray(photo[:300, :450])).permute(2, 0, 1) / 127.5 - 1
    for photo in (getattr(skimage.data, name)() for name in ["chelsea", *NAMES[1:]])
]


def patch(photo, side):
    """A random square of a photo."""
    top, left = (int(torch.randint(size - side, ())) for size in photo.shape[1:])
    return photo[:, top : top + side, left : left + side]


def batch(count):
    """Random patches, and the numbers of their photos."""
    labels = torch.randint(4, (count,))
    return torch.stack([patch(photos[k], 64) for k in labels]), labels


def mosaic():
    """Patches of the four photos in the four quarters, in random order, and that order."""
    order = torch.randperm(4)
    quarters = [patch(photos[k], 32) for k in order]
    return torch.cat([torch.cat(quarters[:2], 2), torch.cat(quarters[2:], 2)], 1), order


mosaics, orders = map(torch.stack, zip(*(mosaic() for _ in range(12)), strict=True))
images_figure([(one.permute(1, 2, 0).double().numpy() + 1) / 2 for one in mosaics[:6]], columns=6)

# %% Train it
config = ViTConfig(
    image_size=64, patch_size=8, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=128, num_labels=4, attn_implementation="eager",
)  # fmt: skip
vit = ViTForImageClassification(config)
optimizer = torch.optim.AdamW(vit.parameters(), 1e-3)
for _ in range(200):
    images, labels = batch(32)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(vit(images).logits, labels).backward()
    optimizer.step()
model = ek.adapt(
    vit.eval(),
    preprocessing=Preprocessing((Resize(64, "exact"),), mean=(0.5,) * 3, std=(0.5,) * 3),
    class_names=NAMES,
)
images, labels = batch(200)
with torch.no_grad():
    accuracy = float((model(images).logits.argmax(1) == labels).double().mean())
print(f"{accuracy:.1%} of 200 new patches are recognized.")

# %% One mosaic, explained for each photo
# From left to right: the maps for the cat, the coffee, the rocket and the astronaut. Attention
# rollout follows attention alone, so it is the same for all four. The others use the score. Nothing
# is registered: the attention is found in the operators that the model runs, here in the
# implementation of transformers.
#
# Alt: One mosaic four times, and under it five rows of maps, for the cat, the coffee, the rocket
# and the astronaut. Attention rollout is the same in all four columns; the other rows differ.
METHODS = ["attention_rollout", "gradient_rollout", "legrad", "attn_lrp", "integrated_gradients"]
found = ek.explain(model, mosaics[:1].repeat(4, 1, 1, 1), torch.arange(4), METHODS, steps=20)
found.plot()

# %% How much of a map is in the right quarter?
# The share of the positive part of the map in the quarter of the explained photo, over six mosaics
# with four targets each. A map that knows nothing about the class has 25 %.
tested, targets = mosaics[:6].repeat_interleave(4, 0), torch.arange(4).repeat(6)
quarter = (orders[:6].repeat_interleave(4, 0) == targets[:, None]).double().reshape(-1, 1, 2, 2)
right = torch.nn.functional.interpolate(quarter, (64, 64))[:, 0]
rows = []
for method in METHODS:
    options = {"steps": 20} if method == "integrated_gradients" else {}
    maps = ek.explain(model, tested, targets, method, **options).heatmap().clamp(min=0)
    shares = (maps * right).sum((1, 2)) / maps.sum((1, 2))
    best = maps.flatten(1).argmax(1)
    hits = right.flatten(1).gather(1, best[:, None])[:, 0]
    rows.append(
        {
            "method": method,
            "in the right quarter": float(shares.nanmean()),
            "highest value in it": float(hits.mean()),
        }
    )
rows

# %% An inner layer
# `at=` explains the output of a layer: here how much each token after the second block contributes.
# The first token, the class token, has no place in the image.
inner = ek.explain(model, mosaics[:1], int(orders[0, 0]), "input_x_gradient", at="vit.layers.1")
tokens = inner.attribution[0].sum(-1)
[
    {
        "shape": "×".join(map(str, inner.attribution.shape[1:])),
        "class token": float(tokens[0]),
        "patches of the quarter": float(tokens[1:].reshape(8, 8)[:4, :4].sum()),
        "other patches": float(tokens[1:].sum() - tokens[1:].reshape(8, 8)[:4, :4].sum()),
    }
]

# %% A trained one
# This page runs without a network connection. With one, the same commands explain a transformer
# from a hub:
#
# ```sh
# explainkit explain photo.jpg --model transformers:google/vit-base-patch16-224 --method legrad
# explainkit explain photo.jpg --model timm:vit_small_patch16_224 --method gradient_rollout
# ```
