"""One face, the methods side by side.

The same network, the same angry face, the same question: which pixels speak for angry? Methods
answer it in different ways, and it pays to know how far they agree.

Topic: Where the network looks
Order: 20
Command: explainkit run fer_hw3 saliency --index 14 --method integrated_gradients
"""

# %% Fourteen answers
# Each map has its own unit, so each is scaled by itself. What several methods of different kinds
# show is more likely to be of the network, and what only one shows is more likely of the method.
#
# Alt: A drawn angry face, and fourteen maps over it. Gradient methods speckle the frown between the
# brows and the eyes with red and blue; those that hide regions show broad red areas there.
import explainkit as ek

METHODS = [
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "expected_gradients",
    "full_gradient",
    "smoothgrad",
    "xrai",
    "guided_backprop",
    "deeplift",
    "lrp",
    "occlusion",
    "rise",
    "lime",
    "kernel_shap",
]
model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/drawn", split="all")
maps = ek.explain(model, faces.images[[14]], "angry", METHODS)
maps.plot(labels=[0])

# %% How far they agree
# The rank correlation of two maps' absolute values over all pixels: 1 if they order the pixels
# alike, 0 if one tells nothing of the other. Neighbours are averaged first, in squares of 4 × 4, as
# fine grain is where methods differ most and mean least.
import torch
from torch.nn.functional import avg_pool2d


def ranks(explanation):
    """Ranks of the mean absolute values of 4 × 4 squares."""
    return avg_pool2d(explanation.heatmap().abs(), 4).flatten().argsort().argsort().double()


table = torch.stack([ranks(one) for one in maps])
agreement = torch.corrcoef(table)
names = ["saliency", "integrated_gradients", "occlusion", "rise"]
[
    {"method": method}
    | {name: round(float(agreement[i, METHODS.index(name)]), 2) for name in names}
    for i, method in enumerate(METHODS)
]

# %% To look into them
# The report shows them with one pointer: the value under it in every map at once.
maps.report("methods.html", labels=[0], names=["face 14"])
