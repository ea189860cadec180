"""One face, the methods side by side.

The same network, the same angry face, the same question: which pixels matter for angry? There are
four kinds of methods: gradients, propagation rules, maps of a layer, and perturbations of the
image.

Topic: Where the network looks
Order: 20
Command: explainkit run fer_hw3 saliency --index 14 --method integrated_gradients
"""

# %% Gradients, and averages of them
# The gradient of the score at the image, averaged along a path from a gray image, or over noisy
# copies. XRAI ranks whole regions by such a map. The units differ, so each map is normalized
# separately.
#
# Alt: An angry synthetic face and eight maps overlaid on it in red and blue: seven are
# fine-grained, and XRAI's has whole regions.
import explainkit as ek
from explainkit.methods.path.xrai import XRAI, BlackAndWhite
from explainkit_fer_hw3.data import load_synthetic

model = ek.load_model("fer_hw3/cnn")
faces = load_synthetic(split="all", count=15)
face = faces.images[[14]]
GRADIENTS = [
    "saliency",
    "input_x_gradient",
    "smoothgrad",
    "integrated_gradients",
    "expected_gradients",
    "blur_ig",
    "guided_ig",
    XRAI(base=BlackAndWhite(steps=15)),
]
gradients = ek.explain(model, face, "angry", GRADIENTS, steps=25)
gradients.plot(labels=[0])

# %% Propagation rules in place of the gradient
# In the backward pass every operator propagates relevance by a rule: a ReLU passes only positive
# values, or only where it was active; a layer distributes relevance by the contribution of each
# input. The cost is one forward and one backward pass.
#
# Alt: The face and eight maps by propagation rules: excitation backprop and deep Taylor in red
# only, the others in red and blue.
RULES = [
    "guided_backprop",
    "deconvnet",
    "deeplift",
    "lrp",
    "excitation_backprop",
    "deep_taylor",
    "full_gradient",
    "guided_gradcam",
]
rules = ek.explain(model, face, "angry", RULES)
rules.plot(labels=[0])

# %% A layer as a map
# Class activation maps are weighted sums of the channels of the last convolution. They are as
# coarse as that layer, here 5 × 5 positions. Without padding these look well inside the image, so
# each is drawn on its receptive field. The methods differ in the weights.
#
# Alt: The face and eight coarse maps overlaid on it: soft red and blue blobs of a few positions
# each.
CAMS = [
    "gradcam",
    "gradcam_plus_plus",
    "hirescam",
    "layercam",
    "shapleycam",
    "finercam",
    "eigencam",
    "recipro_cam",
]
cams = ek.explain(model, face, "angry", CAMS)
cams.plot(labels=[0])

# %% Perturbations
# These methods need only scores: they hide parts of the image and measure the change of the score.
# Extremal perturbation searches for the tenth of the image that preserves the score best.
#
# Alt: The face and eight maps overlaid on it, in squares and soft blobs: red where hiding the
# pixels lowers the score. Extremal perturbation selects a few discs.
PERTURBATIONS = [
    "occlusion",
    "feature_ablation",
    "rise",
    "lime",
    "kernel_shap",
    "partition_shap",
    "hsic",
    "extremal_perturbation",
]
perturbations = ek.explain(model, face, "angry", PERTURBATIONS, samples=112, steps=40)
perturbations.plot(labels=[0])

# %% Agreement of the methods
# The rank correlation of the absolute values of two maps over squares of 4 × 4 pixels of the face:
# 1 for the same order, 0 for unrelated maps. The background is excluded, because nearly all methods
# leave it empty. What methods of different kinds share is more likely a property of the network;
# what only one method shows is more likely a property of the method.
import torch
from torch.nn.functional import avg_pool2d

from explainkit_fer_hw3.faces import PARTS

families = {"gradients": gradients, "rules": rules, "layer": cams, "perturbations": perturbations}
maps = [one for found in families.values() for one in found]
shown = faces.parts[14] != PARTS.index("background")
face_squares = avg_pool2d(shown[None].float(), 4).flatten() > 0.5
squares = [avg_pool2d(one.heatmap().abs(), 4).flatten()[face_squares] for one in maps]
ranks = [one.argsort().argsort() for one in squares]
agreement = torch.corrcoef(torch.stack(ranks).double())
family = [name for name, found in families.items() for _ in found]
columns = {name: [i for i, one in enumerate(family) if one == name] for name in families}
[
    {"mean agreement of": one.method.rpartition("/")[2], "kind": family[i]}
    | {
        f"with {name}": round(float(agreement[i, [j for j in those if j != i]].mean()), 2)
        for name, those in columns.items()
    }
    for i, one in enumerate(maps)
]

# %% An interactive report
# The report shows eight maps side by side. Pointing at a pixel shows its value in every map.
from explainkit.results.explanation import Explanations

few = Explanations([*gradients[:1], *gradients[3:4], *rules[2:4], *cams[:1], *perturbations[:3]])
few.report("methods.html", labels=[0], names=["face 14"])
