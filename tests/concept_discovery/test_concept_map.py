"""A concept over images: the weights of the factorization, where the layer looks."""

import gc
import warnings

import numpy as np
import pytest
import torch
from attention_toys import images as photos
from attention_toys import vit
from torch import nn

import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
from explainkit.concept_discovery.concept_map import ConceptMap
from explainkit.concept_discovery.factorize import encode
from explainkit.errors import MethodError, ModelError, TargetError


def found_in(model, images, layer, n=2, **options):
    with warnings.catch_warnings(action="ignore"):
        return ek.concepts(model, images, layer, n=n, **options)


def cropping(channels=1):
    """Convolutions without padding; the pooling drops the last row and column of an odd map."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 81, 3)
    ).eval()


@pytest.fixture(scope="module")
def net():
    return cropping()


@pytest.fixture(scope="module")
def x():
    return torch.rand(24, 1, 23, 23, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(net, x):
    return found_in(net, x, "1")


@torch.no_grad()
def test_values_are_the_weights_of_all_concepts_together(net, x, found):
    method = ConceptMap(
        layer="1", directions=found.directions, concept=1, placement="stretch", upsample="nearest"
    )
    # the layer has 19 positions along a side: so has an image of 19 × 19 after stretching
    drawn = ek.explain(net, x[:3], 0, method).attribution[:, 0]
    outputs = net[:2](x[:3]).permute(0, 2, 3, 1)
    weights = encode(outputs.flatten(0, 2), found.directions)[:, 1].view(3, 1, 19, 19)
    wanted = nn.functional.interpolate(weights, (23, 23), mode="nearest")[:, 0]
    torch.testing.assert_close(drawn, wanted)
    assert drawn.min() >= 0


def test_an_exemplar_has_the_map_that_any_image_would_have(net, found):
    for k in range(2):
        for one in found.exemplars(k)[:3]:
            again = found.map(k, one.image[None])
            torch.testing.assert_close(again.attribution[0, 0], one.upsampled)
            assert again.expression == str(found[k])


def test_positions_are_drawn_where_they_look():
    """The center of a spot of light is the center of its map, although nothing is padded."""
    net = cropping()
    with torch.no_grad():
        net[0].weight.fill_(1 / 25)
        net[0].bias.zero_()
    image = torch.zeros(1, 1, 23, 23)
    image[0, 0, 4, 4] = 1  # of the first five rows and columns of positions
    method = ConceptMap(layer="1", directions=torch.full((1, 6), 6**-0.5), concept=0)
    drawn = ek.explain(net, image, 0, method).attribution[0, 0]
    places = torch.arange(23.0)
    center = (drawn.sum(1) @ places / drawn.sum(), drawn.sum(0) @ places / drawn.sum())
    assert center == pytest.approx((4, 4), abs=0.1)


def test_positions_that_no_score_reads_are_drawn(net):
    image = torch.zeros(1, 1, 23, 23)
    image[..., 22, 22] = 5.0  # only the last row and column, which the pooling drops
    with torch.no_grad():
        values = net[:2](image + 1)[0, :, -1, -1]
    method = ConceptMap(layer="1", directions=values[None] / values.norm(), concept=0)
    corner = (..., 22, 22)  # which only the last position sees
    assert ek.explain(net, image + 1, 0, method).attribution[corner].max() > 0
    assert ek.explain(net, image + 1, 0, "eigencam", layer="1").attribution[corner].abs().max() == 0


def test_the_map_of_an_image_does_not_depend_on_the_batch_and_leaves_nothing(net, x, found):
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.warns(ek.errors.ExplainkitWarning, match="train mode"):
        one = found.map(0, x[:5])
    net.eval()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(found.map(0, x[3:4]).attribution, one.attribution[3:4])
    assert torch.equal(found.map(0, x[:5]).attribution, one.attribution)


def test_tokens():
    model, x = vit(prefix=2), photos(6)
    found = found_in(model, x, "blocks.0")
    drawn = found.map(1, x[:2])
    assert drawn.attribution.shape == (2, 1, *x.shape[2:])
    torch.testing.assert_close(found.exemplars(1)[0].upsampled,
                               found.map(1, found.exemplars(1)[0].image[None]).attribution[0, 0])  # fmt: skip


def test_on_photos_it_is_carried_back_to_the_original():
    net = ek.adapt(
        nn.Sequential(nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(1536, 2)),
        preprocessing=Preprocessing((Resize(16), CenterCrop(16))),
    ).eval()  # fmt: skip
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(6)]
    found = found_in(net, photos, "1")
    drawn = found.map(0, photos[0])
    assert drawn.on_original()[0].shape == (20, 30)
    assert drawn.plot().axes


def test_saved_concepts_need_their_model(net, x, found, tmp_path):
    again = ek.Concepts.load(found.save(tmp_path / "saved"))
    with pytest.raises(ModelError, match="loaded concepts have none, so give it as model="):
        again.map(0, x[:1])
    given = again.map(0, x[:1], model=net).attribution
    assert torch.equal(given, found.map(0, x[:1]).attribution)
    with pytest.raises(TargetError, match="1 channels, got a vector of 6"):
        again.map(0, x[:1], model=nn.Sequential(nn.Conv2d(1, 1, 5), nn.ReLU(), nn.Flatten()).eval())


def test_the_callers_model_is_not_kept_alive(x):
    net = cropping()
    found = found_in(net, x[:6], "1")
    del net
    gc.collect()
    with pytest.raises(ModelError, match="it no longer exists, so give it as model="):
        found.map(0, x[:1])


def test_wrong_fields():
    for fields, message in (
        ({"directions": torch.ones(3), "concept": 0}, r"directions: expected \[n, channel\]"),
        ({"directions": torch.ones(3, 2), "concept": 3}, "concept: expected 0 to 2, got 3"),
        ({"directions": torch.ones(3, 2), "concept": 1.5}, "concept: expected a whole number"),
    ):
        with pytest.raises(MethodError, match=message):
            ConceptMap(**fields)
