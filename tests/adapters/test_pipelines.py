"""Preprocessing equals the pipelines of torchvision, timm and transformers within 1/255."""

import dataclasses

import numpy as np
import pytest
import torch
from foreign import foreign
from PIL import Image

from explainkit.adapters.preprocessing import (
    CenterCrop,
    CenterSquare,
    Letterbox,
    Pad,
    Preprocessing,
    Resize,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def images():
    """Noise under a gradient, 50 images of all parities and aspect ratios."""
    random = np.random.default_rng(0)
    found = []
    for i in range(50):
        height, width = (int(side) for side in random.integers(31, 210, 2))
        noise = random.integers(0, 256, (height, width, 3))
        ramp = np.linspace(0, 255, width)[None, :, None]
        found.append(Image.fromarray(((noise + (i % 5) * ramp) / (1 + i % 5)).astype(np.uint8)))
    return found


def assert_equal(steps, theirs, images, normalized=True):
    """Within one step of a pixel value."""
    ours = Preprocessing(steps, MEAN, STD) if normalized else Preprocessing(steps)
    std = torch.tensor(STD if normalized else (1.0,) * 3)[:, None, None]
    worst = 0.0
    for image in images:
        found, wanted = ours(image)[0], torch.as_tensor(np.asarray(theirs(image)))
        assert found.shape == wanted.shape, image.size
        worst = max(worst, float(((found - wanted) * std).abs().max()))
    assert worst <= 1 / 255 + 1e-6, 255 * worst


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize(("resize", "crop"), [(64, 56), (57, 57), (40, 71)])
def test_torchvision(images, interpolation, resize, crop):
    transforms = foreign("torchvision.transforms")
    presets = foreign("torchvision.transforms._presets")
    theirs = presets.ImageClassification(
        resize_size=resize, crop_size=crop, mean=MEAN, std=STD,
        interpolation=transforms.InterpolationMode(interpolation),
    )  # fmt: skip
    assert_equal((Resize(resize, interpolation=interpolation), CenterCrop(crop)), theirs, images)


@pytest.mark.parametrize(
    ("interpolation", "antialias"),
    [("bilinear", True), ("bilinear", False), ("bicubic", True), ("bicubic", False),
     ("lanczos", True), ("nearest", True), ("nearest", False)],
)  # fmt: skip
def test_torchvision_on_tensors(images, interpolation, antialias):
    transforms = foreign("torchvision.transforms")
    functional = foreign("torchvision.transforms.v2.functional")
    exact = {"nearest": "nearest-exact"}.get(interpolation, interpolation)
    mode = transforms.InterpolationMode(exact)

    def theirs(image):
        pixels = functional.pil_to_tensor(image)
        resized = functional.resize(pixels, [48, 60], mode, antialias=antialias)
        return resized.float() / 255

    steps = (Resize((48, 60), "exact", interpolation, antialias, "torch"),)
    assert_equal(steps, theirs, images, normalized=False)


@pytest.mark.parametrize(
    ("mode", "size", "steps"),
    [
        ("center", 56, (Resize(64, interpolation="bicubic"), CenterCrop(56))),
        (
            "center", (48, 63),
            (Resize((54, 72), interpolation="bicubic", rounding="nearest"), CenterCrop((48, 63))),
        ),
        ("squash", (48, 63), (Resize((54, 72), "exact", "bicubic"), CenterCrop((48, 63)))),
        (
            "border", 56,
            (
                Resize(64, "longest", "bicubic", rounding="nearest"),
                CenterCrop(56, fill=(124, 116, 104)),
            ),
        ),
    ],
)  # fmt: skip
def test_timm(images, mode, size, steps):
    factory = foreign("timm.data.transforms_factory")
    theirs = factory.transforms_imagenet_eval(
        img_size=size, crop_pct=0.875, crop_mode=mode, interpolation="bicubic", mean=MEAN, std=STD
    )
    assert_equal(steps, theirs, images)


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("ViTImageProcessor", {"size": {"height": 48, "width": 60}}, (Resize((48, 60), "exact"),)),
        (
            "CLIPImageProcessor", {"size": {"shortest_edge": 60}, "crop_size": 51},
            (Resize(60, interpolation="bicubic"), CenterCrop(51, rounding="floor")),
        ),
    ],
)  # fmt: skip
def test_transformers(images, backend, name, options, steps):
    transformers = foreign("transformers")
    if not backend:
        steps = (dataclasses.replace(steps[0], resampler="torch"), *steps[1:])
    processor = getattr(transformers, name + backend)(
        **options, image_mean=list(MEAN), image_std=list(STD)
    )
    assert_equal(
        steps, lambda image: processor(image, return_tensors="pt")["pixel_values"][0], images
    )


def test_letterbox(images):
    """As in YOLO: the scale that fits, borders of equal width, 114 gray."""

    def theirs(image):
        factor = min(64 / image.width, 64 / image.height)
        size = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
        canvas = np.full((64, 64, 3), 114, np.uint8)
        left, top = (64 - size[0]) // 2, (64 - size[1]) // 2
        fitted = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        canvas[top : top + size[1], left : left + size[0]] = fitted
        return np.moveaxis(canvas, 2, 0) / np.float32(255)

    assert_equal((Letterbox(64),), theirs, images, normalized=False)


def test_squares_and_pads(images):
    for image in images[:5]:
        side, pixels = min(image.size), np.asarray(image)
        top, left = (image.height - side) // 2, (image.width - side) // 2
        found = Preprocessing((CenterSquare(),))(image)[0].permute(1, 2, 0).numpy()
        assert np.allclose(255 * found, pixels[top : top + side, left : left + side])
        corner = Preprocessing((Pad(220, (9, 8, 7), "top left"),))(image)[0]
        assert corner.shape == (3, 220, 220)
        assert np.allclose(255 * corner[:, : image.height, : image.width].permute(1, 2, 0), pixels)
        assert torch.allclose(255 * corner[:, -1, -1], torch.tensor([9.0, 8.0, 7.0]))
