"""What they confuse.

The accuracy of each network and its most frequent mistakes: on synthetic faces, which are easy, and
on photographs, which people also confuse.

Topic: The networks
Order: 14
Command: explainkit run fer_hw3 confusion
"""

# %% On held-out synthetic faces
# Rows are true classes; each row sums to 100 %.
#
# Alt: The DNN's confusion matrix on 210 synthetic faces, in shares of each true class.
import torch

import explainkit as ek
from explainkit.render.matrix import matrix_figure
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.study.predictions import Predictions

faces = load_synthetic(split="public_test", count=210)
networks = {name: ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn")}


def predict(model):
    """A network's predictions for all faces."""
    with torch.no_grad():
        return Predictions(
            faces.labels, torch.cat([model(part) for part in faces.images.split(70)])
        )


predictions = {name: predict(model) for name, model in networks.items()}
title = f"dnn on {len(faces)} synthetic faces: accuracy {predictions['dnn'].accuracy:.3f}"
matrix_figure(predictions["dnn"].counts.numpy(), CLASS_NAMES, title)

# %%
# With so few faces, compare the intervals (Wilson, 95 %) rather than the accuracies.
#
# Alt: Per expression and for all faces, one dot per network, with its interval.
from explainkit_fer_hw3.study.charts import recalls_figure

recalls_figure(list(predictions.values()), list(predictions))

# %% The worst mistakes
# The largest shares of a class that are predicted as another, for both networks.
from explainkit_fer_hw3.scores import most_confused

[
    {
        "network": name,
        "mistake": f"{one.true} predicted as {one.predicted}",
        "share": f"{one.share:.0%}",
    }
    for name, found in predictions.items()
    for one in most_confused(found.counts, CLASS_NAMES, 3)
]

# %% Why one class is predicted as another
# The most frequent mistake of the DNN, explained for both classes on one scale. The difference of
# the two maps shows what contributed to the wrong class rather than the true one.
#
# Alt: Three synthetic faces with this mistake, each with the map for its true class, the map for
# the predicted class, their difference, and the difference overlaid on the face.
from explainkit_fer_hw3.study.confusions import explain_confusion
from explainkit_fer_hw3.study.maps import confusion_figure

worst = most_confused(predictions["dnn"].counts, CLASS_NAMES, 1)[0]
confusion_figure(
    explain_confusion(
        worst, networks["dnn"], faces, predictions["dnn"],
        method="integrated_gradients", params={"steps": 20},
    )
)  # fmt: skip

# %% On photographs
# FER2013 can't be redistributed, so this matrix isn't computed here. It is the result of
# `explainkit run fer_hw3 confusion --data fer2013.zip` on PublicTest, and ships with the CNN's
# weights.
#
# Alt: The CNN's confusion matrix on FER2013's PublicTest, in shares of each true class.
import csv
from importlib.resources import files

table = (files("explainkit_fer_hw3") / "weights/cnn-confusion.csv").read_text(encoding="utf-8")
counts = torch.tensor([[int(n) for n in row[1:]] for row in csv.reader(table.splitlines()[1:])])
accuracy = float(counts.diag().sum() / counts.sum())
matrix_figure(
    counts.numpy(),
    CLASS_NAMES,
    f"cnn on {counts.sum():,} photographs of FER2013: accuracy {accuracy:.3f}",
)

# %%
# The expressions by recall, each with its most frequent mistake:
from explainkit_fer_hw3.scores import class_scores

mistakes = {one.true: one for one in reversed(most_confused(counts, CLASS_NAMES, most=49))}
recalls = class_scores(counts, CLASS_NAMES)
[
    {
        "expression": name,
        "images": recalls[name]["support"],
        "recall": f"{recalls[name]['recall']:.0%}",
        "most frequent mistake": f"{mistakes[name].predicted} ({mistakes[name].share:.0%})",
    }
    for name in sorted(recalls, key=lambda name: -recalls[name]["recall"])
]
