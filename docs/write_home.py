"""Makes the figure of the home page, and prints what the page quotes: what the command prints.

Usage: ``python docs/write_home.py``. It needs the packages that ``docs/assets/net.py`` names. The
photo and the methods were fixed before the first run.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from shutil import copy

from PIL import Image

import explainkit as ek
from explainkit.cli.photos import Photo
from explainkit.cli.written import line, write

ASSETS = Path(__file__).parent / "assets"
PHOTO, MODEL = "chelsea.jpg", "net.py:make"
METHODS = ["gradcam", "integrated_gradients", "occlusion"]


@contextmanager
def photo_and_network() -> Iterator[None]:
    """A temporary working directory with both files, as a reader has it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (PHOTO, "net.py"):
            copy(ASSETS / name, folder)
        with chdir(folder):
            yield


def explained() -> tuple[ek.Explanations, str, Image.Image]:
    """The maps, and what the command prints and draws."""
    with photo_and_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ek.errors.ExplainkitWarning)
        model = ek.load_model(MODEL)
        found = ek.explain(model, PHOTO, method=METHODS)
        cards = found.scorecards()
        out = Path("explainkit-out")
        endings = ["", *(f"_{name}" for name in METHODS)]
        photo = Photo(Path(PHOTO), Path(PHOTO).stem)
        rows = write(photo, found, endings, out, figure=True, command=None, cards=cards)
        notes = dict.fromkeys(note for card in cards for note in card.notes)
        text = "\n".join([*map(line, rows), " ".join(notes)])
        with Image.open(rows[0]["figure"]) as figure:
            return found, text, figure.convert("RGB")


def main() -> None:
    _, text, figure = explained()
    figure.save(ASSETS / "home.jpg", quality=88, optimize=True)
    print(text)


if __name__ == "__main__":
    main()
