"""Snippets of docs/how-to/write-a-gallery-page.md; run by tests/test_docs.py."""

# --8<-- [start:hook]
from pathlib import Path

from explainkit import hookimpl


@hookimpl
def explainkit_gallery():
    return Path(__file__).parent / "gallery"


# --8<-- [end:hook]

PAGE = '''
# --8<-- [start:page]
"""A face and its map.

An introduction in Markdown.

Topic: First steps
Order: 10
Needs: fer_hw3
Command: explainkit run fer_hw3 saliency --index 3
"""

# %% Where the network looks
# Markdown up to the code.
#
# Alt: A synthetic happy face and its saliency map: red and blue pixels on the mouth.
import explainkit as ek

faces = ek.load_dataset("fer_hw3/synthetic", split="all")
explanation = ek.explain("fer_hw3/cnn", faces.images[[3]])
explanation.plot()

# %% In numbers
[{"face": 3, "score": float(explanation.score[0])}]
# --8<-- [end:page]
'''
from explainkit.gallery.run import run

script = Path("face.py")
script.write_text("\n".join(line for line in PAGE.splitlines() if "--8<--" not in line))
figure, table = (shown[0]["kind"] for shown in run(script, Path()))
assert (figure, table) == ("figure", "table")
