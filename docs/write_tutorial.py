"""Runs the tutorial's script, and writes the page with what each cell printed and drew.

Usage: ``python docs/write_tutorial.py``. It needs scikit-image and the packages that
``docs/assets/net.py`` names. The last line of the page is a comment with two hashes: a test sees by
them, without a run, that code, text, output and figures are those of one run.
"""

import hashlib
import re
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from shutil import copy

from PIL import Image

import explainkit as ek
from explainkit.gallery.page import markdown
from explainkit.gallery.run import run
from explainkit.gallery.script import read

DOCS = Path(__file__).parent
SCRIPT, NETWORK = DOCS / "tutorial/first-explanation.py", DOCS / "assets/net.py"
PAGE = SCRIPT.with_suffix(".md")
FOOT = (
    "[The code of this page as a script](first-explanation.py), with cells that editors and "
    "Jupytext understand."
)
STAMP = re.compile(r"\n<!-- run: (\w+) (\w+) -->\n\Z")


def page_of_a_run(figures: Path) -> str:
    """Runs the script in an empty folder with the network; returns the page, without its stamp.

    Args:
        figures: The folder that figures are written into.
    """
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", ek.errors.ExplainkitWarning)
        folder, work = Path(temporary) / "out", Path(temporary) / "work"
        folder.mkdir()
        work.mkdir()
        copy(NETWORK, work)
        with chdir(work):
            outputs = run(SCRIPT, folder)
        for output in (output for shown in outputs for output in shown):
            if output["kind"] == "figure":
                with Image.open(folder / output["file"]) as figure:
                    output["file"] = Path(output["file"]).with_suffix(".jpg").name
                    small = figure.convert("RGB")
                    small.save(figures / output["file"], quality=88, optimize=True)
    return markdown(read(SCRIPT), outputs, FOOT)


def stamp(page: str, figures: Path) -> str:
    """Hashes of what was run, and of what came of it."""
    ran = _hash(path.read_bytes() for path in (SCRIPT, NETWORK))
    drawn = [figures / name for name in re.findall(r"\]\(([\w-]+\.jpg)\)", page)]
    came = _hash([page.encode(), *(path.read_bytes() for path in drawn)])
    return f"\n<!-- run: {ran} {came} -->\n"


def _hash(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def main() -> None:
    page = page_of_a_run(PAGE.parent)
    PAGE.write_text(page + stamp(page, PAGE.parent), encoding="utf-8")


if __name__ == "__main__":
    main()
