"""Maps over originals: strips change nothing, tensors are drawn as they are."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.adapters.geometry import Geometry
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
from explainkit.errors import RenderError
from explainkit.render.overlays import save_overlay
from explainkit.render.shown_image import ShownImage, overlay, overlay_original, to_bytes


def test_strips_change_nothing():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (301, 217, 3), np.uint8)
    values = torch.from_numpy(random.standard_normal((20, 20)))
    geometry = Geometry((301, 217), (217, 217)).resized((25, 25)).windowed(2, 2, (20, 20))
    whole = to_bytes(overlay(ShownImage(pixels / 255, geometry), values, "max"))
    strips = overlay_original(pixels, geometry, values, "max")
    assert strips.dtype == np.uint8
    assert np.abs(strips.astype(int) - whole).max() <= 1
    assert (strips != whole).mean() < 0.05
    unseen = ~geometry.seen()
    assert 0 < unseen.sum() < unseen.numel()  # so that stripes cross the strips


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))


def test_of_an_original(net, tmp_path):
    model = ek.adapt(net.eval(), preprocessing=Preprocessing((Resize(20), CenterCrop(16))))
    photo = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    e = ek.explain(model, [photo, np.zeros((30, 30, 3), np.uint8)], method="gradcam")
    first, second = e.overlays(scaling="max:absolute", alpha=0.5)
    assert (first.size, second.size) == ((40, 50), (30, 30))
    wanted = overlay_original(photo, e.geometries[0], e.heatmap()[0], "max:absolute", alpha=0.5)
    assert np.array_equal(np.array(first), wanted)
    file = save_overlay(e[0], tmp_path / "new" / "map.png")
    with Image.open(file) as saved:
        assert np.array_equal(np.array(saved), np.array(e[0].overlays()[0]))
    with pytest.raises(RenderError, match="alpha: expected an opacity"):
        e.overlays(alpha=2)


def test_of_a_tensor(net):
    e = ek.explain(net.eval(), torch.rand(2, 3, 16, 16), method="saliency")
    found = e.overlays()
    assert [one.size for one in found] == [(16, 16)] * 2
