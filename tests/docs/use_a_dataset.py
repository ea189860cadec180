"""Snippets of docs/how-to/use-a-data-set.md; run by tests/test_docs.py."""

# --8<-- [start:use]
import explainkit as ek

faces = ek.load_dataset("fer_hw3/synthetic", split="validation")
len(faces), faces.class_names
image, label = faces[0]  # [1, 48, 48], normalized for the model
batch = faces.images[:8]  # [8, 1, 48, 48]
faces.labels[:8]  # -1 for an image without a label
# --8<-- [end:use]
assert image.shape == (1, 48, 48)

# --8<-- [start:explain]
model = ek.load_model("fer_hw3/dnn")
found = ek.explain(model, batch, faces.labels[:8], ["saliency", "deeplift"])
found.report("faces.html", labels=faces.labels[:8].tolist())
# --8<-- [end:explain]
assert len(found) == 2
