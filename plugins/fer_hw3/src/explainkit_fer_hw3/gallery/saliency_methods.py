"""One face, the methods side by side.

The same network, the same angry face, the same question: which pixels speak for angry? There are
four ways to ask it: follow the gradient, follow rules of one's own from the score back to the
image, look at a layer, or change the image and see what happens.

Topic: Where the network looks
Order: 20
Command: explainkit run fer_hw3 saliency --index 14 --method integrated_gradients
"""

# %% Gradients, and means of them along paths
# The slope of the score at the image, or gathered on the way from a gray image to it, or among
# noisy copies. XRAI ranks whole regions by such a map. Each map has its own unit, so each is scaled
# by itself.
#
# Alt: A drawn angry face and eight maps of it, alone and over the face: pixel-fine ones in red and
# blue, and XRAI's in whole regions.
import explainkit as ek
from explainkit.methods.path.xrai import XRAI, BlackAndWhite

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
face = faces.images[[14]]
GRADIENTS = [
    "saliency",
    "input_x_gradient",
    "smoothgrad",
    "integrated_gradients",
    "expected_gradients",
    "blur_ig",
    "guided_ig",
    XRAI(base=BlackAndWhite(steps=30)),
]
gradients = ek.explain(model, face, "angry", GRADIENTS, steps=50)
gradients.plot(labels=[0])

# %% Rules in place of the gradient
# On the way back each operator hands its relevance on by a rule: rectifiers let only what is
# positive pass, or only what was active; layers share it out by what each input gave. One forward
# and one backward, whatever the size of the network.
#
# Alt: The face and eight maps made by rules, those of excitation backprop and deep Taylor in red
# alone, the others in red and blue.
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
# Class-activation maps weigh the channels of the last convolution. They are as coarse as that
# layer, here 5 × 5 places, and drawn as large as the image; they differ in the weights.
#
# Alt: The face and eight coarse maps: soft clouds of a few places each, red for angry and blue
# against it.
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

# %% Hide and see
# These need nothing but scores: they hide windows or cells, many at once, and ask which ones the
# score depends on. Extremal perturbation searches for the tenth of the image that keeps it best.
#
# Alt: The face and eight maps in squares and soft clouds: red where the score depends on what was
# hidden; extremal perturbation keeps a few discs.
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
perturbations = ek.explain(model, face, "angry", PERTURBATIONS, samples=192, steps=80)
perturbations.plot(labels=[0])

# %% How far they agree
# The rank correlation of two maps' absolute values over squares of 4 × 4 pixels of the face: 1 if
# they order them alike, 0 if one tells nothing of the other. The background is left out: nearly
# all methods leave it empty, which is easy to agree on. What methods of different kinds show is
# more likely to be of the network, and what only one shows is more likely of the method.
import torch
from torch.nn.functional import avg_pool2d

from explainkit_fer_hw3.faces import PARTS

families = {
    "gradients": gradients,
    "rules": rules,
    "layer": cams,
    "perturbations": perturbations,
}
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

# %% To look into them
# The report shows eight of them with one pointer: the value under it in every map at once.
from explainkit.results.explanation import Explanations

few = Explanations([*gradients[:1], *gradients[3:4], *rules[2:4], *cams[:1], *perturbations[:3]])
few.report("methods.html", labels=[0], names=["face 14"])
