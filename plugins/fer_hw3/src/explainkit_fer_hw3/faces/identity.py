"""The random traits of one face: person, pose, light and camera.

Everything is in face units: one unit is one pixel of the 48x48 image before the pose scales it;
x points right, y down, the origin lies between the eyes and the nose tip. Tones are 0 (black) to
1 (white). Every field is an array ``[faces, 1, 1]`` that broadcasts against images.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeAlias, get_args

import numpy as np

from explainkit_fer_hw3.faces.expressions import UNITS

Array: TypeAlias = Any
"""float32 arrays; NumPy's type stubs widen float32 times float to float64."""

SIZE = 48
"""Height and width of an image in pixels."""


@dataclass(frozen=True)
class Identity:
    """One uniform random number per trait and face, in the annotated range."""

    # Pose
    shift_x: Annotated[Array, -1.3, 1.3]
    shift_y: Annotated[Array, -0.9, 1.1]
    scale: Annotated[Array, 0.98, 1.15]
    roll: Annotated[Array, -1.0, 1.0]
    yaw: Annotated[Array, -1.0, 1.0]
    skew: Annotated[Array, -1.0, 1.0]
    # Head
    width: Annotated[Array, 16.8, 19.6]
    length: Annotated[Array, 21.6, 24.0]
    taper: Annotated[Array, 0.16, 0.42]
    square: Annotated[Array, 0.0, 0.9]
    ears: Annotated[Array, 0.6, 2.2]
    age: Annotated[Array, 0.0, 1.0]
    skin: Annotated[Array, 0.0, 1.0]
    # Hair
    style: Annotated[Array, 0.0, 1.0]
    hair: Annotated[Array, 0.0, 1.0]
    volume: Annotated[Array, -0.8, 0.8]
    hairline: Annotated[Array, -1.0, 1.0]
    parting: Annotated[Array, -1.0, 1.0]
    wave: Annotated[Array, 0.0, 1.0]
    strands: Annotated[Array, 0.55, 1.15]
    phase: Annotated[Array, 0.0, 6.2832]
    beard: Annotated[Array, 0.0, 1.0]
    stubble: Annotated[Array, 0.0, 1.0]
    moustache: Annotated[Array, 0.0, 1.0]
    # Brows and eyes
    brow_y: Annotated[Array, -12.0, -10.9]
    brow_thickness: Annotated[Array, 1.1, 2.0]
    brow_arch: Annotated[Array, 0.2, 1.3]
    eye_x: Annotated[Array, 8.2, 9.3]
    eye_y: Annotated[Array, -6.9, -6.0]
    eye_width: Annotated[Array, 3.9, 4.8]
    eye_open: Annotated[Array, 1.65, 2.2]
    eye_tilt: Annotated[Array, -0.14, 0.05]
    iris: Annotated[Array, 0.06, 0.30]
    gaze_x: Annotated[Array, -0.8, 0.8]
    gaze_y: Annotated[Array, -0.2, 0.25]
    lashes: Annotated[Array, 0.0, 1.0]
    # Nose and mouth
    nose_length: Annotated[Array, 4.1, 5.7]
    nose_width: Annotated[Array, 2.9, 4.1]
    nose_height: Annotated[Array, 0.75, 1.25]
    mouth_y: Annotated[Array, 12.0, 13.4]
    mouth_width: Annotated[Array, 5.9, 7.2]
    lip_upper: Annotated[Array, 1.0, 1.8]
    lip_lower: Annotated[Array, 1.3, 2.3]
    lip_tone: Annotated[Array, 0.52, 0.80]
    teeth: Annotated[Array, 0.0, 1.0]
    # Glasses
    glasses: Annotated[Array, 0.0, 1.0]
    frame_tone: Annotated[Array, 0.0, 1.0]
    frame_width: Annotated[Array, 0.35, 0.8]
    lens: Annotated[Array, 0.0, 1.0]
    # Light, background and camera
    light_x: Annotated[Array, -1.0, 1.0]
    light_y: Annotated[Array, -0.75, 0.05]
    ambient: Annotated[Array, 0.0, 1.0]
    shine: Annotated[Array, 0.0, 0.22]
    backdrop: Annotated[Array, 0.0, 1.0]
    backdrop_x: Annotated[Array, -0.18, 0.18]
    backdrop_y: Annotated[Array, -0.15, 0.15]
    clutter: Annotated[Array, 0.0, 1.0]
    cloth: Annotated[Array, 0.05, 0.85]
    exposure: Annotated[Array, -1.0, 1.0]
    contrast: Annotated[Array, 0.9, 1.4]
    blur: Annotated[Array, 0.0, 0.30]
    noise: Annotated[Array, 0.002, 0.014]


_NOISE_DEVIATION = (4 * (256**2 - 1) / 12) ** 0.5  # of the sum of four uniform bytes
_TRAITS = {trait.name: get_args(trait.type)[1:] for trait in fields(Identity)}


def sample(seed: int, first: int, count: int) -> tuple[Identity, Array, Array]:
    """Samples ``count`` people of a population, starting at index ``first``.

    Each face has its own generator, Philox keyed by (seed, index), so it doesn't depend on other
    faces. The raw words are converted to numbers here, so that no release of NumPy can change the
    faces.

    Returns:
        The identities; one number per action unit, uniform on [0, 1), ``[faces, units]``; the
        sensor noise, ``[faces, 48, 48]``, with mean 0, variance 1 and nearly normal (the sum of
        four uniform bytes).
    """
    numbers = len(_TRAITS) + len(UNITS)
    words = np.empty((count, numbers + SIZE * SIZE // 2), np.uint64)
    for row in range(count):
        words[row] = np.random.Philox(key=np.array([seed, first + row], np.uint64)).random_raw(
            words.shape[1]
        )
    uniform = (words[:, :numbers] >> np.uint64(40)).astype(np.float32) / 2**24
    traits = {
        name: low + (high - low) * uniform[:, column, None, None]
        for column, (name, (low, high)) in enumerate(_TRAITS.items())
    }
    quarters = words[:, numbers:].astype("<u8").view(np.uint8).reshape(count, 4, SIZE, SIZE)
    noise = quarters.sum(axis=1, dtype=np.float32)
    return Identity(**traits), uniform[:, len(_TRAITS) :], (noise - 510) / _NOISE_DEVIATION
