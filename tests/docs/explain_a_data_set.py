"""Snippets of docs/how-to/explain-a-data-set.md; run by tests/test_docs.py."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import TensorDataset

from explainkit_fer_hw3.data import load_synthetic

Path("photos").mkdir()
for i in range(8):
    Image.fromarray(np.full((60, 50, 3), 30 * i, np.uint8)).save(f"photos/photo_{i:02d}.png")

# --8<-- [start:batch]
import explainkit as ek

store = ek.batch("photos", "fer_hw3/cnn", ["saliency", "gradcam"], "maps")
store.progress().ok  # 8
# --8<-- [end:batch]
assert store.progress().ok == 8

# --8<-- [start:read]
store = ek.Store("maps")  # nothing is read yet
found = store["photo_03.png"]  # or store[3], by position in the sorted ids
found.get(method="gradcam").plot()

happy = store.where(predicted=3, confidence=(0.2, 1.0))
len(happy), len(store[2:10])
for item in store.where(status="failed").items:
    print(item.id, item.reason)
# --8<-- [end:read]
assert found[0].names == ("photo_03.png",)

# --8<-- [start:clusters]
groups = store.clusters(2, method="saliency", neighbors=4)
groups.table()  # size, most frequent classes and mistakes of each cluster
groups.members(0), groups.exemplars(0)[0].plot()
groups.adjusted_rand({"photo_00.png": "clinic A", "photo_07.png": "clinic B"})
groups.report("clusters.html")
# --8<-- [end:clusters]
assert sum(groups.sizes) == 8

model = ek.load_model("fer_hw3/cnn")
faces = load_synthetic(split="all", count=5)
dataset = TensorDataset(faces.images, faces.labels)
# --8<-- [start:loop]
import torch
from torch.utils.data import DataLoader

loader, sums = DataLoader(dataset, batch_size=4), torch.zeros(48, 48)
for found in ek.explain(model, loader, labels=True, method="gradcam"):
    sums += found.heatmap().sum(0)  # or whatever you keep of each batch
# --8<-- [end:loop]
assert sums.shape == (48, 48)
