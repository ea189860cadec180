"""The seven expressions as facial action units, and the units that move each part.

Action units (AUs) are the observable muscle actions of the Facial Action Coding System. The
combinations are the prototypes of its emotional edition, EMFACS.

Sources: P. Ekman, W. V. Friesen, "Facial Action Coding System" (1978); W. V. Friesen, P. Ekman,
"EMFACS-7: Emotional Facial Action Coding System" (1983).
"""

from collections.abc import Mapping
from types import MappingProxyType

CLASS_NAMES: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes in the order of FER2013; a label is an index into it."""

ACTION_UNITS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "angry": (4, 5, 7, 23),
        "disgust": (9, 15, 16),
        "fear": (1, 2, 4, 5, 7, 20, 26),
        "happy": (6, 12),
        "sad": (1, 4, 15),
        "surprise": (1, 2, 5, 26),
        "neutral": (),
    }
)
"""The action units of every class, by their FACS numbers."""

UNITS: tuple[int, ...] = (1, 2, 4, 5, 6, 7, 9, 12, 15, 16, 20, 23, 26)
"""Every unit that is rendered: brow raisers 1 (inner) and 2 (outer), 4 brow lowerer, 5 upper lid
raiser, 6 cheek raiser, 7 lid tightener, 9 nose wrinkler, 12 lip corner puller, 15 lip corner
depressor, 16 lower lip depressor, 20 lip stretcher, 23 lip tightener, 26 jaw drop."""

PART_UNITS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "forehead": (1, 2),
        "brows": (1, 2, 4, 9),
        "eyes": (1, 4, 5, 6, 7, 9),
        "nose": (9,),
        "cheeks": (6, 9, 12, 20),
        "mouth": (9, 12, 15, 16, 20, 23, 26),
        "chin": (26,),
    }
)
"""The units that move each part. A unit that moves several parts (6 lifts the cheek and
narrows the eye) is listed with each, and ``neutral="eyes"`` relaxes it only in the eyes."""
