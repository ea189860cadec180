"""CNN against DNN.

Two networks of one size, the same faces, the same method. What differs in the maps comes from the
networks, and not all of it from what they know about faces.

Topic: Where the network looks
Order: 32
Command: explainkit run fer_hw3 compare
"""

# %% The same faces in both
# Integrated gradients of the class that each network reads.
#
# Alt: Four synthetic faces, each with its probabilities and its map in the CNN and in the DNN: red for
# the class that the network reads, blue against it.
import torch

import explainkit as ek
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.study.maps import comparison_figure

names = ["cnn", "dnn"]
networks = [ek.load_model(f"fer_hw3/{name}") for name in names]
faces = load_synthetic(split="public_test", count=84)
some = [0, 2, 3, 5]
comparison_figure(
    [ek.explain(net, faces.images[some], method="integrated_gradients") for net in networks],
    names,
    faces.labels[some].tolist(),
)

# %% How grainy
# The mean difference of adjacent pixels over that of pixels in random order: a smooth map is near
# 0, independent noise at 1. One might expect convolutions to give the smoother maps. But max
# pooling hands the gradient to one pixel of four, and the next one over may get none, while a DNN's
# first weights become as smooth in training as its images are.
maps = [
    ek.explain(net, faces.images, faces.labels, "saliency").heatmap().double() for net in networks
]


def grain(one):
    """Adjacent pixels' mean difference over that of pixels in random order."""
    order = torch.randperm(48 * 48, generator=torch.Generator().manual_seed(0))
    mixed = one.flatten(1)[:, order]
    beside = one.diff(dim=2).abs().mean()
    return float(beside / mixed.diff(dim=1).abs().mean())


[
    {"network": name, "grain of its saliency maps": grain(one)}
    for name, one in zip(names, maps, strict=True)
]

# %% Where the maps lie
# The share of the map on the parts that made the expression (for happy: mouth, cheeks, eyes),
# beside three controls: the area of those parts, noise, and the map of another face on this
# face's parts. A bar above area and noise says that the network looks at the face. Only where it is
# also above the diamond does it look at what this face's expression moved.
#
# Alt: Bars with intervals for each expression in the CNN: the share of the map on the parts that
# made the expression, with marks for their area, for noise and for another face's map.
from explainkit_fer_hw3.study.charts import shares_figure
from explainkit_fer_hw3.study.parts import part_shares

shares = [part_shares(net, faces, "explainkit/input_x_gradient") for net in networks]
shares_figure(shares[0], "cnn: |input × gradient| on the parts that made it")

# %%
# Alt: The same bars and marks for the DNN.
shares_figure(shares[1], "dnn: |input × gradient| on the parts that made it")

# %%
# In how many expressions is the share above each control? Above another face's map counts only if
# the whole interval of the difference is.
[
    {
        "network": name,
        "expressions": sum(one.class_name != "all" for one in found),
        "above the area": sum(one.share.value > one.area for one in found),
        "above noise": sum(one.share.value > one.noise for one in found),
        "above another face's map": sum(one.gain.interval[0] > 0 for one in found),
    }
    for name, found in zip(
        names,
        ([one for one in of if one.class_name != "all"] for of in shares),
        strict=True,
    )
]

# %% Is one better?
# On the same faces only those count that one network alone reads rightly (McNemar's exact test).
from explainkit_fer_hw3.study.agreement import agreement
from explainkit_fer_hw3.study.predictions import Predictions

with torch.no_grad():
    first, second = (Predictions(faces.labels, net(faces.images)) for net in networks)
both = agreement(first, second)
[
    {
        "cnn": first.accuracy,
        "dnn": second.accuracy,
        "only the cnn is right": both.only_first,
        "only the dnn is right": both.only_second,
        "p (McNemar)": both.p,
    }
]
