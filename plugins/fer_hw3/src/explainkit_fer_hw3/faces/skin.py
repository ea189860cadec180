"""The head: outline, shaded relief, wrinkles, and the labels of its regions."""

import numpy as np

from explainkit_fer_hw3.faces.canvas import (
    Canvas,
    Mask,
    PixelGrid,
    Window,
    bump,
    crest,
    positive,
    square,
    squircle,
)
from explainkit_fer_hw3.faces.identity import Array
from explainkit_fer_hw3.faces.mouth import Mouth
from explainkit_fer_hw3.faces.scene import CHEEKS, CHIN, FOREHEAD, NOSE, Scene

_CROWN = 23.5  # height of the skull above the origin


def outline(scene: Scene, grid: PixelGrid) -> Array:
    """Distance to the outline of the head: a squircle that narrows towards the chin."""
    who = scene.who
    below = positive(grid.v / (who.length + 2.6 * scene.units["chin"][26]))
    height = below + np.clip(grid.v, -np.inf, 0) / _CROWN
    width = who.width * (1 - who.taper * square(below))
    return squircle(grid.u, height, width, 0.55 * who.square)


def skin_tones(scene: Scene, grid: PixelGrid, mouth: Mouth) -> Array:
    """Lambertian shading of the relief, darker in the sockets and along the wrinkles."""
    who = scene.who
    relief, socket = _relief(scene, grid)
    slope_x, slope_y = np.empty_like(relief), np.empty_like(relief)
    slope_x[:, :, 1:-1] = 0.5 * (relief[:, :, 2:] - relief[:, :, :-2])
    slope_y[:, 1:-1] = 0.5 * (relief[:, 2:] - relief[:, :-2])
    slope_x[:, :, 0], slope_x[:, :, -1] = slope_x[:, :, 1], slope_x[:, :, -2]
    slope_y[:, 0], slope_y[:, -1] = slope_y[:, 1], slope_y[:, -2]
    light_x, light_y = 0.9 * who.light_x * np.abs(who.light_x), 0.75 * who.light_y
    towards = np.sqrt(1 - 0.7 * (square(light_x) + square(light_y)))
    length = np.sqrt(1 + square(slope_x) + square(slope_y))
    facing = positive((towards - light_x * slope_x - light_y * slope_y) / length)
    ambient = 0.22 + 0.26 * who.ambient
    light = ambient + (1.08 - ambient) * facing - 0.13 * socket
    for window, shadow in _wrinkles(scene, grid, mouth):
        light[window.at] -= shadow
    shine = who.shine * square(square(facing)) * (0.65 * facing - 0.25)
    return scene.skin * light + shine


def _relief(scene: Scene, grid: PixelGrid) -> tuple[Array, Array]:
    """Height of the face towards the viewer in face units, and the sockets alone."""
    who, cheeks = scene.who, scene.units["cheeks"]
    radius = square(grid.u / who.width) + square(grid.v / 24)
    relief = radius * (-4.2 - 1.6 * radius)
    w = grid.window(0, 30)
    brow = bump(w.a - 7, w.y - who.brow_y - 1, 9, 4.5)
    eyes = bump(w.a - who.eye_x + 0.6, w.y - who.eye_y + 0.3, 7.4, 5.2)
    relief[w.at] += brow - 2 * eyes
    socket = np.zeros_like(relief)
    socket[w.at] = eyes
    w = grid.window(18, 48)
    apple = 1.3 + 1.1 * np.maximum(cheeks[6], cheeks[12])
    relief[w.at] += apple * bump(w.a - 10.2, w.y - 4.4 + 1.6 * cheeks[6], 8, 7)
    relief[w.at] += 1.7 * bump(w.x, w.y - 13, 10, 8)
    jaw = who.length - 4 + 2.4 * scene.units["chin"][26]
    relief[w.at] += 1.3 * bump(w.x, w.y - jaw, 7, 4.5)
    if scene.has("nose"):
        wide, tip = who.nose_width, who.nose_length
        w = grid.window(8, 38)
        nose = 2.1 * bump(w.x, w.y + 2, 4.6, 10)
        nose += 2.6 * bump(w.x, w.y - tip + 1, 1.15 * wide, 4.4)
        nose += bump(w.a - 0.75 * wide, w.y - tip + 0.4, 2.4, 2.4)
        relief[w.at] += who.nose_height * nose
    return relief, socket


def _wrinkles(scene: Scene, grid: PixelGrid, mouth: Mouth) -> list[tuple[Window, Array]]:
    """Share of the light that every skin fold removes, each in its own window."""
    who, units = scene.who, scene.units
    cheeks = units["cheeks"]
    folds = []

    inner, outer = units["forehead"][1], units["forehead"][2]
    w = grid.window(0, 20)
    y = w.y - 0.02 * square(w.a) * (1 - 2 * inner * (1 - outer))
    depth = 0.05 * who.age + np.maximum(inner, outer) * (0.07 + 0.10 * who.age)
    across = crest(w.a, 4 + 8 * outer + 2 * inner)
    folds.append((w, depth * across * (crest(y + 15.3, 0.9) + crest(y + 17.9, 0.9))))

    if scene.has("brows"):  # the furrow between the brows
        w = grid.window(8, 22, 14, 34)
        folds.append((w, 0.30 * units["brows"][4] * crest(w.a - 1.35, 0.9) * crest(w.y + 9.6, 3.2)))

    if scene.has("nose"):
        w = grid.window(12, 30, 12, 36)
        y = w.y + 0.35 * w.a
        lines = (crest(y + 4.4, 1.1) + crest(y + 1.9, 1.1)) * crest(w.a, 4.2)
        folds.append((w, 0.24 * units["nose"][9] * lines))

    # From the wings of the nose around the corners of the mouth.
    w = grid.window(24, 46)
    t = np.clip((w.y - 3.6 + cheeks[9]) / 9, 0, 1)
    path = (3.2 + 3 * cheeks[12] + 1.6 * cheeks[20]) * t * (1.7 - 0.9 * t)
    depth = 0.02 + 0.10 * square(who.age)
    depth = depth + 0.20 * cheeks[12] + 0.22 * cheeks[9] + 0.08 * cheeks[20]
    middle = 8 - cheeks[9] - 0.8 * cheeks[12]
    fold = crest(w.a - who.nose_width - 0.9 - path, 1.6) * crest(w.y - middle, 5.6)
    folds.append((w, depth * fold))

    # Below the eyes, and the crow's feet beside them.
    w = grid.window(12, 32)
    x, y = w.a - who.eye_x, w.y - who.eye_y
    bag = crest(y - 3.5 + 0.07 * square(x) + 0.5 * cheeks[6], 0.9) * crest(x, 5)
    feet = crest(y - 0.35 * (x - 5), 0.7) + crest(y - 1.5 - 0.75 * (x - 5), 0.7)
    feet *= crest(x - 6.6, 1.9)
    folds.append((w, (0.03 + 0.10 * who.age + 0.20 * cheeks[6]) * bag + 0.22 * cheeks[6] * feet))

    if scene.has("mouth"):  # the shadow of the lower lip
        w = grid.window(32, 48)
        folds.append((w, 0.13 * bump(w.x, w.y - mouth.bottom - 1.3, who.mouth_width, 1.9)))
    return folds


def label_skin(scene: Scene, grid: PixelGrid, canvas: Canvas, inside: Mask) -> None:
    """Label the regions of bare skin, which have no visible boundary."""
    who = scene.who
    canvas.label((slice(None),), inside, CHEEKS)
    w = grid.window(0, 28)
    canvas.label(w.at, inside[w.at] & (w.y < who.eye_y - 0.5), FOREHEAD)
    w = grid.window(26, 48)
    chin = np.maximum(who.mouth_y - 2 + 0.35 * (w.a - who.mouth_width), 9)
    canvas.label(w.at, inside[w.at] & (w.y > chin), CHIN)
    if scene.has("nose"):
        w = grid.window(8, 40, 8, 40)
        tip = who.nose_length + 1.2
        t = np.clip((w.y + 7.5) / (tip + 7.5), 0, 1)
        wing = 1.9 + (who.nose_width - 1.0) * square(t)
        nose = (w.a < wing) & (w.y > -7.5) & (w.y < tip - 0.04 * square(w.a))
        canvas.label(w.at, nose & inside[w.at], NOSE)
