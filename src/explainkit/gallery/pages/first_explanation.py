"""The first explanation, in five lines.

A trained network, an image, and the pixels that speak for what the network says.

Topic: First steps
Order: 10
Needs: fer_hw3
Command: explainkit run fer_hw3 saliency --index 14 --method integrated_gradients
"""

# %%
# A model is named, or is any PyTorch module of yours; images are a float tensor
# `[batch, channel, height, width]`, normalized as the model was trained.
#
# Alt: A drawn angry face, the network's probabilities of the seven expressions, and the integrated
# gradients alone and over the face: red where pixels speak for the class, blue where against it.
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
explanation = ek.explain(model, faces.images[[14]], method="integrated_gradients")
explanation.plot()

# %% What it says in numbers
# The map is signed and in the unit of the score, so that its sum can be held against what it is
# to explain: the score of the image less the score of the baseline, here a gray image. The
# completeness gap is the share that is missing.
gray = model(0 * faces.images[[14]])[0, explanation.target[0]]
[
    {
        "explained": explanation.target_name(0),
        "score": float(explanation.score[0]),
        "score of gray": float(gray),
        "sum of the map": float(explanation.attribution.sum()),
        "completeness gap": float(explanation.diagnostics["completeness_gap"][0]),
    }
]

# %% Another question
# The same face, but asked for another class: what speaks for fear, and what against it?
#
# Alt: The same face explained for fear: its probability is marked, and the map is another one.
ek.explain(model, faces.images[[14]], "fear", "integrated_gradients").plot()

# %% To look into it
# One file that opens from disk, with sliders, values under the pointer and everything that was
# run. In a notebook the explanation shows itself.
explanation.report("report.html", labels=[0], names=["face 14"])
