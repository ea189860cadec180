"""The data and the synthetic faces.

FER2013 holds 35,887 gray photographs of 48 × 48 pixels in seven classes. It can't be passed on, so
these pages run on faces that are drawn on the spot: same size, same classes, and every part known.

Topic: The data
Order: 10
"""

# %% Seven expressions, one person
# A face is drawn from action units, the muscle movements by which expressions are described: happy
# pulls the corners of the mouth and raises the cheeks, surprise drops the jaw and raises the brows.
#
# Alt: The same drawn person seven times, angry, disgusted, afraid, happy, sad, surprised, neutral.
from explainkit.render.compare import images_figure
from explainkit_fer_hw3.faces import ACTION_UNITS, CLASS_NAMES, PARTS, draw

person = [draw([label], seed=6) for label in range(7)]
images_figure(
    [face.pixels[0, 0] / 255 for face in person],
    CLASS_NAMES,
    title="One person, seven expressions",
    subtitle="drawn; only what the expression moves differs",
)

# %%
[
    {"expression": name, "action units": ", ".join(str(unit) for unit in ACTION_UNITS[name]) or "–"}
    for name in CLASS_NAMES
]

# %% No two alike
# Person, pose, light, hair, glasses and noise are drawn at random, and depend on the seed and the
# face's number alone: everybody's face 14 is the same.
#
# Alt: Fourteen synthetic faces of different people in two rows, the seven expressions twice.
import explainkit as ek

faces = ek.load_dataset("fer_hw3/synthetic", split="all")
images_figure(
    [faces.pixels[i, 0].numpy() / 255 for i in range(14)],
    [f"{i}: {faces.class_names[faces.labels[i]]}" for i in range(14)],
    title="Faces 0 to 13",
    subtitle="of the data set fer_hw3/synthetic, split all",
)

# %% Every pixel's part is known
# As the geometry is known, so is the part that each pixel shows. That makes synthetic faces a ground
# truth for explanations: the mouth can be relaxed, or left out, and nothing else moves.
#
# Alt: A drawn happy face; the same with its parts in colors; with the mouth at rest; and without
# a mouth.
from matplotlib import colormaps

happy = CLASS_NAMES.index("happy")
face = draw([happy], seed=6)
parts = colormaps["tab20"](face.parts[0])[..., :3]
relaxed = draw([happy], seed=6, neutral="mouth")
without = draw([happy], seed=6, without="mouth")
images_figure(
    [face.pixels[0, 0] / 255, parts, relaxed.pixels[0, 0] / 255, without.pixels[0, 0] / 255],
    ["happy", f"its parts, of {len(PARTS)}", "mouth at rest", "without a mouth"],
)

# %% What the networks make of it
# A face whose mouth is at rest should look less happy to a network that has learnt what happy is.
# A face without a mouth is like nothing it was shown, so its answer there is nobody's guess.
import torch

model = ek.load_model("fer_hw3/cnn")
mean, std = model.explainkit_spec.mean[0], model.explainkit_spec.std[0]
rows = []
for name, one in {"happy": face, "mouth at rest": relaxed, "without a mouth": without}.items():
    pixels = torch.from_numpy(one.pixels).float() / 255
    chances = model((pixels - mean) / std).softmax(1)[0]
    rows.append(
        {
            "face": name,
            "read as": CLASS_NAMES[int(chances.argmax())],
            "probability of happy": float(chances[happy]),
        }
    )
rows
