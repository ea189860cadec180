"""Snippets of docs/how-to/compare-methods.md; run by tests/test_docs.py."""

# --8<-- [start:evaluate]
import explainkit as ek

faces = ek.load_dataset("fer_hw3/synthetic", split="public_test")
found = ek.evaluate("fer_hw3/dnn", faces, ["deeplift", "saliency"], ["gini"], limit=10)

found.table()  # one row per method: shares of the verdicts, means, and their intervals
found.comparisons  # pairs of methods on the same images, from 10 images on
found.notes  # what to know before reading the numbers
found.plot()
# --8<-- [end:evaluate]
assert found.table()[0]["predicts"] > found.table()[1]["predicts"]

# --8<-- [start:read]
found.save("faces.json")
found = ek.Evaluation.load("faces.json")
found.of("saliency").verdict[0], found.of("saliency").p[0]
found.report("faces.html")  # one file, without network access

maps = ek.explain("fer_hw3/dnn", faces.images[:2], method="deeplift")
maps.report("maps.html", evaluation=found)  # with what is known of the method from many images
# --8<-- [end:read]
assert len(found) == 10
assert len(found.comparisons) == 1
