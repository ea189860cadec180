"""A map is carried back to the original exactly where its pixels came from."""

import numpy as np
import pytest
import torch
from PIL import Image

from explainkit.adapters.geometry import Geometry
from explainkit.adapters.preprocessing import (
    CenterCrop,
    CenterSquare,
    Letterbox,
    Pad,
    Preprocessing,
    Resize,
)
from explainkit.errors import InputError

PIPELINES = {
    "nothing": (),
    "crop": (CenterCrop(16),),
    "crop, floor": (CenterCrop(16, rounding="floor"),),
    "crop larger than the image": (CenterCrop((50, 40)),),
    "resize and crop": (Resize(20), CenterCrop(16)),
    "resize to a shape": (Resize((13, 29), "exact", "bicubic"),),
    "resize and pad": (Resize(24, "longest"), Pad(30, align="top left")),
    "letterbox": (Letterbox(32),),
    "square": (CenterSquare(), Resize(48, "exact", "lanczos")),
    "crop, then pad": (CenterCrop(16), Pad(30)),
    "enlarge": (Resize(90), CenterCrop(80)),
}
SIZES = [(37, 53), (53, 37), (41, 41), (38, 17)]


def geometry(steps, size):
    return Preprocessing(steps)(Image.new("RGB", size[::-1]))[1]


@pytest.fixture(params=[(n, size) for n in PIPELINES for size in SIZES], ids=str)
def case(request):
    name, size = request.param
    return PIPELINES[name], size, geometry(PIPELINES[name], size)


def test_what_is_seen_is_what_reaches_the_input(case):
    """A black pixel on white changes the input if and only if it is seen, up to the filter."""
    steps, size, found = case
    seen = found.seen()
    plain = Preprocessing(steps)
    white = plain(Image.new("L", size[::-1], 255))[0]
    for row, column in [(0, 0), (size[0] // 2, size[1] // 2), (size[0] - 1, size[1] // 2)]:
        pixels = np.full(size, 255, np.uint8)
        pixels[row, column] = 0
        changed = bool((plain(Image.fromarray(pixels))[0] != white).any())
        # the filter reaches a few pixels past the border of the crop
        near = seen[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5]
        assert changed or not seen[row, column]
        assert not changed or near.any()


def test_a_linear_ramp_stays_linear(case):
    """The value i + 2j of the input's pixel (i, j) lands at the point that it was sampled at."""
    _, size, found = case
    rows, columns = torch.arange(found.size[0]).double(), torch.arange(found.size[1]).double()
    values = found.to_original(rows[:, None] + 2 * columns)
    assert values.shape == size
    assert torch.equal(~values.isnan(), found.seen())
    y, x = (
        (torch.arange(size[a]).double() + 0.5) * found.scale[a] + found.offset[a] - 0.5
        for a in (0, 1)
    )
    # beyond the center of the outermost pixel there is nothing to interpolate to
    top, left, bottom, right = found.to_dict()["content"]
    y, x = y.clamp(top, bottom - 1), x.clamp(left, right - 1)
    wanted = (y[:, None] + 2 * x)[found.seen()]
    margin = 1e-4 if max(found.scale) <= 1 else 1.0  # averages near the border of an enlarged one
    assert float((values[found.seen()] - wanted).abs().max()) < margin


def test_a_constant_stays_constant(case):
    found = case[2]
    values = found.to_original(torch.full((2, *found.size), 3.0))
    assert values.shape == (2, *found.original)
    assert torch.allclose(values[:, found.seen()], torch.tensor(3.0))


def test_each_pixel_of_a_crop_is_its_own():
    found = geometry((CenterCrop((9, 11)),), (20, 31))
    values = torch.rand(9, 11)
    back = found.to_original(values)
    assert torch.equal(back[6:15, 10:21], values)  # torchvision's round(5.5) = 6
    assert int(back.isnan().sum()) == 20 * 31 - 99


@pytest.mark.parametrize("pixel", [(0, 0), (3, 5), (7, 7)])
def test_one_pixel_of_a_reduced_image_covers_its_block(pixel):
    """At half the size, pixel (i, j) is the block 2i, 2i + 1; its neighbors get the slope."""
    found = geometry((Resize((8, 8), "exact"),), (16, 16))
    values = torch.zeros(8, 8)
    values[pixel] = 1
    back = found.to_original(values)
    by_torch = torch.nn.functional.interpolate(
        values[None, None], (16, 16), mode="bilinear", align_corners=False
    )[0, 0]
    assert torch.allclose(back, by_torch, atol=1e-6)
    row, column = (int(i) for i in divmod(int(back.argmax()), 16))
    assert (row // 2, column // 2) == pixel


def test_padding_does_not_bleed_into_the_image():
    found = geometry((Letterbox(16),), (8, 16))
    values = torch.full((16, 16), 100.0)
    values[4:12] = 1
    assert torch.equal(found.to_original(values), torch.ones(8, 16))


def test_no_pixel_of_an_enlarged_image_is_skipped():
    """Three rows of the input make one of the original: a quarter, a half and a quarter."""
    found = geometry((Resize((30, 10), "exact"),), (10, 10))
    weights = [found.to_original(torch.eye(30)[i][:, None].expand(30, 10))[:, 0] for i in range(30)]
    assert torch.allclose(torch.stack(weights).sum(1), torch.tensor([0.25, 0.5, 0.25] * 10))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_spot_is_found_again(name):
    """A bright spot in the image, seen as a bright spot in the input, is carried to its place."""
    pixels = np.zeros((60, 90), np.uint8)
    pixels[30:33, 42:45] = 255
    values, found = Preprocessing(PIPELINES[name], channels=1)(Image.fromarray(pixels))
    back = found.to_original(values[0] - values[0].min()).nan_to_num()
    rows, columns = torch.arange(60.0), torch.arange(90.0)
    back = back * (back > 0.3 * back.max())
    if name == "crop larger than the image":
        back[:, :25] = back[:, -25:] = 0  # the padding is black as well
    # a filter without antialiasing samples the spot, so its center is known to a part of a pixel
    row, column = (
        (back.sum(1) * rows).sum() / back.sum(),
        (back.sum(0) * columns).sum() / back.sum(),
    )
    assert abs(float(row) - 31) < 0.1 + 0.1 / min(found.scale[0], 1)
    assert abs(float(column) - 43) < 0.1 + 0.1 / min(found.scale[1], 1)


def test_of_a_reduced_original():
    """The same input, seen from the original at half its size."""
    found = geometry((Resize(20), CenterCrop(16)), (40, 60))
    half = found.seen_from((20, 30))
    values = torch.rand(16, 16)
    assert half.original == (20, 30)
    assert torch.allclose(half.to_original(values)[2:18, 7:23], values, atol=1e-6)
    assert half.seen().sum() == 256


def test_json_and_refusals():
    found = geometry((Resize(20), CenterCrop(16)), (37, 53))
    assert Geometry.from_dict(found.to_dict()) == found
    with pytest.raises(InputError, match=r"expected a map of the model's input, \[16, 16\], got"):
        found.to_original(torch.zeros(7, 7))
    with pytest.raises(InputError, match="scale: expected finite numbers above 0"):
        Geometry((4, 4), (4, 4), scale=(0.0, 1.0))
    with pytest.raises(InputError, match="size: expected finite numbers above 0"):
        Geometry((4, 4), (4.5, 4))


def test_half_precision_maps_are_interpolated_in_single():
    found = geometry((Resize(20), CenterCrop(16)), (37, 53))
    values = torch.rand(16, 16).bfloat16()
    back = found.to_original(values)
    assert back.dtype == torch.float32
    assert torch.equal(back.nan_to_num(), found.to_original(values.float()).nan_to_num())
