"""What the CNN has learned about faces.

A heatmap explains one face. A concept is what many faces have in common in a layer, whose outputs
are factorized into a few directions. For each concept, the page shows the faces that activate it,
the part of the face it is on, what every expression's score loses without it, and whether to trust
it.

Topic: Inside the networks
Order: 35
Command: explainkit run fer_hw3 concepts --layer 10 --n 6 --limit 70 --report
"""

# %% Six concepts in the middle of the network
# After the fourth convolution, a position sees 16 of the 48 rows, so that a concept can be about a
# part of the face. A small run, to keep the page fast: 70 synthetic faces, 10 of each expression.
# With fewer than 200 images, the numbers are less reliable, as the figure says. A concept is named
# after the part that its most active pixels are on, if that is significantly more often than by
# chance and than on the same part of another face; the number is how much more often than by
# chance.
#
# Alt: Six blocks, one per concept: a row of synthetic faces under the concept's map, a row of crops
# of them, and bars of the importance for five expressions. Captions in red name what fails.
import explainkit as ek
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import CLASS_NAMES, PARTS
from explainkit_fer_hw3.study.detectors import detect_parts

LAYER = "10"
model = ek.load_model("fer_hw3/cnn")
faces = load_synthetic(split="public_test", count=70)
found = ek.concepts(model, faces, LAYER, n=6)
parts = detect_parts(model, LAYER, faces, directions=found.directions)
named = [parts.part(k) for k in range(len(found))]
found.plot(
    [f"{part} × {parts.enrichment[k, PARTS.index(part)]:.1f}" if part else ""
     for k, part in enumerate(named)]
)  # fmt: skip

# %% What each expression relies on
# The two concepts without which an expression's score drops most, and the one without which it
# drops least or rises, with standard errors over the faces.


def effect(k, name):
    """A concept, its part, and its importance for an expression."""
    c = CLASS_NAMES.index(name)
    part = f" ({named[k]})" if named[k] else ""
    return f"{k}{part}: {found.importance[k, c]:+.2f} ± {found.standard_error[k, c]:.2f}"


rows = []
for name in CLASS_NAMES:
    first, second, *_, last = found.ranked(name)
    rows.append(
        {"expression": name, "1.": effect(first, name), "2.": effect(second, name),
         "last": effect(last, name)}
    )  # fmt: skip
rows

# %% How far to trust them
# A factorization always finds something. *Stability* is the cosine between the concepts of two
# halves of the faces, and *p* the share of random directions whose removal changes the scores as
# much. A concept fails if it is no more stable than those of the same network with random weights,
# or no more important than random directions. It can look like a part of the face and still fail.
[
    {
        "concept": k,
        "part": named[k] or "–",
        "stability": float(found.stability[:, k].mean()),
        "with random weights": found.random_stability,
        "p": float(found.p[k]),
        "verdict": " and ".join(found.failures(k)) or "passes",
    }
    for k in range(len(found))
]

# %%
# All six together:
print("\n".join(found.notes))

# %% A concept in another face
# A concept is a direction in the layer. `map` finds it in any face, and every method can explain
# it, like a class.
#
# Alt: A synthetic face in fear, its probabilities, and the map of the concept without which the
# score of fear drops most.
other = load_synthetic(split="validation", count=7)
found.map(found.ranked("fear")[0], other.images[other.labels == CLASS_NAMES.index("fear")]).plot()
