"""Concepts of the images of a store, and somebody else's directions."""

import warnings

import numpy as np
import pytest
import torch
from attention_toys import images as photos
from concept_nets import Planted, bars, deep
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.adapters.preprocessing import Preprocessing, Resize
from explainkit.errors import InputError, StorageError

NUMBERS = ("importance", "standard_error", "p", "images", "exemplar", "index", "maps", "upsampled")


def concepts(*args, **kwargs):
    with warnings.catch_warnings(action="ignore"):
        return ek.concepts(*args, **kwargs)


def equal(a, b, names=("directions", "stability", *NUMBERS)):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def net(side):
    """A network for RGB images of a size."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(4, 2)).eval()  # fmt: skip
    return ek.adapt(module, preprocessing=Preprocessing((Resize(side, "exact"),)))


@pytest.fixture
def folder(tmp_path):
    """Ten images of different sizes, and a file that is none."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(10):
        height, width = random.integers(9, 20, 2)
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "5 broken.png").write_text("no image")
    return tmp_path / "images"


def test_images_of_a_store_are_read_again_for_the_model_that_asks(folder, tmp_path):
    store = ek.batch(folder, net(8), "saliency", tmp_path / "store", shard_size=4)
    assert len(store) == 11
    found = concepts(net(12), store, "1", n=2)
    (folder / "5 broken.png").unlink()
    assert equal(found, concepts(net(12), folder, "1", n=2))
    assert found.images.shape[2:] == (12, 12)
    assert set(found.names) <= {f"{i}.png" for i in range(10)}
    part = concepts(net(12), store[:4], "1", n=2)
    assert part.count == 4
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes())
    with pytest.raises(StorageError, match=r"3\.png was changed"):
        concepts(net(12), store, "1", n=2)


def test_a_store_keeps_the_images_that_were_in_memory(tmp_path):
    model, x = deep(), photos(6)
    store = ek.batch({str(i): one for i, one in enumerate(x)}, model, "saliency", tmp_path)
    found, wanted = (concepts(model, images, "1", n=2) for images in (store, x))
    assert equal(found, wanted)


@pytest.fixture(scope="module")
def learned():
    return concepts(Planted(), bars(), "mix", n=2)


def test_directions_that_were_learned_here_have_the_same_numbers_when_given(learned):
    lengths = torch.tensor([[0.5], [16.0]])  # powers of two: exact
    given = nn.Parameter(learned.directions.flip(0) * lengths)
    found = concepts(Planted(), bars(), "mix", directions=given)
    torch.testing.assert_close(found.directions, learned.directions.flip(0))
    torch.testing.assert_close(found.importance, learned.importance.flip(0))
    torch.testing.assert_close(found.maps, learned.maps.flip(0))
    assert found.unexplained == pytest.approx(learned.unexplained, abs=1e-6)
    assert found.random_unexplained > 0.1
    assert found.p.max() < 0.05
    assert found.kind == "given"


def test_the_stability_of_given_directions_is_not_known(learned, tmp_path):
    found = concepts(Planted(), bars(), "mix", directions=learned.directions)
    assert found.stability.shape == (0, 2)
    assert [found.failures(k) for k in range(2)] == [[], []]
    assert "stability" not in found.caption(0)
    assert "The directions were given, so their stability is unknown." in found.notes
    again = ek.Concepts.load(found.save(tmp_path / "saved"))
    assert equal(found, again)
    page = found.report(tmp_path / "a.html").read_text()
    assert "the directions were given" in page
    assert found.plot().axes


def test_there_may_be_more_directions_than_channels():
    w = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    found = concepts(Planted(), bars(12), "mix", directions=torch.cat([w, -w]).numpy())
    assert found.importance.shape == (24, 3)
    assert found.unexplained < 1e-3  # each direction and its negative make up everything


def test_random_directions_fail():
    w = torch.rand(2, 8, generator=torch.Generator().manual_seed(1))
    found = concepts(Planted(), bars(), "mix", directions=w)
    assert found.unexplained > 0.1
    assert all(found.failures(k) for k in range(2))


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (
            torch.ones(2, 5),
            r"expected \[n, channel\] for the 8 channels of layer 'mix', got \[2, 5\]",
        ),
        (torch.ones(8), r"got \[8\]"),
        (torch.ones(0, 8), r"got \[0, 8\]"),
        (torch.tensor([[1.0] * 8, [0.0] * 8]), "no direction that is zero"),
        (torch.full((1, 8), torch.nan), "finite numbers"),
    ],
)
def test_refused(directions, message):
    with pytest.raises(InputError, match=message):
        concepts(Planted(), bars(4), "mix", directions=directions)
