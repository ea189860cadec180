"""The mouth and the beard around it."""

import numpy as np

from explainkit_fer_hw3.faces.canvas import Canvas, PixelGrid, bump, crest, disc, on, square
from explainkit_fer_hw3.faces.identity import Array
from explainkit_fer_hw3.faces.scene import BEARD, MOUTH, Scene


class Mouth:
    """How the action units shape the mouth; lengths in face units, ``[faces, 1, 1]``.

    Across the mouth, with ``s`` from -1 to 1, the lips meet along
    ``y + bend s^2 + hook s^4``; they part by ``up`` above and ``low`` below it in the middle.

    Attributes:
        half: Half the width.
        y, bend, hook: The line along which the lips meet.
        up, low: How far they part.
        roundness: 0 for an opening with pointed corners, 1 for an ellipse.
        upper, lower: Thickness of the lips.
        press: Half the thickness of the dark line between closed lips.
        teeth, lower_teeth: Visible height of the teeth.
    """

    def __init__(self, scene: Scene) -> None:
        who, au = scene.who, scene.units["mouth"]
        smile, down, depress, stretch = au[12], au[15], au[16], au[20]
        tight, jaw, sneer = au[23], au[26], au[9]
        rounded = jaw * (1 - stretch) * (1 - smile)
        laugh = smile * on(who.teeth > 0.35) * (0.5 + 0.6 * who.teeth)
        widening = 0.26 * smile + 0.22 * stretch - 0.12 * tight - 0.30 * rounded
        self.half = who.mouth_width * (1 + widening - 0.08 * down * (1 - stretch))
        self.y = who.mouth_y + 0.9 * smile - 0.7 * down - 0.5 * sneer - 0.3 * jaw + 1.9 * rounded
        self.bend = 0.4 * stretch - 3.6 * smile
        self.hook = 3.3 * down + 0.8 * stretch
        self.up = 0.3 * laugh + 0.9 * jaw + 1.7 * rounded + sneer * depress + 0.5 * stretch * jaw
        self.low = 3.6 * laugh + (5.6 - 2.2 * stretch) * jaw - 1.4 * rounded + 1.7 * depress
        self.roundness = np.minimum(jaw + 0.8 * depress, 1)
        thin = (1 - 0.6 * tight) * (1 - 0.2 * stretch)
        self.upper = who.lip_upper * thin * (1 - 0.3 * smile) * (1 - 0.2 * sneer)
        self.lower = who.lip_lower * thin * (1 - 0.2 * smile) * (1 + 0.2 * depress)
        self.press = 0.38 + 0.35 * tight
        self.teeth = 2.9 * laugh + 1.7 * stretch * jaw + 1.2 * depress * sneer + 0.55 * rounded
        self.lower_teeth = stretch * jaw + 1.1 * depress

    @property
    def bottom(self) -> Array:
        """Lower edge of the lower lip in the middle."""
        return self.y + self.low + self.lower

    def meeting(self, s2: Array) -> Array:
        """The line along which the lips meet, as a function of ``s^2``."""
        return self.y + s2 * (self.bend + s2 * self.hook)


def paint_mouth(scene: Scene, grid: PixelGrid, canvas: Canvas, mouth: Mouth) -> None:
    """Lips, the dark opening between them, teeth and tongue."""
    who = scene.who
    w = grid.window(27, 48, 6, 42)
    s2 = np.clip(square(w.x / mouth.half), 0, 1)
    pointed = 1 - s2
    elliptic = np.sqrt(pointed)
    gap = pointed + mouth.roundness * (elliptic - pointed)
    meeting = mouth.meeting(s2) + 0.05 * who.skew * w.x
    roof, floor = meeting - mouth.up * gap, meeting + mouth.low * gap
    bow = 1 - 0.35 * square(np.clip(1 - square(w.x / 2.2), 0, 1))
    top, bottom = roof - mouth.upper * elliptic * bow, floor + mouth.lower * elliptic
    ends = w.a - mouth.half

    lips = np.maximum(np.maximum(top - w.y, w.y - bottom), ends)
    below = on(w.y > 0.5 * (roof + floor))
    canvas.darken(w.at, w.cover(lips) * (1 - who.lip_tone * (0.86 + 0.22 * below)))
    canvas.label(w.at, lips < 0.4, MOUTH)

    opening = np.maximum(np.maximum(roof - w.y, w.y - floor), ends)
    canvas.paint(w.at, w.cover(opening - mouth.press), 0.10 * scene.skin + 0.05)
    inside = w.cover(opening + 0.15)
    tongue = bump(w.x, w.y - mouth.y - mouth.low, 0.62 * mouth.half, 0.42 * mouth.low + 0.01)
    canvas.paint(w.at, 0.5 * inside * tongue, 0.85 * who.lip_tone * scene.skin)
    above = w.cover(w.y - roof - mouth.teeth * np.sqrt(elliptic)) * np.minimum(3 * mouth.teeth, 1)
    beneath = w.cover(floor - w.y - mouth.lower_teeth * gap) * np.minimum(3 * mouth.lower_teeth, 1)
    canvas.paint(w.at, 0.9 * inside * np.maximum(above, beneath), 0.55 + 0.38 * scene.skin)


def paint_beard(scene: Scene, grid: PixelGrid, canvas: Canvas, mouth: Mouth, head: Array) -> None:
    """Beard along the jaw, moustache or stubble; ``head`` is the distance to the head's outline."""
    who = scene.who
    may = 1 - scene.beardless
    full = may * on(who.beard > 0.80)
    lip = np.maximum(full, may * on(who.moustache > 0.86))
    density = np.maximum(0.82 * full, may * 0.6 * np.maximum(who.stubble - 0.5, 0))
    if not (density.any() or lip.any()):
        return
    w = grid.window(20, 48)
    x = w.a / who.width
    edge = 13.5 - 2 * x - 10.5 * square(square(x)) + 0.35 * np.sin(1.3 * w.x + who.phase)
    s2 = np.clip(square(w.x / mouth.half), 0, 1)
    meeting = mouth.meeting(s2)
    lips = disc(
        w.x,
        w.y - meeting - 0.5 * (mouth.low + mouth.lower - mouth.up - mouth.upper) * (1 - s2),
        mouth.half + 0.3,
        0.5 * (mouth.up + mouth.upper + mouth.low + mouth.lower) + 0.2,
    )
    hairs = scene.stubble * (1 + 0.12 * np.sin(2.6 * w.x + 1.6 * np.sin(1.9 * w.y + who.phase)))
    below = w.cover(np.maximum(edge - w.y, head[w.at] - 0.6), 3.5)
    below *= density * (1 - w.cover(lips, 2))
    canvas.paint(w.at, below, hairs)
    top = meeting - (mouth.up + mouth.upper) * (1 - s2)
    thick = 1.3 - 0.7 * square(s2) - 0.5 * crest(w.x, 1.1)
    moustache = np.abs(w.y - top + 2.0 - 1.3 * s2) - thick
    above = 0.88 * lip * w.cover(np.maximum(moustache, w.a - mouth.half), 1.6)
    canvas.paint(w.at, above, hairs)
    canvas.label(w.at, np.maximum(below, above) > 0.4, BEARD)
