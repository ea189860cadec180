"""The two networks.

The study asks whether convolution helps, so it sets two networks of nearly the same size against
each other: one looks through small windows that slide over the face, the other joins every pixel
to everything.

Topic: The networks
Order: 12
Command: explainkit run fer_hw3 summary
"""

# %% The CNN
# Three pairs of 3 × 3 convolutions, each pair followed by pooling, then three linear layers. Before
# them a unit sees a window of the face; where in the face, it is not told.
#
# Alt: The CNN as a row of blocks: convolutions of 128, 128, 256, 256, 512 and 512 channels with
# pooling between, maps that shrink from 48 × 48 to 2 × 2, then linear layers of 128, 64 and 7.
import explainkit as ek
from explainkit.render.diagram import architecture_figure
from explainkit_fer_hw3.commands.summary import layers

found = {name: layers(ek.load_model(f"fer_hw3/{name}")) for name in ("cnn", "dnn")}


def drawing(name):
    """The network as blocks; their height tells the size of what comes out."""
    rows = [(r["name"], r["kind"], tuple(r["output"]), r["parameters"]) for r in found[name]]
    return architecture_figure(rows, f"{name}: {sum(row[3] for row in rows):,} parameters")


drawing("cnn")

# %% The DNN
# Five linear layers. The first alone has more than half of the parameters: a weight of its own for
# every pixel and unit.
#
# Alt: The DNN as a row of blocks: flattened pixels, then linear layers of 1216, 1024, 768, 200 and
# 7 with dropout between.
drawing("dnn")

# %% In numbers
# Nearly the same number of parameters, but a convolution uses each of its weights at every place:
# for one face the CNN does many times the work.
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

# %% How they learnt
# What the training runs recorded after their epochs, on FER2013; it ships beside the weights. The
# last curve is the study's own recipe for the DNN, without regularization: how far training runs
# ahead of validation is how much was learnt by heart.
#
# Alt: A panel for each run with its accuracy over the epochs, in training (dashed, where it was
# recorded) and on validation (solid).
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
            "best on validation": best,
            "after epoch": epoch,
            "on training images then": "not recorded" if training is None else f"{training:.3f}",
        }
    )
rows
