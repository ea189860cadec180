"""Parts, hair styles and tones of a batch of faces, derived from the identities."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from explainkit_fer_hw3.faces.canvas import on, square
from explainkit_fer_hw3.faces.identity import Array, Identity

PARTS: tuple[str, ...] = (
    "background",
    "hair",
    "forehead",
    "nose",
    "cheeks",
    "chin",
    "beard",
    "mouth",
    "eyes",
    "brows",
    "glasses",
)
"""The parts of an image; every pixel shows one. ``eyes`` extends from the fold of the upper lid to
the lower lid. ``forehead`` includes the temples and the skin between and below the brows,
``cheeks`` the ears, ``chin`` the skin around the mouth, ``beard`` the moustache, and
``background`` the neck and the clothes."""

BACKGROUND, HAIR, FOREHEAD, NOSE, CHEEKS, CHIN, BEARD, MOUTH, EYES, BROWS, GLASSES = range(11)

REMOVABLE: tuple[str, ...] = ("hair", "nose", "beard", "mouth", "eyes", "brows", "glasses")
"""The parts that can be left out."""

Units = Mapping[str, Mapping[int, Array]]


class Style(NamedTuple):
    """A hair style, in face units.

    Attributes:
        share: Percentage of people with this style.
        volume: Height of the hair above the skull.
        line: Hairline above the middle of the forehead, as ``y``.
        side, temple: Drop of the hairline at the side of the face: coefficients of the square
            and the sixth power of the distance from the middle, in half widths.
        length: Length beside the face.
        thickness: Thickness beside the face.
        curl: Amplitude of the waves.
    """

    share: float | Array
    volume: float | Array
    line: float | Array
    side: float | Array
    temple: float | Array
    length: float | Array
    thickness: float | Array
    curl: float | Array


_STYLES = (
    Style(9, -1.5, -60.0, 0.0, 0.0, 9.0, -2.5, 0.0),  # bald
    Style(14, 1.4, -17.0, 1.5, 18.0, 11.0, 0.7, 0.2),  # short
    Style(9, 1.3, -19.8, -2.5, 24.0, 11.0, 0.6, 0.1),  # receding
    Style(10, 2.6, -15.6, 0.5, 20.0, 13.0, 1.2, 0.5),  # full
    Style(10, 1.6, -13.8, 1.0, 22.0, 14.0, 1.3, 0.35),  # short with a fringe
    Style(13, 1.6, -18.6, 6.0, 30.0, 75.0, 2.6, 0.4),  # long
    Style(9, 1.6, -14.0, 1.0, 36.0, 70.0, 2.4, 0.2),  # long with a fringe
    Style(9, 1.0, -17.6, 3.5, 13.0, 10.0, 0.2, 0.1),  # tied back
    Style(9, 4.4, -16.6, 2.0, 20.0, 20.0, 4.4, 1.4),  # curly
    Style(8, 1.8, -18.0, 7.0, 26.0, 26.0, 3.6, 0.5),  # bob
)
_TABLE = np.array(_STYLES, np.float32)
_SHARES = np.cumsum(_TABLE[:, 0]) / _TABLE[:, 0].sum()


class Scene:
    """The state shared by all painting functions of one batch.

    Attributes:
        who: The identities.
        units: Strength of each action unit in each part, ``[faces, 1, 1]``.
        without: The part left out, if any.
        style: The hair styles.
        beardless: 1 for people with long hair, who have no beard and longer lashes.
        skin, hair, brow, stubble: Tones.
    """

    def __init__(self, who: Identity, units: Units, without: str | None) -> None:
        self.who, self.units, self.without = who, units, without
        row = np.searchsorted(_SHARES[:-1], who.style.reshape(-1), side="right")
        self.style = Style(*_TABLE[row].T[:, :, None, None])
        self.beardless = on(np.greater(self.style.length, 15))
        self.skin = 0.34 + 0.42 * who.skin**0.75
        self.hair = np.minimum(0.10 + 0.60 * square(who.hair), self.skin + 0.05)
        self.brow = np.minimum(0.85 * self.hair, 0.50 * self.skin)
        self.stubble = np.minimum(0.80 * self.hair, 0.36 * self.skin)

    def has(self, part: str) -> bool:
        """Whether a part is rendered."""
        return self.without != part
