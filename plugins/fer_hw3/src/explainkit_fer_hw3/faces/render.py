"""Painting: from identities and action units to tones and part labels, back to front."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explainkit_fer_hw3.faces.canvas import (
    SCALE,
    Canvas,
    bump,
    cover,
    disc,
    enlarge,
    positive,
    reduce_tones,
    square,
)
from explainkit_fer_hw3.faces.identity import SIZE, Array, Identity

PARTS: tuple[str, ...] = (
    "background",
    "hair",
    "forehead",
    "brows",
    "eyes",
    "nose",
    "cheeks",
    "mouth",
    "chin",
    "beard",
    "glasses",
)

BACKGROUND, HAIR, FOREHEAD, BROWS, EYES, NOSE, CHEEKS, MOUTH, CHIN, BEARD, GLASSES = range(11)

REMOVABLE: tuple[str, ...] = ("hair", "brows", "eyes", "nose", "mouth", "beard", "glasses")
"""The parts that a face can be drawn without."""

Units = Mapping[str, Mapping[int, Array]]


@dataclass(frozen=True)
class Frame:
    """Face coordinates of the centres of a grid of (sub-)pixels, ``[faces, rows, columns]``."""

    u: Array
    v: Array
    x: Array
    sharpness: Array

    def rows(self, first: int, last: int, left: int = 0, right: int = SIZE) -> "Window":
        step = self.u.shape[1] // SIZE
        part = (slice(None), slice(first * step, last * step), slice(left * step, right * step))
        return Window(part, self.x[part], np.abs(self.x[part]), self.v[part], self.sharpness)


@dataclass(frozen=True)
class Window:
    """A rectangle of a frame: ``x`` turned with the head, ``a`` its absolute value, ``y``."""

    part: tuple[slice, ...]
    x: Array
    a: Array
    y: Array
    sharpness: Array

    def cover(self, distance: Array) -> Array:
        return cover(distance, self.sharpness)


def frame(who: Identity, step: int) -> Frame:
    """Undo the pose: shift, scale, roll, a little shear, and the turn of the head."""
    centre = ((np.arange(SIZE * step, dtype=np.float32) + 0.5) / step) - SIZE / 2
    px = centre[None, None, :] - who.shift_x
    py = centre[None, :, None] - who.shift_y - 0.8
    angle = ROLL * who.roll * np.abs(who.roll)
    c, s = np.cos(angle) / who.scale, np.sin(angle) / who.scale
    u = px * c + py * s
    v = py * c - px * (s - 0.02 * who.skew)
    turned = u - 2.2 * who.yaw * (1 - square(u / who.width))
    return Frame(u, v, turned, step * who.scale)


ROLL = 0.22


def _ease(low: float, high: float, x: Array) -> Array:
    return np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)


# style: share, volume, hairline, side curve (x^2), temple curve (x^6), length, thickness, curl
STYLES = np.array(
    [
        (0.09, -1.5, -60.0, 0.0, 0.0, 9.0, -2.5, 0.0),  # bald
        (0.14, 0.4, -17.0, 1.5, 18.0, 11.0, 0.7, 0.2),  # short
        (0.09, 0.2, -19.8, -2.5, 24.0, 11.0, 0.6, 0.1),  # receding
        (0.10, 1.8, -15.6, 0.5, 20.0, 13.0, 1.2, 0.5),  # short, full
        (0.10, 1.0, -13.6, 1.0, 22.0, 14.0, 1.3, 0.35),  # fringe
        (0.13, 1.0, -18.6, 6.0, 30.0, 75.0, 2.6, 0.4),  # long
        (0.09, 1.0, -13.8, 1.0, 36.0, 70.0, 2.4, 0.2),  # long with a fringe
        (0.09, -0.2, -17.6, 3.5, 13.0, 10.0, 0.2, 0.1),  # tied back
        (0.09, 4.0, -16.6, 2.0, 20.0, 20.0, 4.4, 1.6),  # curly
        (0.08, 1.4, -18.0, 7.0, 26.0, 26.0, 3.6, 0.6),  # bob
    ],
    np.float32,
)


def render(
    who: Identity, units: Units, noise: Array, without: str | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    face = _Face(who, units, without)
    face.paint()
    return face.develop(noise), face.labels()


class _Face:
    def __init__(self, who: Identity, units: Units, without: str | None) -> None:
        self.who, self.units, self.without = who, units, without
        self.coarse = frame(who, 1)
        self.fine = frame(who, SCALE)
        count = len(who.skin)
        bounds = np.cumsum(STYLES[:, 0])
        row = np.searchsorted(bounds[:-1] / bounds[-1], who.style.reshape(-1), side="right")
        style = STYLES[row].reshape(count, 8, 1, 1)
        self.style = row.reshape(count, 1, 1)
        self.volume, self.line, self.curve2, self.curve6, self.hang, self.thick, self.curl = (
            style[:, column] for column in range(1, 8)
        )
        self.is_long = self.hang > 15
        self.drop = units["chin"][26]
        # Tones. Skin leans light, hair dark; brows and beard follow the hair but stand out.
        self.skin = 0.34 + 0.42 * who.skin**0.75
        self.hair = 0.07 + 0.63 * who.hair**2.0
        self.hair = np.minimum(self.hair, self.skin + 0.05)
        self.brow = np.minimum(self.hair * 0.85, self.skin * 0.50)

    def on(self, part: str) -> bool:
        return self.without != part

    # ------------------------------------------------------------------ layers
    def paint(self) -> None:
        who = self.who
        c, f = self.coarse, self.fine
        back = enlarge(self.backdrop(c))
        self.canvas = Canvas(back)
        everything = (slice(None), slice(None), slice(None))
        skin = self.skin_tones(c)
        skin_fine = enlarge(skin)
        hair_fine = enlarge(self.hair_tones(c))
        head = self.head(f.u, f.v)
        a = np.abs(f.u)
        self.body(f, a)
        if self.on("hair"):
            locks = self.hair_outline(f, a)
            self.canvas.paint(everything, cover(locks, f.sharpness), hair_fine * 0.72, HAIR)
        ear = disc(a - who.width - 0.1, f.v + 3.2, who.ears, 4.2)
        bare = 9 * (self.is_long & self.on("hair")).astype(np.float32)
        self.canvas.paint(everything, cover(ear + bare, f.sharpness), skin_fine * 0.82, CHEEKS)
        inside = cover(head, f.sharpness)
        self.canvas.paint(everything, inside, skin_fine)
        self.name_skin(f, inside > 0.5)
        self.beard(f, head)
        self.nose(f)
        self.mouth(f)
        self.eyes(f)
        self.brows(f)
        if self.on("hair"):
            x = f.u / who.width - 0.25 * who.parting
            x2 = square(x)
            ripple = 0.45 * self.curl * np.sin(f.u * 1.3 + who.phase)
            edge = self.line + who.hairline * 0.9 + x2 * (self.curve2 + x2 * x2 * self.curve6)
            slope = np.abs(x) * (2 * self.curve2 + 6 * self.curve6 * square(x2)) / who.width
            front = (f.v - edge - ripple) / np.sqrt(1 + square(slope))
            front = np.maximum(front, locks)
            self.canvas.paint(everything, cover(front, 0.6 * f.sharpness), hair_fine, HAIR)
        if self.on("glasses"):
            self.glasses(f)

    def backdrop(self, f: Frame) -> Array:
        who = self.who
        u, v = f.u / 24, f.v / 24
        tone = 0.08 + 0.86 * who.backdrop
        waves = np.sin(f.u * 0.17 + 2 * who.phase) * np.sin(f.v * 0.13 + 3 * who.phase)
        return tone + who.backdrop_x * u + who.backdrop_y * v + 0.13 * square(who.clutter) * waves

    def head(self, u: Array, v: Array) -> Array:
        """Signed distance to the outline: an egg with a square jaw (Fernandez-Guasti squircle)."""
        who = self.who
        below = who.length + 2.6 * self.drop
        t = np.where(v > 0, v / below, v / 23.5)
        width = who.width * (1 - who.taper * square(positive(t)))
        s = square(u / width)
        t2 = square(t)
        inside = s + t2 - who.square * 0.55 * s * t2
        return (inside - 1) * (0.5 * width) / np.sqrt(s + t2 + 0.04)

    def body(self, f: Frame, a: Array) -> None:
        who = self.who
        rows = (slice(None), slice(32 * SCALE, None), slice(None))
        a, v = a[rows], f.v[rows]
        neck = np.maximum(a - 0.66 * who.width - 0.05 * v, 14 - v)
        self.canvas.paint(rows, cover(neck, f.sharpness), self.skin * 0.55, BACKGROUND)
        cloth = 25.5 - 0.22 * a - v
        self.canvas.paint(rows, cover(cloth, f.sharpness), who.cloth, BACKGROUND)

    def hair_outline(self, f: Frame, a: Array) -> Array:
        who = self.who
        ripple = self.curl * 0.55 * np.sin(f.v * 0.9 + who.phase)
        side = who.width + self.thick + 0.6 * who.volume + ripple
        top = 23.0 + self.volume + who.volume
        t = np.minimum(f.v, 0) / top + np.maximum(f.v, 0) / self.hang
        s, t2 = square(a / side), square(t)
        inside = s + t2 - 0.35 * s * t2
        return (inside - 1) * (0.5 * side) / np.sqrt(s + t2 + 0.04)

    def hair_tones(self, f: Frame) -> Array:
        who = self.who
        bend = f.v * 0.13 * (1 + who.wave)
        sway = np.sin(bend + who.phase)
        strand = np.sin(f.u * who.strands + 1.8 * who.wave * sway + who.phase)
        fine = np.sin(f.u * 2.3 * who.strands - 2 * bend + 2 * who.phase)
        body = 1 + 0.13 * strand * (1 + 0.6 * sway) + 0.08 * fine
        sheen = bump(f.u - 7 * who.light_x, f.v + 19, 15, 6)
        dark = 0.22 * bump(np.abs(f.u) - who.width, f.v - 4, 6, 22)
        return self.hair * (body - dark) + sheen * (0.05 + 0.2 * self.hair)

    # ------------------------------------------------------------------ skin
    def skin_tones(self, f: Frame) -> Array:
        """Lambertian shading of a relief made of smooth hills, darkened along the wrinkles."""
        who, units = self.who, self.units
        x, v = f.x, f.v
        a = np.abs(x)
        radius = square(f.u / who.width) + square(v / 24)
        relief = -4.2 * radius - 1.6 * square(radius)
        smile = units["cheeks"][12]
        lift = units["cheeks"][6]
        relief += 1.0 * bump(a - 7, v - who.brow_y - 1, 9, 4.5)
        socket = bump(a - who.eye_x + 0.6, v - who.eye_y + 0.3, 7.4, 5.2)
        relief -= 2.0 * socket
        relief += (1.3 + 1.1 * np.maximum(lift, smile)) * bump(a - 10.2, v - 4.4 + 1.6 * lift, 8, 7)
        relief += 1.7 * bump(x, v - 13, 10, 8)
        relief += 1.3 * bump(x, v - who.length + 4 - 2.4 * self.drop, 7, 4.5)
        if self.on("nose"):
            wide, tip = who.nose_width, who.nose_length
            ridge = bump(x, v + 2, 4.6, 10) * 2.1
            ridge += 2.6 * bump(x, v - tip + 1, wide * 1.15, 4.4)
            ridge += 1.0 * bump(a - wide * 0.75, v - tip + 0.4, 2.4, 2.4)
            relief += who.nose_height * ridge
        slope_x = np.empty_like(relief)
        slope_y = np.empty_like(relief)
        slope_x[:, :, 1:-1] = relief[:, :, 2:] - relief[:, :, :-2]
        slope_y[:, 1:-1] = relief[:, 2:] - relief[:, :-2]
        slope_x[:, :, 0], slope_x[:, :, -1] = slope_x[:, :, 1], slope_x[:, :, -2]
        slope_y[:, 0], slope_y[:, -1] = slope_y[:, 1], slope_y[:, -2]
        lx = 0.62 * who.light_x * np.abs(who.light_x)
        ly = 0.75 * who.light_y
        lz = np.sqrt(1.0 - 0.7 * (square(lx) + square(ly)))
        facing = (lz - 0.5 * (lx * slope_x + ly * slope_y)) / np.sqrt(
            1 + 0.25 * (square(slope_x) + square(slope_y))
        )
        facing = positive(facing)
        ambient = 0.30 + 0.22 * who.ambient
        light = ambient + (1.08 - ambient) * facing
        light -= 0.13 * socket
        light -= self.wrinkles(f)
        shine = square(square(facing))
        return self.skin * light + who.shine * shine * (0.35 + 0.65 * facing - 0.6)

    def wrinkles(self, f: Frame) -> Array:
        who, units = self.who, self.units
        dark = np.zeros_like(f.u)

        def crease(rows: tuple[int, int], make: "object") -> None:
            window = f.rows(*rows)
            dark[window.part] += make(window)  # type: ignore[operator]

        def line(distance: Array, half: float) -> Array:
            return positive(1 - square(distance / half))

        one, two = units["forehead"][1], units["forehead"][2]
        knit = units["brows"][4]
        wrinkled = units["nose"][9]

        def forehead(w: Window) -> Array:
            wave = w.y - 0.02 * square(w.a) * (1 - 2 * one * (1 - two))
            lines = line(wave + 15.3, 0.9) + line(wave + 17.9, 0.9)
            reach = 4 + 8 * two + 2 * one
            strength = 0.05 * who.age + 0.16 * np.maximum(one, two) * (0.4 + 0.6 * who.age)
            return lines * strength * positive(1 - square(w.a / reach))

        crease((2, 20), forehead)

        def glabella(w: Window) -> Array:
            bar = line(w.a - 1.35, 0.9) * positive(1 - square((w.y + 9.6) / 3.2))
            return 0.30 * knit * bar

        crease((8, 22), glabella)

        def bridge(w: Window) -> Array:
            tilt = w.y + 0.35 * w.a
            lines = line(tilt + 4.4, 1.1) + line(tilt + 1.9, 1.1)
            return 0.24 * wrinkled * lines * positive(1 - square(w.a / 4.2))

        crease((14, 30), bridge)

        def fold(w: Window) -> Array:
            """Nasolabial fold: from the wing of the nose around the corner of the mouth."""
            smile, spread = units["cheeks"][12], units["cheeks"][20]
            raised = units["cheeks"][9]
            t = np.clip((w.y - 3.6 + raised) / 9, 0, 1)
            path = who.nose_width + 0.9 + (3.2 + 3 * smile + 1.6 * spread) * t * (1.7 - 0.9 * t)
            strength = 0.02 + 0.10 * square(who.age) + 0.20 * smile + 0.22 * raised + 0.08 * spread
            fade = positive(1 - square((w.y - 8 + raised) / 5.8))
            return strength * line(w.a - path, 1.6) * fade

        crease((24, 46), fold)

        def under_eye(w: Window) -> Array:
            lift = units["cheeks"][6]
            x = w.a - who.eye_x
            arc = w.y - who.eye_y - 3.5 + 0.07 * square(x) + 0.5 * lift
            bag = line(arc, 0.9) * positive(1 - square(x / 5.0))
            feet = line(w.y - who.eye_y - 0.35 * (x - 5), 0.7) + line(
                w.y - who.eye_y - 1.5 - 0.75 * (x - 5), 0.7
            )
            feet *= positive(1 - square((x - 6.6) / 1.9))
            return bag * (0.03 + 0.10 * who.age + 0.20 * lift) + feet * 0.22 * lift

        crease((14, 32), under_eye)

        def lip_shadow(w: Window) -> Array:
            low = self.lower_edge()
            return 0.13 * bump(w.x, w.y - low - 1.3, who.mouth_width, 1.9)

        crease((34, 48), lip_shadow)
        return dark

    def name_skin(self, f: Frame, inside: NDArray[np.bool_]) -> None:
        who = self.who
        parts = np.where(f.v < who.eye_y - 0.5, np.uint8(FOREHEAD), np.uint8(CHEEKS))
        a = np.abs(f.x)
        low = f.v > who.mouth_y - 2 + 0.35 * (a - who.mouth_width)
        np.copyto(parts, np.uint8(CHIN), where=low & (f.v > 9))
        if self.on("nose"):
            flare = who.nose_width + 0.9
            top, tip = -7.5, who.nose_length + 1.2
            t = np.clip((f.v - top) / (tip - top), 0, 1)
            side = 1.9 + (flare - 1.9) * square(t)
            nose = (a < side) & (f.v > top) & (f.v < tip - 0.04 * square(a))
            np.copyto(parts, np.uint8(NOSE), where=nose)
        np.copyto(self.canvas.parts, parts, where=inside)

    # ------------------------------------------------------------------ features
    def nose(self, f: Frame) -> None:
        if not self.on("nose"):
            return
        who = self.who
        raised = self.units["nose"][9]
        w = f.rows(22, 38, 8, 40)
        tip = who.nose_length - 0.9 * raised
        wide = who.nose_width * (1 + 0.10 * raised)
        dark = self.skin * 0.42
        hole = disc(w.a - wide * 0.50, w.y - tip - 0.3 + 0.12 * w.a, 1.15, 0.62)
        self.canvas.paint(w.part, 0.9 * w.cover(hole), dark)
        wing = np.abs(disc(w.a - wide * 0.72, w.y - tip + 0.7, 1.55, 1.8)) - 0.32
        outer = positive(w.a - wide * 0.72) * 0.42
        self.canvas.paint(w.part, np.clip(outer, 0, 0.5) * w.cover(wing), dark)
        base = bump(w.x, w.y - tip - 1.5, wide, 1.3)
        self.canvas.paint(w.part, 0.30 * base, self.skin * 0.5)

    def mouth_shape(self) -> dict[str, Array]:
        who, au = self.who, self.units["mouth"]
        smile, down, low, stretch, tight, jaw, sneer = (au[k] for k in (12, 15, 16, 20, 23, 26, 9))
        pursed = jaw * (1 - stretch) * (1 - smile)
        laugh = smile * (who.teeth > 0.35) * (0.5 + 0.6 * who.teeth)
        return {
            "half": who.mouth_width
            * (
                1
                + 0.26 * smile
                + 0.22 * stretch
                - 0.12 * tight
                - 0.30 * pursed
                - 0.08 * down * (1 - stretch)
            ),
            "y": who.mouth_y + 0.9 * smile - 0.7 * down - 0.5 * sneer - 0.3 * jaw,
            "bend": -3.6 * smile + 0.4 * stretch,
            "hook": 3.3 * down + 0.8 * stretch,
            "up": 0.3 * laugh + 0.9 * jaw + 1.0 * sneer * low + 0.5 * stretch * jaw,
            "low": 3.0 * laugh + (5.6 - 2.2 * stretch) * jaw + 1.7 * low,
            "round": np.clip(jaw + low * 0.8, 0, 1),
            "upper": who.lip_upper
            * (1 - 0.6 * tight)
            * (1 - 0.3 * smile)
            * (1 - 0.25 * stretch)
            * (1 - 0.2 * sneer),
            "lower": who.lip_lower
            * (1 - 0.6 * tight)
            * (1 - 0.2 * smile)
            * (1 - 0.2 * stretch)
            * (1 + 0.2 * low),
            "teeth": laugh * 2.4 + stretch * jaw * 1.7 + 1.2 * low * sneer + 0.55 * pursed,
            "press": 0.38 + 0.35 * tight,
            "lower_teeth": stretch * jaw * 1.0 + 1.1 * low,
        }

    def lower_edge(self) -> Array:
        m = self.mouth_shape()
        return m["y"] + m["low"] + m["lower"]

    def mouth(self, f: Frame) -> None:
        if not self.on("mouth"):
            return
        who = self.who
        w = f.rows(28, 48, 6, 42)
        m = self.mouth_shape()
        x = w.x / m["half"]
        x2 = np.clip(square(x), None, 1)
        q = 1 - x2
        root = np.sqrt(q)
        middle = m["y"] + x2 * (m["bend"] + x2 * m["hook"]) + 0.05 * who.skew * w.x
        gap = q + m["round"] * (root - q)
        upper = middle - m["up"] * gap
        lower = middle + m["low"] * gap
        bow = 1 - 0.35 * bump(w.x, 0 * w.x, 2.2, 1)
        top = upper - m["upper"] * root * bow
        bottom = lower + m["lower"] * root
        ends = np.abs(w.x) - m["half"]
        lips = np.maximum(np.maximum(top - w.y, w.y - bottom), ends)
        tone = self.skin * who.lip_tone
        shade = np.where(w.y < (upper + lower) * 0.5, np.float32(0.86), np.float32(1.08))
        self.canvas.label(w.part, lips - 0.4, MOUTH)
        self.canvas.darken(w.part, w.cover(lips) * (1 - who.lip_tone * shade))
        inside = np.maximum(np.maximum(upper - w.y, w.y - lower), ends)
        hollow = w.cover(inside - m["press"])
        dark = self.skin * 0.10 + 0.05
        bright = 0.55 + 0.35 * self.skin
        edge = w.cover(inside + 0.15)
        above = edge * w.cover(w.y - upper - m["teeth"] * np.sqrt(root))
        below = (
            edge
            * w.cover(lower - w.y - m["lower_teeth"] * gap)
            * np.clip(m["lower_teeth"] * 3, None, 1)
        )
        tongue = edge * bump(w.x, w.y - m["y"] - m["low"], m["half"] * 0.62, m["low"] * 0.42 + 0.01)
        above *= np.clip(m["teeth"] * 3, None, 1)
        self.canvas.paint(w.part, hollow, dark)
        self.canvas.paint(w.part, 0.5 * tongue, tone * 0.85)
        self.canvas.paint(w.part, 0.9 * np.maximum(above, below), bright)

    def beard(self, f: Frame, head: Array) -> None:
        if not self.on("beard"):
            return
        who = self.who
        may = ~self.is_long & (self.style != 4)
        full = (may & (who.beard > 0.80)).astype(np.float32)
        lip = (may & ((who.beard > 0.80) | (who.moustache > 0.88))).astype(np.float32)
        stubble = may * (0.30 * positive(who.stubble - 0.5))
        density = np.maximum(full * 0.82, stubble)
        if not (density.any() or lip.any()):
            return
        m = self.mouth_shape()
        w = f.rows(20, 48)
        edge = self.head_window(head, w)
        x = w.a / who.width
        upper = 13.5 - 10.5 * square(square(x)) - 2.0 * x
        jaw = upper + 0.35 * np.sin(w.x * 1.3 + who.phase) - w.y
        jaw = np.maximum(jaw, edge - 0.6)
        ring = disc(
            w.x,
            w.y - m["y"] - 0.5 * (m["low"] - m["up"]),
            m["half"] + 0.7,
            m["upper"] + m["lower"] + 0.5 * (m["low"] + m["up"]) + 0.2,
        )
        jaw = np.maximum(jaw, -ring)
        tone = self.beard_tone() * (1 + 0.2 * np.sin(w.x * 2 + who.phase) * np.sin(w.y * 1.7))
        grow = cover(jaw, 0.28 * w.sharpness)
        self.canvas.paint(w.part, density * grow, tone)
        hairs = density * grow
        x2 = np.clip(square(w.x / (m["half"] * 1.02)), None, 1)
        top = m["y"] + x2 * (m["bend"] + x2 * m["hook"]) - m["up"] * (1 - x2) - m["upper"] - 0.7
        tash = np.abs(w.y - top + 1.0 - 2.2 * x2) - 1.45 * (1 - 0.4 * x2)
        tash = np.maximum(tash, w.a - m["half"] * 1.02 - 0.6)
        grow = 0.82 * lip * cover(tash, 0.5 * w.sharpness)
        self.canvas.paint(w.part, grow, tone)
        np.copyto(self.canvas.parts[w.part], np.uint8(BEARD), where=np.maximum(hairs, grow) > 0.4)

    def head_window(self, head: Array, w: Window) -> Array:
        return head[w.part]

    def beard_tone(self) -> Array:
        return np.minimum(self.hair * 0.9, self.skin * 0.55)

    def eyes(self, f: Frame) -> None:
        if not self.on("eyes"):
            return
        who, au = self.who, self.units["eyes"]
        w = f.rows(9, 28)
        wide, tight, squint, inner, knit, sneer = (au[k] for k in (5, 7, 6, 1, 4, 9))
        x = (w.a - who.eye_x) / who.eye_width
        y = w.y - who.eye_y - 0 + who.eye_tilt * (w.a - who.eye_x)
        x2 = square(x)
        q = 1 - x2
        droop = inner * knit * (1 - wide)
        up = (
            who.eye_open * (1 + 0.62 * wide)
            - 0.45 * tight * (1 - 0.5 * wide)
            - 0.55 * squint
            - 0.55 * droop
            - 0.7 * sneer
            - 0.35 * knit * (1 - inner)
        )
        low = (
            who.eye_open * 0.72
            + 0.25 * wide * (1 - knit)
            - 0.55 * tight
            - 0.85 * squint
            - 0.55 * sneer
        )
        slant = 0.55 * knit * (1 - inner) - 0.40 * droop - 0.12 * inner * knit
        lid_up = -up * q * (1 + slant * x)
        lid_low = low * q
        ends = (np.abs(x) - 1) * who.eye_width
        opening = np.maximum(np.maximum(lid_up - y, y - lid_low), ends)
        self.canvas.label(
            w.part, np.maximum(np.maximum(lid_up - y, y - lid_low) - 0.9, ends - 0.7), EYES
        )
        crease = np.abs(y - lid_up + 1.5 + 0.3 * wide) - 0.4
        self.canvas.paint(w.part, 0.38 * w.cover(np.maximum(crease, ends)), self.skin * 0.45)
        white = w.cover(opening)
        sclera = (0.50 + 0.42 * self.skin) * (1 - 0.12 * x2)
        self.canvas.paint(w.part, white, sclera)
        side = np.where(w.x > 0, 1, -1)
        gx = w.a - who.eye_x - side * who.gaze_x
        gy = y - who.gaze_y + 0.25 - 0.1 * wide
        radius = 1.85
        distance = np.sqrt(square(gx) + square(gy))
        self.canvas.paint(w.part, white * w.cover(distance - radius), who.iris)
        self.canvas.paint(w.part, white * w.cover(distance - 0.95), 0.03)
        spark = disc(w.a - who.eye_x - side * (who.gaze_x - 0.7), gy + 0.75, 0.5, 0.5)
        self.canvas.paint(w.part, 0.8 * white * w.cover(spark), 0.95)
        thick = 0.34 + 0.26 * who.lashes * (0.3 + 0.7 * self.is_long.astype(np.float32))
        lash = np.abs(y - lid_up) - thick * (1 + 0.4 * x)
        lash = np.maximum(lash, ends - 0.5)
        self.canvas.paint(w.part, 0.92 * w.cover(lash), self.skin * 0.16)
        rim = np.maximum(np.abs(y - lid_low - 0.1) - 0.25, ends)
        self.canvas.paint(w.part, 0.5 * w.cover(rim), self.skin * 0.35)

    def brows(self, f: Frame) -> None:
        if not self.on("brows"):
            return
        who, au = self.who, self.units["brows"]
        w = f.rows(2, 25)
        inner, outer, knit, sneer = (au[k] for k in (1, 2, 4, 9))
        start = 4.1 - 1.3 * knit
        end = who.eye_x + 5.2
        t = np.clip((w.a - start) / (end - start), -0.2, 1.1)
        near = square(1 - t)
        lowered = knit * (1 - 0.72 * inner)
        y = (
            who.brow_y
            - 3.0 * inner * near
            - 2.5 * outer * (0.25 + t * (1.75 - t))
            + lowered * (1.1 + 2.2 * near)
            + sneer * (0.8 + 1.2 * near)
            + knit * inner * 0.9 * t
        )
        arch = who.brow_arch * (1 - 0.6 * lowered) * (1 - 0.8 * inner * knit)
        y = y - arch * 4 * t * (1 - t) * (0.4 + t) + 1.0 * square(t) * t
        half = 0.5 * who.brow_thickness * (1 - 0.62 * square(positive(t))) * (1 + 0.12 * knit)
        stroke = np.maximum(np.abs(w.y - y) - half, np.maximum(start - w.a, w.a - end))
        bald = 0.88
        self.canvas.paint(w.part, bald * cover(stroke, 0.62 * w.sharpness), self.brow)
        self.canvas.label(w.part, stroke, BROWS)

    def glasses(self, f: Frame) -> None:
        who = self.who
        worn = (who.glasses > 0.80).astype(np.float32)
        if not worn.any():
            return
        w = f.rows(6, 32)
        rx = 5.6 + 0.6 * who.lens
        ry = 3.9 + 0.9 * who.lens
        x, y = w.a - who.eye_x, w.y - who.eye_y - 0.4
        corner = 1.6 + 2.2 * who.lens
        qx, qy = np.abs(x) - rx + corner, np.abs(y) - ry + corner
        lens = np.sqrt(square(positive(qx)) + square(positive(qy))) - corner
        lens += np.clip(np.maximum(qx, qy), None, 0)
        rim = np.abs(lens) - 0.8 * who.frame_width
        inner = who.eye_x - rx
        bridge = np.maximum(
            np.abs(w.y - who.eye_y + 1.2 - 0.05 * square(w.a)) - who.frame_width, w.a - inner
        )
        arm = np.maximum(np.abs(w.y - who.eye_y + 1.6) - who.frame_width, who.eye_x + rx - w.a)
        arm = np.maximum(arm, w.a - who.width - 1)
        tone = 0.06 + 0.5 * square(square(who.frame_tone))
        glare = 0.10 * w.cover(lens) * positive(1 - square((x + y) * 0.5))
        self.canvas.paint(w.part, worn * glare, 1)
        metal = worn * w.cover(np.minimum(np.minimum(rim, bridge), arm))
        self.canvas.paint(w.part, 0.95 * metal, tone, GLASSES)

    # ------------------------------------------------------------------ camera
    def develop(self, noise: Array) -> NDArray[np.uint8]:
        who = self.who
        tones = reduce_tones(self.canvas.tones)
        side = 0.5 * who.blur
        for axis in (1, 2):
            blurred = tones.copy()
            first = [slice(None)] * 3
            last = [slice(None)] * 3
            first[axis], last[axis] = slice(1, None), slice(None, -1)
            step = side * (tones[tuple(first)] - tones[tuple(last)])
            blurred[tuple(last)] += step
            blurred[tuple(first)] -= step
            tones = blurred
        tones = 0.5 + who.contrast * (tones - 0.47 + 0.10 * who.exposure)
        tones += who.noise * noise
        return np.clip(tones * 255 + 0.5, 0, 255).astype(np.uint8)

    def labels(self) -> NDArray[np.uint8]:
        parts = self.canvas.parts
        best = np.zeros((len(parts), SIZE, SIZE), np.uint8)
        most = np.zeros_like(best)
        for part in range(len(PARTS)):
            here = (parts == part).view(np.uint8)
            count = sum(here[:, i::SCALE, j::SCALE] for i in range(SCALE) for j in range(SCALE))
            np.copyto(best, np.uint8(part), where=count >= most)
            np.maximum(most, count, out=most)
        return best
