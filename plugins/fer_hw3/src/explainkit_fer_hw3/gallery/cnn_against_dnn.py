"""CNN against DNN.

Two networks of the same size, the same faces, the same method. Differences between the maps come
from the networks: from what they learned about faces, and from their architecture.

Topic: Where the network looks
Order: 32
Command: explainkit run fer_hw3 compare
"""

# %% The same faces in both networks
# Integrated gradients of each network's predicted class.
#
# Alt: Four synthetic faces, each with its attribution map in the CNN and in the DNN, overlaid in
# red and blue under the predicted class and its probability.
import torch

import explainkit as ek
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.study.maps import comparison_figure

names = ["cnn", "dnn"]
networks = [ek.load_model(f"fer_hw3/{name}") for name in names]
faces = load_synthetic(split="public_test", count=84)
some = [0, 2, 3, 5]
comparison_figure(
    [
        ek.explain(net, faces.images[some], method="integrated_gradients", steps=20)
        for net in networks
    ],
    names,
    faces.labels[some].tolist(),
)

# %% How grainy are the maps?
# The mean difference of adjacent pixels, divided by that of pixels in random order: near 0 for a
# smooth map, 1 for independent noise. One might expect smoother maps from convolutions. But max
# pooling passes the gradient to one of four pixels, so a neighbor may get none, while the first
# weights of a DNN become as smooth in training as its images.
maps = [
    ek.explain(net, faces.images, faces.labels, "saliency").heatmap().double() for net in networks
]


def grain(one):
    """Mean difference of adjacent pixels over that of pixels in random order."""
    order = torch.randperm(48 * 48, generator=torch.Generator().manual_seed(0))
    mixed = one.flatten(1)[:, order]
    beside = one.diff(dim=2).abs().mean()
    return float(beside / mixed.diff(dim=1).abs().mean())


[
    {"network": name, "grain of its saliency maps": grain(one)}
    for name, one in zip(names, maps, strict=True)
]

# %% Where the maps lie
# The share of the map on the expressive parts (for happy: mouth, cheeks, eyes), with three
# controls: the area of those parts, a noise map, and the map of another face on this face's parts.
# A bar above area and noise shows that the network looks at the face. Only if it is also above the
# diamond does the network look at what this expression moves.
#
# Alt: Bars with intervals for each expression in the CNN: the share of the map on the expressive
# parts, with marks for their area, for noise and for another face's map.
from explainkit_fer_hw3.study.charts import shares_figure
from explainkit_fer_hw3.study.parts import part_shares

shares = [part_shares(net, faces, "explainkit/input_x_gradient") for net in networks]
shares_figure(shares[0], "cnn: |input × gradient| on the expressive parts")

# %%
# Alt: The same bars and marks for the DNN.
shares_figure(shares[1], "dnn: |input × gradient| on the expressive parts")

# %%
# For how many expressions is the share above each control? For another face's map, the whole
# interval of the difference must be above zero.
[
    {
        "network": name,
        "expressions": sum(one.class_name != "all" for one in found),
        "above the area": sum(one.share.value > one.area for one in found),
        "above noise": sum(one.share.value > one.noise for one in found),
        "above another face's map": sum(one.gain.interval[0] > 0 for one in found),
    }
    for name, found in zip(
        names, ([one for one in of if one.class_name != "all"] for of in shares), strict=True
    )
]

# %% Is one network more accurate?
# McNemar's exact test uses the faces that only one of the networks classifies correctly.
from explainkit_fer_hw3.study.agreement import agreement
from explainkit_fer_hw3.study.predictions import Predictions

with torch.no_grad():
    first, second = (Predictions(faces.labels, net(faces.images)) for net in networks)
both = agreement(first, second)
[
    {
        "cnn": first.accuracy,
        "dnn": second.accuracy,
        "only the cnn is correct": both.only_first,
        "only the dnn is correct": both.only_second,
        "p (McNemar)": both.p,
    }
]
