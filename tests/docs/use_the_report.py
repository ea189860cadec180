"""Snippets of docs/how-to/use-the-report.md; run by tests/test_docs.py."""

# --8<-- [start:write]
import explainkit as ek

model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="validation")
found = ek.explain(model, faces.images[:3], method=["saliency", "lrp"])
found.report(
    "faces.html",
    labels=faces.labels[:3].tolist(),
    names=["first", "second", "third"],
    command="python faces.py",
)
# --8<-- [end:write]
