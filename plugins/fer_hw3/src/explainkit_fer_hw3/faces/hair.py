"""The hair of the head: behind the face and over it."""

import numpy as np

from explainkit_fer_hw3.faces.canvas import PixelGrid, bump, square, squircle
from explainkit_fer_hw3.faces.identity import Array
from explainkit_fer_hw3.faces.scene import Scene


def hair_tones(scene: Scene, grid: PixelGrid) -> Array:
    """Strands, a sheen on the lit side, and shade beside the neck."""
    who = scene.who
    bend = 0.13 * (1 + who.wave) * grid.v
    sway = np.sin(bend + who.phase)
    strand = np.sin(who.strands * grid.u + 1.8 * who.wave * sway + who.phase)
    fine = np.sin(2.3 * who.strands * grid.u - 2 * bend + 2 * who.phase)
    body = 1 + 0.10 * strand * (1 + 0.7 * sway) + 0.07 * fine
    shade = 0.22 * bump(np.abs(grid.u) - who.width, grid.v - 4, 6, 22)
    sheen = bump(grid.u - 7 * who.light_x, grid.v + 19, 15, 6)
    return scene.hair * (body - shade) + (0.08 + 0.2 * scene.hair) * sheen


def silhouette(scene: Scene, grid: PixelGrid) -> Array:
    """Distance to the outline of the hair, including the part behind the face."""
    who, style = scene.who, scene.style
    ripple = 0.55 * style.curl * np.sin(0.9 * grid.v + who.phase) * np.sin(0.31 * grid.u + 1)
    width = who.width + style.thickness + 0.6 * who.volume + ripple
    height = np.clip(grid.v, -np.inf, 0) / (23 + style.volume + 0.5 * who.volume)
    height += np.clip(grid.v, 0, np.inf) / style.length
    return squircle(grid.u, height, width, np.maximum(0.35, 0.55 * who.square))


def front(scene: Scene, grid: PixelGrid, behind: Array) -> Array:
    """Distance to the hair in front of the face: above the hairline, within the silhouette."""
    who, style = scene.who, scene.style
    x = grid.u / who.width - 0.15 * who.parting
    x2 = square(x)
    x4 = square(x2)
    line = style.line + 0.9 * who.hairline + x2 * (style.side + x4 * style.temple)
    ripple = 0.6 * style.curl * np.sin(1.3 * grid.u + who.phase) * np.sin(0.41 * grid.u + 2)
    slope = x * (2 * style.side + 6 * style.temple * x4) / who.width
    above = (grid.v - line - ripple) / np.sqrt(1 + square(slope))
    return np.maximum(above, behind)
