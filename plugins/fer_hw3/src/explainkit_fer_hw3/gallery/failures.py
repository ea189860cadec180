"""Confidently wrong.

The mistakes that matter are those of which a network is sure. Its maps say where it looked, and the
drawing says what was really there.

Topic: Where the network looks
Order: 38
Command: explainkit run fer_hw3 confusion --model dnn --method integrated_gradients
"""

# %% The surest mistakes
# Of 350 synthetic faces, the DNN's three surest mistakes, explained for the class that was read.
#
# Alt: Three synthetic faces that the DNN misreads, each with its true class, its probabilities and the
# map for the class that was read, alone and over the face.
import torch

import explainkit as ek
from explainkit.render.figure import study_figure
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES, PARTS

model = ek.load_model("fer_hw3/dnn")
faces = load_synthetic(split="public_test", count=350)
with torch.no_grad():
    chances = model(faces.images).softmax(1)
confidence, read = chances.max(1)
wrong = torch.where(read != faces.labels, confidence, -1).argsort(descending=True)[:3]
surest = ek.explain(model, faces.images[wrong], method="integrated_gradients", steps=20)
study_figure(surest, labels=faces.labels[wrong].tolist(), scalings=["percentile:97"])

# %% What spoke for the wrong class
# The map of one class against the other: the lead of the class that was read over the true one.
# Summed over the parts of the face that each pixel shows, it names the culprit.
rows = []
for i in wrong.tolist():
    names = CLASS_NAMES[read[i]], CLASS_NAMES[faces.labels[i]]
    lead = f'logit("{names[0]}") - logit("{names[1]}")'
    one = ek.explain(model, faces.images[[i]], lead, "integrated_gradients", steps=20)
    by_part = {
        part: float(one.heatmap()[0][faces.parts[i] == p].sum()) for p, part in enumerate(PARTS)
    }
    order = sorted(by_part, key=by_part.get, reverse=True)
    rows.append(
        {
            "face": i,
            "mistake": f"{names[1]} read as {names[0]}",
            "lead": float(one.score[0]),
            "spoke for it most": f"{order[0]} ({by_part[order[0]]:+.2f})",
            "and": f"{order[1]} ({by_part[order[1]]:+.2f})",
            "spoke most against": f"{order[-1]} ({by_part[order[-1]]:+.2f})",
        }
    )
rows

# %% Is it the culprit?
# A sum over a map is a claim. It is tested by changing what it blames: the part's pixels are set to
# the mean gray, and the lead is measured again.
for row in rows:
    i = row["face"]
    names = row["mistake"].split(" read as ")
    true, said = (CLASS_NAMES.index(name) for name in names)
    blamed = row["spoke for it most"].partition(" (")[0]
    hidden = torch.where(faces.parts[i] == PARTS.index(blamed), 0.0, faces.images[i])[None]
    with torch.no_grad():
        after = model(hidden)[0]
    row.clear()
    row |= {
        "face": i,
        "hidden": blamed,
        "lead before": float(chances[i].log()[said] - chances[i].log()[true]),
        "lead after": float(after[said] - after[true]),
        "then read as": CLASS_NAMES[int(after.argmax())],
    }
rows

# %% How sure is a mistake?
# Mistakes should be less sure than right readings, and rarely sure. As far as they are not, a
# reader who sees a single face with its probability and its map can't tell which kind it is.
right = read == faces.labels
[
    {
        "reading": name,
        "faces": int(of.sum()),
        "mean probability": float(confidence[of].mean()),
        "sure by 0.9 or more": f"{int((confidence[of] >= 0.9).sum())} of {int(of.sum())}",
    }
    for name, of in (("right", right), ("wrong", ~right))
]
