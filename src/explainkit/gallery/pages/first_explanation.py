"""The first explanation, in five lines.

A trained network, an image, and the pixels that contribute to the predicted class.

Topic: First steps
Order: 10
Needs: fer_hw3
Command: explainkit run fer_hw3 saliency --index 14 --method integrated_gradients
"""

# %%
# A model is a registered name or any PyTorch module; images are a float tensor
# `[batch, channel, height, width]`, normalized as in training.
#
# Alt: A synthetic angry face, the probabilities of the seven expressions, and the integrated
# gradients alone and over the face: red pixels support the class, blue pixels oppose it.
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
explanation = ek.explain(model, faces.images[[14]], method="integrated_gradients")
explanation.plot()

# %% The numbers
# The map is signed and in the unit of the score, so its sum can be checked: it should equal the
# score of the image minus the score of the baseline, here a gray image. The completeness gap is
# the relative error of the sum.
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

# %% Another target
# The same face for another class: which pixels support fear, and which oppose it?
#
# Alt: The same face explained for fear: the probability of fear is marked, and the map differs.
ek.explain(model, faces.images[[14]], "fear", "integrated_gradients").plot()

# %% Inspect it
# The report is one file that opens offline, with sliders, values under the pointer and full
# provenance. In a notebook the explanation displays itself.
explanation.report("report.html", labels=[0], names=["face 14"])
