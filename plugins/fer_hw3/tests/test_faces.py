"""Synthetic faces: determinism, geometry of the action units, exactness of the masks."""

import io
import itertools
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from explainkit.errors import DatasetError
from explainkit_fer_hw3.faces import (
    ACTION_UNITS,
    CLASS_NAMES,
    PART_UNITS,
    PARTS,
    REMOVABLE,
    Faces,
    draw,
)
from explainkit_fer_hw3.faces.expressions import UNITS
from explainkit_fer_hw3.faces.identity import sample
from explainkit_fer_hw3.faces.render import render

ANGRY, DISGUST, FEAR, HAPPY, SAD, SURPRISE, NEUTRAL = range(7)
COUNT = 28
DEVIATION_OF_MEAN = 4  # standard errors that a statistic may be off


@pytest.fixture(scope="module")
def people() -> dict[int, Faces]:
    """The same people with every expression at full strength."""
    return {label: draw([label] * COUNT, seed=5, intensity=1.0) for label in range(7)}


def dilate(mask, radius):
    """A square neighborhood of ``radius`` pixels around a mask ``[faces, 48, 48]``."""
    padded = np.pad(mask, ((0, 0), (radius, radius), (radius, radius)))
    size = 2 * radius + 1
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2)).any((-2, -1))


def mean_row(mask):
    """Mean row of each face's mask, NaN where it is empty."""
    rows = np.arange(48)[None, :, None]
    area = mask.sum((1, 2))
    return np.where(area > 0, (mask * rows).sum((1, 2)) / np.maximum(area, 1), np.nan)


def upright(count=24, **traits):
    """Identities that look straight ahead, and the noise that goes with them."""
    who, strength, noise = sample(3, 0, count)
    straight = ("shift_x", "roll", "yaw", "skew", "gaze_x", "light_x", "backdrop_x", "parting")
    zeros = dict.fromkeys(straight, np.zeros_like(who.roll))
    given = {name: np.full_like(who.roll, value) for name, value in traits.items()}
    return replace(who, **zeros, **given), strength, noise


def units(count, **levels):
    """Action units by part, all 0 but those named ``au12=1.0``."""
    return {
        part: {u: np.full((count, 1, 1), levels.get(f"au{u}", 0), np.float32) for u in shown}
        for part, shown in PART_UNITS.items()
    }


def test_shapes_and_types():
    faces = draw([HAPPY, SAD], seed=0)
    assert faces.pixels.shape == (2, 1, 48, 48)
    assert faces.pixels.dtype == np.uint8
    assert faces.parts.shape == (2, 48, 48)
    assert faces.parts.dtype == np.uint8
    assert faces.labels.dtype == np.int64
    assert faces.labels.tolist() == [HAPPY, SAD]


def test_no_faces():
    faces = draw([], seed=0)
    assert faces.pixels.shape == (0, 1, 48, 48)
    assert faces.mask("mouth").shape == (0, 48, 48)


def test_the_same_seed_draws_the_same_faces_and_another_seed_others():
    labels = np.arange(21) % 7
    first, again, other = draw(labels, seed=1), draw(labels, seed=1), draw(labels, seed=2)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.parts, again.parts)
    assert (first.pixels != other.pixels).mean() > 0.9


@settings(max_examples=12, deadline=None)
@given(start=st.integers(0, 40), count=st.integers(1, 40), label=st.integers(0, 6))
def test_a_face_depends_only_on_its_index_and_label(start, count, label):
    """Bit-identical in a batch of any size, with any neighbors."""
    labels = np.arange(start, start + count) % 7
    batch = draw(labels, seed=11, first=start)
    alone = draw(labels[-1:], seed=11, first=start + count - 1)
    np.testing.assert_array_equal(batch.pixels[-1:], alone.pixels)
    np.testing.assert_array_equal(batch.parts[-1:], alone.parts)
    labels[:-1] = label
    changed = draw(labels, seed=11, first=start)
    np.testing.assert_array_equal(batch.pixels[-1:], changed.pixels[-1:])


def test_large_seeds_and_numbers():
    last = 2**64 - 1
    face = draw([HAPPY], seed=last, first=last)
    assert face.pixels.std() > 10
    assert (face.pixels != draw([HAPPY], seed=last, first=0).pixels).any()


def test_traits_are_uniform_and_noise_is_standard():
    who, strength, noise = sample(17, 0, 400)
    spread = 1 / np.sqrt(12 * 400)
    for name, low, high in (("width", 16.8, 19.6), ("age", 0, 1), ("roll", -1, 1)):
        place = (getattr(who, name) - low) / (high - low)
        assert 0 <= place.min() < place.max() <= 1
        assert abs(place.mean() - 0.5) < DEVIATION_OF_MEAN * spread
    assert strength.shape == (400, len(UNITS))
    assert abs(strength.mean(0) - 0.5).max() < DEVIATION_OF_MEAN * spread
    correlation = np.corrcoef(np.concatenate([strength.T, who.width[:, 0].T, who.age[:, 0].T]))
    assert abs(correlation - np.eye(len(correlation))).max() < 0.2  # 4 / sqrt(400)
    assert abs(noise.mean()) < DEVIATION_OF_MEAN / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < DEVIATION_OF_MEAN * np.sqrt(2 / noise.size)
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.2


def test_every_pixel_has_one_part_and_every_part_is_seen_somewhere(people):
    for faces in people.values():
        total = sum(faces.mask(name).astype(int) for name in PARTS)
        assert (total == 1).all()
    assert all(people[NEUTRAL].mask(name).any() for name in PARTS)


def test_parts_lie_where_a_face_has_them(people):
    faces = draw([NEUTRAL] * COUNT, seed=5, without="beard")
    order = ("brows", "eyes", "nose", "mouth", "chin")
    rows = {name: mean_row(faces.mask(name)) for name in order}
    for above, below in itertools.pairwise(order):
        assert (rows[above] < rows[below]).all(), (above, below)
    bald = draw([NEUTRAL] * COUNT, seed=5, without="hair")
    assert (mean_row(bald.mask("forehead")) < rows["brows"]).all()
    # In the framing of FER2013: brows at a quarter to a third, the mouth at three quarters.
    assert 10 < np.nanmean(rows["brows"]) < 16
    assert 15 < np.nanmean(rows["eyes"]) < 20
    assert 35 < np.nanmean(rows["mouth"]) < 41
    skin = sum(faces.mask(name) for name in PARTS if name not in ("background", "hair"))
    assert 0.4 < skin.mean() < 0.75


def test_areas_of_the_parts(people):
    """Every feature is large enough to be scored, and none covers the face."""
    faces = people[NEUTRAL]
    low_high = {"brows": (14, 60), "eyes": (60, 160), "nose": (50, 160), "mouth": (20, 110)}
    for name, (low, high) in low_high.items():
        area = np.median(faces.mask(name).sum((1, 2)))
        assert low < area < high, (name, area)


def test_an_upright_face_is_symmetric():
    who, _, noise = upright(glasses=0.9)
    for levels in ({}, {"au1": 1, "au4": 1, "au15": 1}, {"au6": 1, "au12": 1}):
        _, parts = render(who, units(24, **levels), 0 * noise, "hair")
        for name in ("brows", "eyes", "nose", "mouth", "glasses"):
            mask = parts == PARTS.index(name)
            np.testing.assert_array_equal(mask, mask[:, :, ::-1], err_msg=name)


def test_light_from_the_left_brightens_the_left():
    who, _, noise = upright()
    left = replace(who, light_x=np.full_like(who.roll, -1))
    right = replace(who, light_x=np.full_like(who.roll, 1))
    images = [render(w, units(24), 0 * noise, "hair")[0].astype(float) for w in (left, right)]
    side = [p[:, 10:38, 8:24].mean((1, 2)) - p[:, 10:38, 24:40].mean((1, 2)) for p in images]
    assert (side[0] > 0).all()
    assert (side[1] < 0).all()


# The action units, measured on the masks of the same people with and without them.


def test_lip_corners_rise_with_unit_12_and_fall_with_unit_15():
    who, _, noise = upright()

    def corner_height(**levels):
        _, parts = render(who, units(24, **levels), noise, "beard")
        mask = parts == PARTS.index("mouth")
        heights = []
        for face in mask:
            columns = np.flatnonzero(face.any(0))
            ends = np.concatenate([columns[:2], columns[-2:]])
            row = np.arange(48) @ face / np.maximum(face.sum(0), 1)
            heights.append(row[24] - row[ends].mean())
        return np.array(heights)

    rest = corner_height()
    raised = [corner_height(au12=level) for level in (0.5, 1.0)]
    lowered = [corner_height(au15=level) for level in (0.5, 1.0)]
    assert (rest < raised[0]).all()
    assert (raised[0] < raised[1]).all()
    assert (rest > lowered[0]).all()
    assert (raised[1] - rest).mean() > 3
    assert (lowered[0] - lowered[1]).mean() > 0.5


def test_the_mouth_opens_with_unit_26_and_the_opening_is_dark():
    who, _, noise = upright()
    areas, dark = [], []
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        pixels, parts = render(who, units(24, au26=level), 0 * noise, "beard")
        mask = parts == PARTS.index("mouth")
        areas.append(mask.sum((1, 2)))
        skin = np.median(np.where(parts == PARTS.index("cheeks"), pixels, 0).max((1, 2)))
        dark.append((mask & (pixels < 0.35 * skin)).sum())
    assert (np.diff(areas, axis=0) >= 0).all()
    assert (areas[-1] > 1.4 * areas[0]).all()
    assert (np.diff(dark) > 0).all()


def test_unit_23_thins_the_lips_and_unit_20_stretches_them():
    who, _, noise = upright()

    def extent(**levels):
        _, parts = render(who, units(24, **levels), noise, "beard")
        mask = parts == PARTS.index("mouth")
        return mask.any(1).sum(1), mask.sum((1, 2))

    width, area = extent()
    assert (extent(au20=1.0)[0] >= width + 2).all()
    assert (extent(au23=1.0)[1] < area).all()


def test_brows_rise_and_fall():
    who, _, noise = upright(style=0.0, glasses=0.0)

    def inner_and_outer(**levels):
        _, parts = render(who, units(24, **levels), noise, None)
        mask = parts == PARTS.index("brows")
        return mean_row(mask[:, :, 16:32]), mean_row(mask & (abs(np.arange(48) - 23.5) > 10))

    inner, outer = inner_and_outer()
    raised = inner_and_outer(au1=1.0)
    assert (raised[0] < inner - 1).all()
    assert (abs(raised[1] - outer) < 1).all()
    raised = inner_and_outer(au2=1.0)
    assert (raised[1] < outer - 1).all()
    assert (inner - raised[0] < outer - raised[1]).all()
    lowered = inner_and_outer(au4=1.0)
    assert (lowered[0] > inner + 1).all()


def test_eyes_widen_and_narrow():
    who, _, noise = upright(style=0.0, glasses=0.0)

    def opening(**levels):
        _, parts = render(who, units(24, **levels), noise, "brows")
        return (parts == PARTS.index("eyes")).sum((1, 2))

    rest = opening()
    assert (opening(au5=1.0) > rest).all()
    assert (opening(au6=1.0) < rest).all()
    assert (opening(au7=1.0) < rest).all()


def test_unit_9_darkens_the_bridge_and_unit_4_the_skin_between_the_brows():
    who, _, noise = upright(shift_y=0.0, scale=1.0, age=0.5)
    rest, _ = render(who, units(24), 0 * noise, "hair")
    wrinkled, _ = render(who, units(24, au9=1.0), 0 * noise, "hair")
    knit, _ = render(who, units(24, au4=1.0), 0 * noise, "hair")
    bridge, furrow = np.s_[:, 19:24, 22:26], np.s_[:, 13:17, 22:26]
    assert (wrinkled[bridge].mean((1, 2)) < rest[bridge].mean((1, 2))).all()
    assert (knit[furrow].mean((1, 2)) < rest[furrow].mean((1, 2))).all()


def test_classes_consist_of_their_action_units(people):
    assert set(ACTION_UNITS) == set(CLASS_NAMES)
    shown = {unit for listed in PART_UNITS.values() for unit in listed}
    assert shown == {unit for listed in ACTION_UNITS.values() for unit in listed} == set(UNITS)
    assert set(PART_UNITS) < set(PARTS)
    who, strength, noise = sample(5, 0, 8)
    fear = units(8, **{f"au{u}": 1.0 for u in ACTION_UNITS["fear"]})
    pixels, parts = render(who, fear, noise, None)
    np.testing.assert_array_equal(pixels, people[FEAR].pixels[:8, 0])
    np.testing.assert_array_equal(parts, people[FEAR].parts[:8])
    assert strength.min() >= 0


def test_intensity_runs_from_neutral_to_full(people):
    none = draw([HAPPY] * COUNT, seed=5, intensity=0.0)
    np.testing.assert_array_equal(none.pixels, people[NEUTRAL].pixels)
    half = draw([HAPPY] * COUNT, seed=5, intensity=0.5)
    rest = people[NEUTRAL].pixels.astype(float)
    change = [abs(f.pixels - rest).mean() for f in (half, people[HAPPY])]
    assert 0 < change[0] < change[1]


# One part at rest or left out.


@pytest.mark.parametrize("part", PART_UNITS)
def test_neutral_changes_nothing_where_nothing_moves(part, people):
    still = draw([NEUTRAL] * COUNT, seed=5, neutral=part)
    np.testing.assert_array_equal(still.pixels, people[NEUTRAL].pixels)
    for label, name in enumerate(CLASS_NAMES):
        if not set(ACTION_UNITS[name]) & set(PART_UNITS[part]):
            same = draw([label] * 8, seed=5, neutral=part, intensity=1.0)
            np.testing.assert_array_equal(same.pixels, people[label].pixels[:8])


@pytest.mark.parametrize(
    ("part", "region", "radius"),
    [
        ("brows", ("brows",), 7),  # and the furrow between them
        ("eyes", ("eyes",), 4),  # which a lowered brow may cover
        ("nose", ("nose",), 4),
        ("mouth", ("mouth",), 5),  # and the shadow below, the moustache above
        ("forehead", ("forehead",), 2),
        ("cheeks", ("cheeks",), 4),
        ("chin", ("chin", "beard", "mouth", "cheeks"), 5),  # the outline of the jaw
    ],
)
def test_neutral_changes_the_part_and_nothing_far_from_it(part, region, radius, people):
    moved = 0
    for label in range(6):
        before = people[label]
        after = draw([label] * COUNT, seed=5, neutral=part, intensity=1.0)
        bald = draw([label] * COUNT, seed=5, without="hair", intensity=1.0)
        changed = (before.pixels != after.pixels)[:, 0]
        near = sum(f.mask(name) for name in region for f in (before, after, bald))
        assert not (changed & ~dilate(near, radius)).any(), CLASS_NAMES[label]
        moved += changed.any((1, 2)).sum()
    assert moved > 0


def test_all_parts_neutral_make_a_neutral_face(people):
    """Each part relaxed in turn undoes the whole expression: nothing moves outside a part."""
    who, _, noise = sample(5, 0, COUNT)
    fear = units(COUNT, **{f"au{u}": 1.0 for u in ACTION_UNITS["fear"]})
    rest = units(COUNT)
    for part in PART_UNITS:
        fear[part] = rest[part]
    pixels, _ = render(who, fear, noise, None)
    np.testing.assert_array_equal(pixels, people[NEUTRAL].pixels[:, 0])


@pytest.mark.parametrize(
    ("part", "radius"), [("brows", 7), ("eyes", 2), ("nose", 7), ("mouth", 5), ("glasses", 5)]
)
def test_without_a_part_only_its_pixels_change(part, radius):
    who, _, noise = upright(style=0.0)  # bald: hair would hide where a part ends
    smile = units(24, au6=1.0, au12=1.0)
    before, parts = render(who, smile, noise, None)
    after, parts_after = render(who, smile, noise, part)
    mask = parts == PARTS.index(part)
    assert not (parts_after == PARTS.index(part)).any()
    changed = before != after
    assert (changed & mask).any()
    assert not (changed & ~dilate(mask, radius)).any()
    assert not ((parts != parts_after) & ~dilate(mask, 1)).any()


def test_without_beard_the_upper_face_stays(people):
    """Stubble is too thin to own a pixel, but it is rendered, and removed with the beard."""
    before, after = people[HAPPY], draw([HAPPY] * COUNT, seed=5, without="beard", intensity=1.0)
    assert before.mask("beard").any()
    assert not after.mask("beard").any()
    changed = (before.pixels != after.pixels)[:, 0]
    eyes = dilate(before.mask("eyes") | before.mask("brows"), 1)
    assert not (changed & eyes).any()
    assert (changed & before.mask("beard")).sum() > 0.9 * before.mask("beard").sum()


def test_without_hair_the_face_below_stays(people):
    before = people[SAD]
    after = draw([SAD] * COUNT, seed=5, without="hair", intensity=1.0)
    assert not after.mask("hair").any()
    core = before.mask("mouth") & ~dilate(before.mask("hair"), 3)
    assert core.sum() > 20 * COUNT
    np.testing.assert_array_equal(before.pixels[:, 0][core], after.pixels[:, 0][core])


def test_another_label_is_the_same_person(people):
    """What no muscle moves is bit-identical: hair, walls, clothes, noise."""
    for label in (ANGRY, HAPPY, SURPRISE):
        a, b = people[label], people[NEUTRAL]
        still = {"hair", "background"}
        moving = sum(f.mask(name) for f in (a, b) for name in PARTS if name not in still)
        same = ~dilate(moving, 4)
        assert same.sum((1, 2)).mean() > 100
        np.testing.assert_array_equal(a.pixels[:, 0][same], b.pixels[:, 0][same])
        assert (a.pixels != b.pixels).any((1, 2, 3)).all()


# As data.


def test_tones_and_contrast_are_those_of_photographs():
    pixels = draw(np.arange(420) % 7, seed=23).pixels.astype(float)
    means, deviations = pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))
    assert 110 < means.mean() < 145
    assert 25 < means.std() < 50
    assert (deviations > 12).all()
    assert 40 < np.median(deviations) < 65
    assert ((pixels == 0) | (pixels == 255)).mean() < 0.15


@pytest.mark.skipif(
    "EXPLAINKIT_FER2013" not in os.environ,
    reason="EXPLAINKIT_FER2013 does not name a zip of FER2013",
)
def test_synthetic_faces_lie_in_the_range_of_fer2013():
    photographs = []
    with zipfile.ZipFile(os.environ["EXPLAINKIT_FER2013"]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        for name in names[:: len(names) // 700]:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                photographs.append(np.asarray(image.convert("L"), float))
    real = np.stack(photographs)
    synthetic = draw(np.arange(700) % 7, seed=29).pixels[:, 0].astype(float)
    assert abs(real.mean() - synthetic.mean()) < 15
    assert 0.8 < np.median(synthetic.std((1, 2))) / np.median(real.std((1, 2))) < 1.2
    # The mean faces agree: features lie at the same positions.
    average = [p.mean(0) - p.mean() for p in (real, synthetic)]
    assert np.corrcoef(average[0].ravel(), average[1].ravel())[0, 1] > 0.6


def test_a_linear_classifier_separates_the_expressions():
    """Ridge regression on half-size images of people that it has not seen."""

    def half_size(count, seed):
        labels = np.arange(count) % 7
        pixels = draw(labels, seed=seed).pixels[:, 0].astype(np.float64)
        small = pixels.reshape(count, 24, 2, 24, 2).mean((2, 4)).reshape(count, -1)
        small -= small.mean(1, keepdims=True)
        return small / small.std(1, keepdims=True), labels

    x, labels = half_size(1400, 1)
    center = x.mean(0)
    gram = (x - center).T @ (x - center) + 300 * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, (x - center).T @ np.eye(7)[labels])
    x, labels = half_size(350, 2)
    accuracy = (((x - center) @ weights).argmax(1) == labels).mean()
    assert accuracy > 0.75  # chance is 0.14


def test_the_renderer_is_the_one_that_the_weights_were_trained_on():
    """Means of 12 x 12 pixels, to half a gray level: platforms differ only in the last bits."""
    expected = [
        [
            180.2,
            182.2,
            160.4,
            111.6,
            169.7,
            159.3,
            142.2,
            121.1,
            188.4,
            169.5,
            165.5,
            122.9,
            177.6,
            145.6,
            133.0,
            123.7,
        ],
        [
            147.9,
            87.4,
            95.9,
            140.4,
            131.4,
            125.5,
            159.1,
            102.1,
            134.9,
            142.1,
            158.3,
            141.5,
            173.5,
            122.2,
            149.3,
            181.3,
        ],
        [
            159.7,
            108.0,
            107.7,
            175.5,
            149.9,
            168.1,
            172.7,
            156.8,
            137.7,
            181.5,
            165.2,
            159.1,
            134.4,
            82.7,
            80.7,
            153.6,
        ],
    ]
    pixels = draw([ANGRY, HAPPY, SURPRISE], seed=0).pixels.astype(float)
    means = pixels.reshape(3, 4, 12, 4, 12).mean((2, 4)).reshape(3, 16)
    np.testing.assert_allclose(means, expected, atol=0.5)


# Bad arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [7]}, r"labels: expected 0 to 6, got 7 at index 0"),
        ({"labels": [0, -1]}, r"labels: expected 0 to 6, got -1 at index 1"),
        ({"labels": [0.5]}, r"labels: expected a sequence of integers, got float64"),
        ({"labels": [[0]]}, r"labels: expected a sequence of integers, got .* shape \(1, 1\)"),
        ({"labels": 3}, r"labels: expected a sequence of integers"),
        ({"seed": -1}, r"seed: expected 0 to 2\*\*64 - 1, got -1"),
        ({"seed": 0.5}, r"seed: expected an integer, got 0\.5"),
        ({"first": -1}, r"first: expected 0 to"),
        ({"first": 2**64 - 1, "labels": [0, 0]}, r"first: expected"),
        ({"neutral": "ear"}, r"neutral: expected one of forehead, brows, .*, got 'ear'"),
        ({"neutral": "hair"}, r"neutral: expected one of"),
        ({"without": "cheeks"}, r"without: expected one of hair, .*, got 'cheeks'"),
        ({"intensity": 1.5}, r"intensity: expected a number from 0 to 1, got 1\.5"),
        ({"intensity": float("nan")}, r"intensity: expected a number from 0 to 1, got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(DatasetError, match=message):
        draw(**{"labels": [0], "seed": 0, **arguments})


def test_bad_mask_name():
    with pytest.raises(DatasetError, match=r"mask: expected one of background, .*, got 'ear'"):
        draw([0], seed=0).mask("ear")


def test_removable_parts_are_parts():
    assert set(REMOVABLE) < set(PARTS)
