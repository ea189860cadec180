"""Snippets of docs/how-to/use-a-plugin.md; run by tests/test_docs.py."""

# --8<-- [start:use]
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="validation")
image, label = faces[0]
explanation = ek.explain(model, image[None], faces.class_names[label])
# --8<-- [end:use]

assert explanation.model == "fer_hw3/cnn"
