"""A data set, from start to report.

A folder of images becomes a store of maps: explained in shards, checked, exported, and shown on one
page. The folder here is small, and made of synthetic faces; a large one takes the same calls.

Topic: Data sets
Order: 24
"""

# %% A folder
# 14 faces as PNG files, in a folder for each expression, and one file that is not an image.
from pathlib import Path

from PIL import Image

import explainkit as ek
from explainkit_fer_hw3.data import load_synthetic

faces = load_synthetic(split="public_test", count=14)
for number, (pixels, label) in enumerate(zip(faces.pixels, faces.labels, strict=True)):
    folder = Path("faces", faces.class_names[label])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0].numpy()).save(folder / f"{number:02}.png")
Path("faces/happy/torn.png").write_bytes(b"\x89PNG")
print(f"{len(list(Path('faces').rglob('*.png')))} files")

# %% Start, stop, resume
# `batch` writes maps in shards, here of four images. The first call does one half of the shards, as
# one of two machines would; then the job is interrupted. The second call computes what is missing,
# and `progress` counts.
#
# ```sh
# explainkit batch faces --model fer_hw3/cnn --method deeplift,gradcam --out maps --shard 0/2
# explainkit batch faces --model fer_hw3/cnn --method deeplift,gradcam --out maps
# explainkit status maps
# ```
rows = []
for half in ("0/2", None):
    store = ek.batch(
        "faces", "fer_hw3/cnn", ["deeplift", "gradcam"], "maps",
        shard_size=4, batch_size=4, shard=half,
    )  # fmt: skip
    found = store.progress()
    rows.append(
        {"part": half or "everything", "shards": f"{found.done} of {found.shards}",
         "explained": found.ok, "failed": found.failed, "left": found.left}
    )  # fmt: skip
rows

# %% What failed, and why
# A broken file does not stop the job: it gets a status and a reason.
[
    {"image": item.id, "status": item.status, "reason": item.reason}
    for item in store.where(status="failed").items
]

# %% Look into the store
# Items are found by name, or by what is known about them. Here is the least confident prediction,
# with its original image, which is read from its file.
#
# Alt: A synthetic face and its maps by DeepLIFT and Grad-CAM.
doubtful = min(store.where(status="ok").items, key=lambda item: item.confidence)
store[doubtful.id].plot(labels=[faces.class_names.index(doubtful.id.partition("/")[0])])

# %% Verify it
# `verify` hashes files and images, compares weights and versions, and explains some images again.
#
# ```sh
# explainkit verify maps --recompute 2
# ```
from explainkit.jobs.receipts import verify

[
    {"check": one.name, "verdict": one.verdict, "found": one.found}
    for one in verify("maps", recompute=2)
]

# %%
# One face is overwritten by another, for a moment:
face, other = (Path("faces") / store.item(row).id for row in (0, 1))
before = face.read_bytes()
face.write_bytes(other.read_bytes())
found = verify("maps")
face.write_bytes(before)
[{"check": one.name, "verdict": one.verdict, "found": one.found} for one in found]

# %% Export it
# As NumPy arrays here; `to=` also takes tables, Zarr, data sets for Hugging Face, and images. Every
# export lists the images that have no map.
#
# ```sh
# explainkit export maps --to npz --out arrays
# ```
import numpy as np

from explainkit.jobs.export import export

shard = np.load(export(store, "npz", "arrays")[0])
[
    {"array": name, "shape": "×".join(map(str, shard[name].shape)), "type": str(shard[name].dtype)}
    for name in shard.files
]

# %% The report
# One HTML file with all maps, to be filtered by status and predicted class.
#
# ```sh
# explainkit report maps --out faces.html
# ```
from explainkit.jobs.index import report

report(store, "faces.html")
