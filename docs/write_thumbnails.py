"""Draws the map of each method over one photo, for the table of docs/reference/methods.md.

Usage: ``python docs/write_thumbnails.py`` draws all, with names of methods only these; then
``python docs/write_methods.py NAME`` puts new ones into the table. It needs the packages that
``docs/assets/net.py`` names. The photo and the network are those of the home page.
"""

import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from write_home import MODEL, PHOTO, photo_and_network
from write_methods import THUMBNAILS, names, required

import explainkit as ek
from explainkit.catalog import discovery
from explainkit.render.shown_image import overlay

SIDE = 96
"""Of a thumbnail, in pixels."""
FEWER = {"samples": 256, "window": 32, "stride": 16}
"""Parameters that keep the run short."""
PERMUTED = {"samples": 4}
"""For methods whose samples have a forward for each segment."""


def options(name: str, layer: str | None) -> dict[str, Any]:
    """The parameters of a method: fewer passes, and the layer if one is required."""
    defaults = inspect.signature(discovery.registry("methods").get(name)).parameters
    fewer = FEWER | (PERMUTED if name in {"shapley_sampling", "sobol"} else {})
    found: dict[str, Any] = {
        key: min(value, defaults[key].default or value)
        for key, value in fewer.items()
        if key in defaults
    }
    return found | ({"layer": layer} if "layer" in required(name) else {})


def drawn(chosen: Iterable[str]) -> Iterator[tuple[str, Image.Image]]:
    """The methods that explain the network, each with its map over what the network saw."""
    with photo_and_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ek.errors.ExplainkitWarning)
        model = ek.load_model(MODEL)
        layer = ek.explain(model, PHOTO, method="gradcam").layer
        for name in chosen:
            try:
                found = ek.explain(model, PHOTO, method=name, **options(name, layer))
            except ek.errors.MethodError as refused:  # made for transformers
                print(refused)
                continue
            [values] = found.on_original()
            seen = (~values.isnan()).nonzero()
            (top, left), (bottom, right) = seen.amin(0).tolist(), (seen.amax(0) + 1).tolist()
            with Image.open(PHOTO) as photo:
                small = photo.convert("RGB").crop((left, top, right, bottom)).resize((SIDE, SIDE))
            # single pixels would not be seen
            means = adaptive_avg_pool2d(values[None, top:bottom, left:right], SIDE // 2)
            shown = overlay(np.asarray(small) / 255, interpolate(means[None], SIDE)[0, 0])
            yield name, Image.fromarray((255 * shown).round().astype(np.uint8))


def main() -> None:
    THUMBNAILS.mkdir(exist_ok=True)
    for name, image in drawn(sys.argv[1:] or names()):
        image.save(THUMBNAILS / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
