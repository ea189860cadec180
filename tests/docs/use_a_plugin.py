"""Snippets of docs/how-to/use-a-plugin.md; run by tests/test_docs.py."""

# --8<-- [start:use]
import explainkit as ek

model = ek.load_model("fer_hw3/dnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="validation")
len(faces), faces.class_names
image, label = faces[0]  # [1, 48, 48], normalized for the model
images, labels = faces.images[:8], faces.labels[:8]  # -1 for an image without a label
found = ek.explain(model, images, labels, ["saliency", "deeplift"])
found.report("faces.html", labels=labels.tolist())
# --8<-- [end:use]

assert image.shape == (1, 48, 48)
assert len(found) == 2
