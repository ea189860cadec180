"""Nose, eyes, brows and glasses."""

import numpy as np

from explainkit_fer_hw3.faces.canvas import Canvas, PixelGrid, bump, disc, on, positive, square
from explainkit_fer_hw3.faces.scene import BROWS, EYES, GLASSES, Scene


def paint_nose(scene: Scene, grid: PixelGrid, canvas: Canvas) -> None:
    """Nostrils, the outline of the wings, and the shadow below; the rest comes from the relief."""
    who, wrinkle = scene.who, scene.units["nose"][9]
    w = grid.window(22, 38, 12, 36)
    tip, wide = who.nose_length - 0.9 * wrinkle, who.nose_width * (1 + 0.10 * wrinkle)
    hole = disc(w.a - 0.5 * wide, w.y - tip - 0.3 + 0.12 * w.a, 1.15, 0.62)
    canvas.darken(w.at, 0.55 * w.cover(hole))
    aside = w.a - 0.72 * wide
    wing = np.abs(disc(aside, w.y - tip + 0.7, 1.55, 1.8)) - 0.32
    canvas.darken(w.at, 0.58 * np.clip(0.42 * aside, 0, 0.5) * w.cover(wing))
    canvas.darken(w.at, 0.15 * bump(w.x, w.y - tip - 1.5, wide, 1.3))


def paint_eyes(scene: Scene, grid: PixelGrid, canvas: Canvas) -> None:
    """White, iris, pupil and highlight between two lids, each a parabola."""
    who, au = scene.who, scene.units["eyes"]
    inner, knit, wide, squint, tight, wrinkle = au[1], au[4], au[5], au[6], au[7], au[9]
    sad = inner * knit * (1 - wide)
    angry = knit * (1 - inner)
    up = who.eye_open * (1 + 0.62 * wide) - 0.45 * tight * (1 - 0.5 * wide)
    up = up - 0.55 * squint - 0.55 * sad - 0.70 * wrinkle - 0.35 * angry
    low = 0.72 * who.eye_open + 0.25 * wide * (1 - knit)
    low = low - 0.55 * tight - 0.85 * squint - 0.55 * wrinkle
    slant = 0.55 * angry - 0.40 * sad - 0.12 * inner * knit

    w = grid.window(7, 28)
    x = w.a - who.eye_x
    y = w.y - who.eye_y + who.eye_tilt * x
    s = x / who.eye_width
    arc = 1 - square(s)
    upper, lower = -up * arc * (1 + slant * s), low * arc
    ends = np.abs(x) - who.eye_width
    between = np.maximum(upper - y, y - lower)
    lids = np.maximum(upper - y - 2.0, y - lower - 0.9)
    canvas.label(w.at, np.maximum(lids, ends - 0.7) < 0, EYES)

    crease = np.maximum(np.abs(y - upper + 1.5 + 0.3 * wide) - 0.4, ends)
    canvas.darken(w.at, 0.22 * w.cover(crease))
    white = w.cover(np.maximum(between, ends))
    canvas.paint(w.at, white, (0.50 + 0.42 * scene.skin) * (0.88 + 0.12 * arc))
    gx = w.x - np.copysign(who.eye_x, w.x) - who.gaze_x
    gy = y - who.gaze_y + 0.25 - 0.1 * wide
    radius = np.sqrt(square(gx) + square(gy))
    canvas.paint(w.at, white * w.cover(radius - 1.85), who.iris)
    canvas.paint(w.at, white * w.cover(radius - 0.95), 0.03)
    spark = disc(gx + 0.7, gy + 0.75, 0.5, 0.5)
    canvas.paint(w.at, 0.8 * white * w.cover(spark), 0.95)
    thick = 0.34 + 0.26 * who.lashes * (0.3 + 0.7 * scene.beardless)
    lash = np.maximum(np.abs(y - upper) - thick * (1 + 0.4 * s), ends - 0.5)
    canvas.paint(w.at, 0.92 * w.cover(lash), 0.16 * scene.skin)
    rim = np.maximum(np.abs(y - lower - 0.1) - 0.25, ends)
    canvas.paint(w.at, 0.5 * w.cover(rim), 0.35 * scene.skin)


def paint_brows(scene: Scene, grid: PixelGrid, canvas: Canvas) -> None:
    """A stroke that tapers outwards; the units move its inner and outer half."""
    who, au = scene.who, scene.units["brows"]
    inner, outer, knit, wrinkle = au[1], au[2], au[4], au[9]
    lowered = knit * (1 - 0.72 * inner)
    w = grid.window(0, 25)
    start, end = 4.1 - 1.3 * knit, who.eye_x + 5.2
    t = np.clip((w.a - start) / (end - start), -0.2, 1.1)
    near, far = square(1 - t), square(t)
    y = who.brow_y - 3.0 * inner * near - 2.5 * outer * (0.25 + 1.75 * t - far)
    y += lowered * (1.1 + 2.2 * near) + wrinkle * (1.4 + 1.1 * near) + 0.9 * knit * inner * t
    arch = who.brow_arch * (1 - 0.6 * lowered) * (1 - 0.8 * inner * knit)
    y += far * t - 4 * arch * t * (1 - t) * (0.4 + t)
    half = 0.5 * who.brow_thickness * (1 + 0.12 * knit) * (1 - 0.62 * np.clip(far, 0, 1))
    stroke = np.maximum(np.abs(w.y - y) - half, np.maximum(start - w.a, w.a - end))
    canvas.paint(w.at, 0.88 * w.cover(stroke, 1.6), scene.brow)
    canvas.label(w.at, stroke < 0, BROWS)


def paint_glasses(scene: Scene, grid: PixelGrid, canvas: Canvas) -> None:
    """Two rounded rims, a bridge, the sides, and a reflection in the lenses."""
    who = scene.who
    worn = on(who.glasses > 0.80)
    if not worn.any():
        return
    w = grid.window(6, 32)
    half = 0.8 * who.frame_width
    rx, ry, corner = 5.6 + 0.6 * who.lens, 3.9 + 0.9 * who.lens, 1.6 + 2.2 * who.lens
    x, y = w.a - who.eye_x, w.y - who.eye_y - 0.4
    qx, qy = np.abs(x) - rx + corner, np.abs(y) - ry + corner
    lens = np.sqrt(square(positive(qx)) + square(positive(qy))) - corner
    lens += np.clip(np.maximum(qx, qy), -np.inf, 0)
    canvas.paint(w.at, 0.10 * worn * w.cover(lens) * positive(1 - square(0.5 * (x + y))), 1)
    bridge = np.abs(y + 1.6 - 0.05 * square(w.a)) - half
    bridge = np.maximum(bridge, w.a - who.eye_x + rx)
    side = np.maximum(np.abs(y + 2.0) - half, np.maximum(rx - x, w.a - who.width - 1))
    metal = w.cover(np.minimum(np.minimum(np.abs(lens) - half, bridge), side))
    tone = 0.06 + 0.5 * square(square(who.frame_tone))
    canvas.paint(w.at, 0.95 * worn * metal, tone, GLASSES)
