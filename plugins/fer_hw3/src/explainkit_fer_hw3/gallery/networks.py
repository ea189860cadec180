"""The two networks.

The study asks whether convolution helps. It compares two networks of nearly the same size: one with
small filters that slide over the face, one that connects every pixel to every unit.

Topic: The networks
Order: 12
Command: explainkit run fer_hw3 summary
"""

# %% The CNN
# Three pairs of 3 × 3 convolutions, each followed by pooling, then three linear layers. A
# convolution applies the same filters at every position.
#
# Alt: The CNN as a row of blocks: convolutions of 128, 128, 256, 256, 512 and 512 channels with
# pooling between, maps that shrink from 48 × 48 to 2 × 2, then linear layers of 128, 64 and 7
# units.
import explainkit as ek
from explainkit.render.diagram import architecture_figure
from explainkit_fer_hw3.commands.summary import layers

found = {name: layers(ek.load_model(f"fer_hw3/{name}")) for name in ("cnn", "dnn")}


def diagram(name):
    """The network as blocks; their height shows the size of the output."""
    rows = [(r["name"], r["kind"], tuple(r["output"]), r["parameters"]) for r in found[name]]
    return architecture_figure(rows, f"{name}: {sum(row[3] for row in rows):,} parameters")


diagram("cnn")

# %% The DNN
# Five linear layers. The first has more than half of the parameters: one weight for every pixel and
# unit.
#
# Alt: The DNN as a row of blocks: flattened pixels, then linear layers of 1216, 1024, 768, 200 and
# 7 units with dropout between.
diagram("dnn")

# %% In numbers
# The networks have nearly the same number of parameters, but a convolution uses each weight at
# every spatial position, so the CNN needs many more operations per face.
facts = {
    name: (sum(row["parameters"] for row in rows), sum(row["multiply_adds"] for row in rows))
    for name, rows in found.items()
}
[
    {
        "network": name,
        "parameters": f"{parameters:,}",
        "multiply-adds per face": f"{work:,}",
        "times each weight is used": work / parameters,
    }
    for name, (parameters, work) in facts.items()
]

# %% Training curves
# Accuracy after each epoch on FER2013; the curves ship with the weights. The last curve is the
# study's own recipe for the DNN, without regularization: the gap between training and validation
# shows the overfitting.
#
# Alt: One panel per run with its accuracy over the epochs, in training (dashed, where recorded) and
# on validation (solid).
from explainkit_fer_hw3.study.charts import curves_figure
from explainkit_fer_hw3.study.curves import curves_of

curves = curves_of(["cnn", "dnn"], [])
curves_figure(curves, "accuracy")

# %%
rows = []
for curve in curves:
    epoch, best = curve.best("validation_accuracy")
    training = curve.at("accuracy", epoch)
    rows.append(
        {
            "run": curve.name,
            "epochs": max(curve.epochs),
            "best validation accuracy": best,
            "after epoch": epoch,
            "training accuracy then": "not recorded" if training is None else f"{training:.3f}",
        }
    )
rows
