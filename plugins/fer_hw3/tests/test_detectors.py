"""The part that a unit detects, on units built to detect one."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from explainkit.errors import DatasetError, ModelError
from explainkit_fer_hw3.data import load_synthetic
from explainkit_fer_hw3.faces import PARTS
from explainkit_fer_hw3.study.detectors import detect_parts


class Planted(nn.Module):
    """Its maps are: one part's masks, a fixed position, a constant, and zero."""

    def __init__(self, faces, part):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.maps = nn.Identity()
        keys = faces.images.flatten(1).sum(1)
        self.known = dict(zip(keys.tolist(), faces.parts == PARTS.index(part), strict=True))

    def forward(self, images):
        masks = [
            self.known.get(key, torch.zeros(48, 48)) for key in images.flatten(1).sum(1).tolist()
        ]
        mask = torch.stack([m.float() for m in masks])
        position = torch.zeros(len(images), 48, 48)
        position[:, 20:24, 22:26] = 1
        nan = 0 * images[:, 0]  # so that receptive fields are seen
        maps = torch.stack([mask, position, torch.ones_like(mask), 0 * mask], 1) + nan[:, None]
        return self.maps(maps).mean((2, 3))


@pytest.fixture(scope="module")
def faces():
    return load_synthetic(None, "validation", count=35)


def test_a_planted_part_is_found_and_a_position_is_not(faces):
    area = float((faces.parts == PARTS.index("mouth")).double().mean())
    found = detect_parts(Planted(faces, "mouth"), "maps", faces, quantile=0.2)
    code = PARTS.index("mouth")
    assert found.part(0) == "mouth"
    assert found.iou[0, code] == pytest.approx(1)
    assert found.enrichment[0, code] == pytest.approx(1 / area)
    assert found.iou[0].sum() == pytest.approx(1)
    # a fixed position overlaps with another face's parts just as much
    torch.testing.assert_close(found.enrichment[1], found.control[1])
    assert found.part(1) is None
    # active everywhere is chance; active nowhere is undefined
    assert found.enrichment[3].isnan().all()
    assert found.iou[3].isnan().all()
    assert found.part(3) is None


def test_intervals_hold_the_value_and_come_from_the_seed(faces):
    model = nn.Sequential(nn.Conv2d(1, 3, 5, stride=2), nn.ReLU()).eval()
    one, two, other = (detect_parts(model, "1", faces, seed=s) for s in (0, 0, 1))
    assert (one.low <= one.enrichment + 1e-9).all()
    assert (one.enrichment <= one.high + 1e-9).all()
    assert torch.equal(one.low, two.low)
    assert not torch.equal(one.low, other.low)
    # the mean over all pixels is 1
    areas = torch.stack([(faces.parts == c).double().mean() for c in range(len(PARTS))])
    torch.testing.assert_close((one.enrichment * areas).sum(1), torch.ones(3).double())


def test_concepts_are_units_whose_maps_are_their_weights(faces):
    model = Planted(faces, "mouth")
    units = detect_parts(model, "maps", faces, quantile=0.2)
    found = detect_parts(model, "maps", faces, directions=torch.eye(4)[[1, 0]], quantile=0.2)
    torch.testing.assert_close(found.enrichment, units.enrichment[[1, 0]])
    assert [found.part(0), found.part(1)] == [None, "mouth"]
    assert found.facts(1)["mouth"]["iou"] == pytest.approx(1)
    assert units.facts(3)["mouth"]["iou"] is None


def test_refusals(faces):
    model = nn.Sequential(nn.Conv2d(1, 3, 5), nn.Flatten(), nn.Linear(3 * 44 * 44, 2)).eval()
    with pytest.raises(ModelError, match="expected a layer with feature maps"):
        detect_parts(model, "2", faces)
    with pytest.raises(DatasetError, match="quantile: expected between 0 and 1"):
        detect_parts(model, "0", faces, quantile=1.0)
    with pytest.raises(DatasetError, match="expected synthetic faces"):
        detect_parts(model, "0", replace(faces, parts=None))
