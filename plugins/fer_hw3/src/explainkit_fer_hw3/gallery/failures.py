"""Confidently wrong.

The mistakes that matter most are confident ones. Attribution maps show which pixels drove the
prediction, and the part masks of synthetic faces show what these pixels are.

Topic: Where the network looks
Order: 38
Command: explainkit run fer_hw3 confusion --model dnn --method integrated_gradients
"""

# %% The most confident mistakes
# The DNN's three most confident mistakes among 350 synthetic faces, explained for the predicted
# class.
#
# Alt: Three synthetic faces that the DNN misclassifies, each with its probabilities, the map for
# the predicted class, and the face masked to its most relevant pixels.
import torch

import explainkit as ek
from explainkit.render.figure import study_figure
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES, PARTS

model = ek.load_model("fer_hw3/dnn")
faces = load_synthetic(split="public_test", count=350)
with torch.no_grad():
    probabilities = model(faces.images).softmax(1)
confidence, predicted = probabilities.max(1)
wrong = torch.where(predicted != faces.labels, confidence, -1).argsort(descending=True)[:3]
mistakes = ek.explain(model, faces.images[wrong], method="integrated_gradients", steps=20)
study_figure(mistakes, labels=faces.labels[wrong].tolist(), scalings=["percentile:97"])

# %% What contributed to the wrong class
# The map of the margin: the logit of the predicted class minus that of the true one. Summed over
# each part of the face, it gives the part's contribution to the mistake.
rows = []
for i in wrong.tolist():
    names = CLASS_NAMES[predicted[i]], CLASS_NAMES[faces.labels[i]]
    margin = f'logit("{names[0]}") - logit("{names[1]}")'
    one = ek.explain(model, faces.images[[i]], margin, "integrated_gradients", steps=20)
    by_part = {
        part: float(one.heatmap()[0][faces.parts[i] == p].sum()) for p, part in enumerate(PARTS)
    }
    order = sorted(by_part, key=by_part.get, reverse=True)
    rows.append(
        {
            "face": i,
            "mistake": f"{names[1]} predicted as {names[0]}",
            "margin": float(one.score[0]),
            "largest contribution": f"{order[0]} ({by_part[order[0]]:+.2f})",
            "second": f"{order[1]} ({by_part[order[1]]:+.2f})",
            "most negative": f"{order[-1]} ({by_part[order[-1]]:+.2f})",
        }
    )
rows

# %% Is that part really responsible?
# A test: the pixels of the part with the largest contribution are set to the mean gray, and the
# margin is measured again.
for row in rows:
    i = row["face"]
    names = row["mistake"].split(" predicted as ")
    true, wrong_class = (CLASS_NAMES.index(name) for name in names)
    part = row["largest contribution"].partition(" (")[0]
    hidden = torch.where(faces.parts[i] == PARTS.index(part), 0.0, faces.images[i])[None]
    with torch.no_grad():
        after = model(hidden)[0]
    row.clear()
    row |= {
        "face": i,
        "hidden": part,
        "margin before": float(probabilities[i].log()[wrong_class] - probabilities[i].log()[true]),
        "margin after": float(after[wrong_class] - after[true]),
        "then predicted": CLASS_NAMES[int(after.argmax())],
    }
rows

# %% How confident are mistakes?
# Mistakes should have a lower confidence than correct predictions, and rarely a high one. As far as
# they don't, probability and map alone can't tell whether a prediction is correct.
correct = predicted == faces.labels
[
    {
        "prediction": name,
        "faces": int(of.sum()),
        "mean probability": float(confidence[of].mean()),
        "confidence of 0.9 or more": f"{int((confidence[of] >= 0.9).sum())} of {int(of.sum())}",
    }
    for name, of in (("correct", correct), ("wrong", ~correct))
]
