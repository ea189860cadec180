"""The data and the synthetic faces.

FER2013 has 35,887 gray photographs of 48 × 48 pixels in seven classes. It can't be redistributed,
so these pages use generated faces: same size, same classes, and exact masks of every part.

Topic: The data
Order: 10
"""

# %% Seven expressions, one person
# Faces are rendered from action units, the muscle movements that describe expressions: happy pulls
# the corners of the mouth and raises the cheeks, surprise drops the jaw and raises the brows.
#
# Alt: The same synthetic person seven times: angry, disgusted, afraid, happy, sad, surprised,
# neutral.
from explainkit.render.compare import images_figure
from explainkit_fer_hw3.faces import ACTION_UNITS, CLASS_NAMES, PARTS, draw

person = [draw([label], seed=6) for label in range(7)]
images_figure(
    [face.pixels[0, 0] / 255 for face in person],
    CLASS_NAMES,
    title="One person, seven expressions",
    subtitle="synthetic; only what the expression moves differs",
)

# %%
[
    {"expression": name, "action units": ", ".join(str(unit) for unit in ACTION_UNITS[name]) or "–"}
    for name in CLASS_NAMES
]

# %% Different people
# Person, pose, light, hair, glasses and noise are random, and depend only on the seed and the index
# of the face: face 14 is the same on every machine.
#
# Alt: Fourteen synthetic faces of different people in two rows, the seven expressions twice.
import explainkit as ek
from explainkit_fer_hw3.data import load_synthetic

faces = load_synthetic(split="all", count=14)
images_figure(
    [faces.pixels[i, 0].numpy() / 255 for i in range(14)],
    [f"{i}: {faces.class_names[faces.labels[i]]}" for i in range(14)],
    title="Faces 0 to 13",
    subtitle="of the data set fer_hw3/synthetic, split all",
)

# %% Exact part masks
# The geometry is known, so the part that each pixel shows is also known. That makes synthetic faces
# a ground truth for explanations: the mouth can be relaxed or left out while nothing else changes.
#
# Alt: A happy synthetic face; its parts in colors; the face with a neutral mouth; the face without
# a mouth.
from matplotlib import colormaps

happy = CLASS_NAMES.index("happy")
face = draw([happy], seed=6)
parts = colormaps["tab20"](face.parts[0])[..., :3]
relaxed = draw([happy], seed=6, neutral="mouth")
without = draw([happy], seed=6, without="mouth")
images_figure(
    [face.pixels[0, 0] / 255, parts, relaxed.pixels[0, 0] / 255, without.pixels[0, 0] / 255],
    ["happy", f"part masks ({len(PARTS)} parts)", "neutral mouth", "without a mouth"],
)

# %% The network's predictions
# With a neutral mouth, a network that has learned the expression should predict happy with a lower
# probability. A face without a mouth is outside the training distribution, so its prediction means
# little.
import torch

model = ek.load_model("fer_hw3/cnn")
mean, std = model.explainkit_spec.mean[0], model.explainkit_spec.std[0]
rows = []
for name, one in {"happy": face, "neutral mouth": relaxed, "without a mouth": without}.items():
    pixels = torch.from_numpy(one.pixels).float() / 255
    probabilities = model((pixels - mean) / std).softmax(1)[0]
    rows.append(
        {
            "face": name,
            "predicted": CLASS_NAMES[int(probabilities.argmax())],
            "probability of happy": float(probabilities[happy]),
        }
    )
rows
