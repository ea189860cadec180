"""What they confuse.

How often each network is right, and what it takes for what: on synthetic faces, which are easy, and on
photographs, which people confuse too.

Topic: The networks
Order: 14
Command: explainkit run fer_hw3 confusion
"""

# %% On synthetic faces that neither has seen
# Rows are true classes, and add up to 100 %.
#
# Alt: The DNN's confusion matrix on 210 synthetic faces, in shares of each true class.
import torch

import explainkit as ek
from explainkit.render.figure import matrix_figure
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.study.predictions import Predictions

faces = load_synthetic(split="public_test", count=210)
networks = {name: ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn")}


def read(model):
    """What a network reads in all faces."""
    with torch.no_grad():
        return Predictions(
            faces.labels, torch.cat([model(part) for part in faces.images.split(70)])
        )


readings = {name: read(model) for name, model in networks.items()}
title = f"dnn on {len(faces)} synthetic faces: accuracy {readings['dnn'].accuracy:.3f}"
matrix_figure(readings["dnn"].counts.numpy(), CLASS_NAMES, title)

# %%
# With so few faces an accuracy is known only within an interval (Wilson, 95 %), which is what
# should be compared.
#
# Alt: For each expression and for all faces a dot per network, with its interval.
from explainkit_fer_hw3.study.charts import recalls_figure

recalls_figure(list(readings.values()), list(readings))

# %% The worst mistakes
# The shares of a class that are read as another, both networks, largest first.
from explainkit_fer_hw3.scores import most_confused

[
    {"network": name, "mistake": f"{one.true} read as {one.predicted}", "share": f"{one.share:.0%}"}
    for name, reading in readings.items()
    for one in most_confused(reading.counts, CLASS_NAMES, 3)
]

# %% Why one class is read as another
# The most frequent mistake of the DNN, explained for both classes on one scale. The difference of
# the two maps says what spoke for the wrong class rather than the right one.
#
# Alt: Three synthetic faces with this mistake; beside each the map for its true class, the map for the
# class that was read, their difference, and the difference over the face.
from explainkit_fer_hw3.study.confusions import explain_confusion
from explainkit_fer_hw3.study.maps import confusion_figure

worst = most_confused(readings["dnn"].counts, CLASS_NAMES, 1)[0]
confusion_figure(
    explain_confusion(
        worst, networks["dnn"], faces, readings["dnn"],
        method="integrated_gradients", params={"steps": 20},
    )
)  # fmt: skip

# %% On photographs
# FER2013 can't be passed on, so this is not run here: it is the matrix that `explainkit run fer_hw3
# confusion --data fer2013.zip` counted on PublicTest, and that ships beside the CNN's weights.
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
# The expressions in the order in which they are recognized, and what each is taken for most:
from explainkit_fer_hw3.scores import class_scores

mistakes = {one.true: one for one in reversed(most_confused(counts, CLASS_NAMES, most=49))}
recalls = class_scores(counts, CLASS_NAMES)
[
    {
        "expression": name,
        "images": recalls[name]["support"],
        "recognized": f"{recalls[name]['recall']:.0%}",
        "most often read as": f"{mistakes[name].predicted} ({mistakes[name].share:.0%})",
    }
    for name in sorted(recalls, key=lambda name: -recalls[name]["recall"])
]
