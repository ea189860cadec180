"""Rendering a batch of faces: painting back to front, then the camera."""

import numpy as np

from explainkit_fer_hw3.faces.canvas import (
    SCALE,
    Canvas,
    Labels,
    PixelGrid,
    cover,
    disc,
    enlarge,
    majority,
    shrink,
    square,
)
from explainkit_fer_hw3.faces.features import paint_brows, paint_eyes, paint_glasses, paint_nose
from explainkit_fer_hw3.faces.hair import front, hair_tones, silhouette
from explainkit_fer_hw3.faces.identity import Array, Identity
from explainkit_fer_hw3.faces.mouth import Mouth, paint_beard, paint_mouth
from explainkit_fer_hw3.faces.scene import BACKGROUND, CHEEKS, HAIR, Scene, Units
from explainkit_fer_hw3.faces.skin import label_skin, outline, skin_tones

_ALL = (slice(None), slice(None), slice(None))


def render(who: Identity, units: Units, noise: Array, without: str | None) -> tuple[Labels, Labels]:
    """Renders one batch.

    Returns:
        Gray values, and the part that each pixel shows, both uint8 ``[faces, 48, 48]``.
    """
    scene = Scene(who, units, without)
    coarse, fine = PixelGrid(who, 1), PixelGrid(who, SCALE)
    mouth = Mouth(scene)
    skin = enlarge(skin_tones(scene, coarse, mouth))
    head = outline(scene, fine)
    canvas = Canvas(enlarge(_backdrop(scene, coarse)))
    _paint_body(scene, fine, canvas)
    if scene.has("hair"):
        hair = enlarge(hair_tones(scene, coarse))
        behind = silhouette(scene, fine)
        canvas.paint(_ALL, cover(behind, fine.sharpness), 0.72 * hair, HAIR)
    _paint_ears(scene, fine, canvas, skin)
    inside = cover(head, fine.sharpness)
    canvas.paint(_ALL, inside, skin)
    label_skin(scene, fine, canvas, inside > 0.5)
    if scene.has("beard"):
        paint_beard(scene, fine, canvas, mouth, head)
    if scene.has("nose"):
        paint_nose(scene, fine, canvas)
    if scene.has("mouth"):
        paint_mouth(scene, fine, canvas, mouth)
    if scene.has("eyes"):
        paint_eyes(scene, fine, canvas)
    if scene.has("brows"):
        paint_brows(scene, fine, canvas)
    if scene.has("hair"):
        canvas.paint(_ALL, cover(front(scene, fine, behind), 0.6 * fine.sharpness), hair, HAIR)
    if scene.has("glasses"):
        paint_glasses(scene, fine, canvas)
    return _develop(who, shrink(canvas.tones), noise), majority(canvas.parts)


def _backdrop(scene: Scene, grid: PixelGrid) -> Array:
    """A wall with a gradient and some blurred shapes."""
    who = scene.who
    shapes = np.sin(0.17 * grid.u + 2 * who.phase) * np.sin(0.13 * grid.v + 3 * who.phase)
    slope = (who.backdrop_x * grid.u + who.backdrop_y * grid.v) / 24
    return 0.08 + 0.86 * who.backdrop + slope + 0.13 * square(who.clutter) * shapes


def _paint_body(scene: Scene, grid: PixelGrid, canvas: Canvas) -> None:
    w = grid.window(32, 48)
    neck = np.maximum(w.a - 0.66 * scene.who.width - 0.05 * w.y, 14 - w.y)
    canvas.paint(w.at, w.cover(neck), 0.55 * scene.skin, BACKGROUND)
    canvas.paint(w.at, w.cover(25.5 - 0.22 * w.a - w.y), scene.who.cloth, BACKGROUND)


def _paint_ears(scene: Scene, grid: PixelGrid, canvas: Canvas, skin: Array) -> None:
    """Ears, unless long hair covers them."""
    w = grid.window(10, 34)
    away = np.abs(grid.u[w.at]) - scene.who.width - 0.1
    ear = w.cover(disc(away, w.y + 3.2, scene.who.ears, 4.2))
    if scene.has("hair"):
        ear *= 1 - scene.beardless
    canvas.paint(w.at, ear, 0.82 * skin[w.at], CHEEKS)


def _develop(who: Identity, tones: Array, noise: Array) -> Labels:
    """The camera: slight blur, contrast, exposure, noise, 8 bits."""
    for axis in (1, 2):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        back = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        flow = 0.5 * who.blur * (tones[ahead] - tones[back])
        tones = tones.copy()
        tones[back] += flow
        tones[ahead] -= flow
    tones = 0.5 + who.contrast * (tones - 0.47 + 0.10 * who.exposure) + who.noise * noise
    pixels: Labels = np.clip(tones * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels
