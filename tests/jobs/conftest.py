"""Folders of small images, and models for them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize

SIZE = 8


def toy():
    """A small network for RGB images of 8 × 8, adapted."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (SIZE - 2) ** 2, 3)
    )
    steps = (Resize(SIZE), CenterCrop(SIZE))
    known = Preprocessing(steps, mean=(0.5,) * 3, std=(0.25,) * 3)
    return ek.adapt(net.eval(), preprocessing=known, class_names=["a", "b", "c"])


def write_images(folder, count, seed=0):
    """Random images of different sizes in two subfolders."""
    random = np.random.default_rng(seed)
    for i in range(count):
        path = folder / f"part {i % 2}" / f"image_{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(9, 20, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def model():
    return toy()


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", 20)
