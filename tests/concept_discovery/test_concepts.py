"""Concepts of a layer: closed forms, a planted network, and what nothing depends on."""

import warnings
from contextlib import suppress
from dataclasses import fields, replace

import pytest
import torch
from attention_toys import images as photos
from attention_toys import vit
from cam_toys import Registers, Swin, TwoStreams
from concept_nets import Planted, bars, deep, generator
from torch import nn

import explainkit as ek
from explainkit.concept_discovery import activations, discover
from explainkit.concept_discovery.factorize import encode
from explainkit.concept_discovery.importance import Effects
from explainkit.concept_discovery.layer import LayerMaps
from explainkit.concept_discovery.reliability import random_directions, stability
from explainkit.errors import ExplainkitWarning, InputError, ModelError, StorageError
from explainkit.scores import VALUES

pytestmark = pytest.mark.filterwarnings(
    "ignore:concepts. .* images are few", "ignore:concepts. not compared"
)

TENSORS = (
    "directions", "importance", "standard_error", "stability", "p", "images", "exemplar", "index",
    "maps", "upsampled",
)  # fmt: skip


def directions(n, channels, signed=False):
    found = torch.randn(n, channels, generator=generator(5), dtype=torch.float64)
    found = found if signed else found.abs()
    return found / found.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def found(planted):
    with warnings.catch_warnings(action="ignore"):
        return ek.concepts(planted, bars(), "mix", n=2, class_names=["|", "-", "none"])


def test_the_planted_concepts_are_found_with_their_importance(planted, found):
    wanted = planted.directions / planted.directions.norm(dim=1, keepdim=True)
    order = [found.ranked("|")[0], found.ranked("-")[0]]
    assert sorted(order) == [0, 1]
    torch.testing.assert_close(found.directions[order], wanted, rtol=0, atol=1e-3)
    detected = planted.detect(bars()).detach().relu().mean((2, 3)).double()
    for k, name in enumerate("|-"):
        row = found.importance[found.ranked(name)[0]]
        closed = torch.zeros(3, dtype=torch.float64)
        closed[k] = detected[:, k].mean()
        torch.testing.assert_close(row, closed, rtol=0, atol=1e-4)
        error = found.standard_error[found.ranked(name)[0], k]
        assert error == pytest.approx(float(detected[:, k].std() / len(detected) ** 0.5), rel=1e-2)
    assert found.kind == "nmf"
    assert found.unexplained < 1e-3 < found.random_unexplained
    assert found.stability.min() > 0.999


def test_exemplars_have_the_bar_where_the_map_is_active(found):
    vertical, _ = found.ranked(0)[0], found.ranked(1)[0]
    shown = found.exemplars(vertical)
    assert len(shown) == 9
    for one in shown:
        assert one.index % 3 == 0
        assert one.name == f"image {one.index}"
        assert torch.equal(one.image, bars()[one.index])
        row, column = divmod(int(one.map.argmax()), one.map.shape[1])
        assert one.image[0, row : row + 3, column + 1].sum() == 3
        assert one.crop[0].sum() == 3


def test_a_concept_is_a_target_and_an_objective(planted, found):
    k = found.ranked("|")[0]
    x = bars(6)[::3]  # those that have the bar
    at = ek.explain(planted, x, found[k], method="input_x_gradient")
    weights = planted.mix(planted.detect(x).relu()).mean((2, 3)) @ found.directions[k]
    torch.testing.assert_close(at.score, weights)
    image = ek.maximize(planted, found[k], shape=(1, 9, 9), steps=2, maximizer="plain")
    assert len(image.images) == 1


def whole_model(model, path, x, change):
    """Scores with a layer's output changed by a hook, in a full run."""

    def hook(_module, _inputs, output):  # fmt: skip
        return change(output)

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        return model(x)
    finally:
        handle.remove()


@torch.no_grad()
def test_importance_is_that_of_full_runs_without_the_concept():
    model, x, w = deep(), photos(5), directions(3, 6)
    layer, effects = LayerMaps(model, "1", x[:2], VALUES), Effects(w)
    for part in x.split(2):
        effects.add(layer, layer.maps(part))
    nothing, built, losses = [], [], []
    for one in x.split(1):
        maps = model[:2](one).permute(0, 2, 3, 1)
        u = encode(maps.flatten(0, 2), w)
        parts = [torch.outer(u[:, k], w[k]).reshape(maps.shape).permute(0, 3, 1, 2)
                 for k in range(3)]  # fmt: skip
        whole = model(one)
        losses.append(
            torch.cat([whole - whole_model(model, "1", one, lambda a, p=p: a - p) for p in parts])
        )
        built.append(whole - whole_model(model, "1", one, lambda _a: sum(parts)))  # noqa: B023
        nothing.append(whole - whole_model(model, "1", one, torch.zeros_like))
    losses = torch.stack(losses)
    torch.testing.assert_close(effects.losses.mean, losses.mean(0))
    torch.testing.assert_close(effects.losses.standard_error, losses.std(0) / 5**0.5)
    torch.testing.assert_close(effects.size, losses.square().mean((0, 2)).sqrt())
    lost = torch.stack(built).abs().sum() / torch.stack(nothing).abs().sum()
    assert effects.unexplained == pytest.approx(float(lost))


@torch.no_grad()
def test_removing_all_concepts_leaves_the_score_of_the_residual():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(6, 4)).double().eval()  # fmt: skip
    x, w = photos(4), directions(3, 6, signed=True)
    layer, effects = LayerMaps(model, "1", x[:2], VALUES), Effects(w)
    weights = effects.add(layer, layer.maps(x))
    residual = model[:2](x) - torch.einsum("bnhw,nc->bchw", weights, w)
    whole, left = model(x), model[2:](residual)
    torch.testing.assert_close(effects.losses.mean.sum(0), (whole - left).mean(0))


@pytest.mark.parametrize(
    ("model", "layer", "grid"),
    [
        (vit(prefix=2), "blocks.0", (4, 3)),
        (Registers(before=2, after=1).double(), "first", (8, 6)),
        (Swin().double(), "stage", (8, 6)),
        (deep(), "1", (14, 10)),
    ],
)
@torch.no_grad()
def test_maps_put_back_give_the_models_own_scores(model, layer, grid):
    x = photos(3)
    part = LayerMaps(model, layer, x[:2], VALUES)
    maps = part.maps(x)
    assert maps.shape[:3] == (3, *grid)
    of = torch.tensor([2, 0])
    torch.testing.assert_close(part.scores(maps[of], of), model(x)[of])
    assert not torch.allclose(part.scores(torch.zeros_like(maps[of]), of), model(x)[of])


@pytest.mark.parametrize(("model", "name"), [(vit(prefix=2), "blocks.0"), (deep(), "1")])
@torch.no_grad()
def test_an_image_runs_once_while_the_outputs_fit(monkeypatch, model, name):
    x, blank = photos(3), torch.zeros_like(photos(2))
    part = LayerMaps(model, name, x[:2], VALUES)
    maps = part.maps(x, [0, 1, 2])
    again = part.maps(blank, [2, 0])  # what the numbers stand for, not these images
    assert torch.equal(again, maps[[2, 0]])
    torch.testing.assert_close(part.scores(again, torch.arange(2)), model(x)[[2, 0]])
    monkeypatch.setattr("explainkit.concept_discovery.layer.KEPT", 0)
    part = LayerMaps(model, name, x[:2], VALUES)
    part.maps(x, [0, 1, 2])
    assert not torch.equal(part.maps(blank, [2, 0]), maps[[2, 0]])


def test_of_tokens_only_patches_are_factorized():
    model, x = vit(prefix=2), photos(6)
    for token in range(2):  # a prefix that would dominate
        model.tokens.data[:, token] *= 1e4
    found = ek.concepts(model, x, "blocks.0", n=2)
    assert found.kind == "semi-nmf"
    patches = model.blocks[0](patch_tokens(model, x))[:, 2:].flatten(0, 1)
    cosines = patches @ found.directions.T / patches.norm(dim=1, keepdim=True)
    assert cosines.amax(1).mean() > 0.5


def patch_tokens(model, x):
    patches = model.patches(x).flatten(2).transpose(1, 2)
    return torch.cat([model.tokens.expand(len(x), -1, -1), patches], 1) + model.position


def equal(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def test_the_same_seed_gives_the_same_bits_and_nothing_is_left_behind():
    model, x = deep(), photos(8)
    before, state = x.clone(), torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model[0].eval()
    one, same = (ek.concepts(model, x, "1", n=2, seed=3) for _ in range(2))
    assert equal(one, same)
    with suppress(ModelError):
        ek.concepts(model, x, "4", n=2)
    assert [part.training for part in model] == [False, True, True, True, True, True]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert not any(part._forward_hooks for part in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_numbers_do_not_depend_on_the_batch():
    model, x = deep(), photos(7)
    one, other = (ek.concepts(model, x, "1", n=2, batch_size=size) for size in (2, 7))
    torch.testing.assert_close(one.importance, other.importance)
    assert torch.equal(one.index, other.index)


def test_large_layers_are_sampled_by_image(monkeypatch, planted):
    monkeypatch.setattr(activations, "MEMORY", 12 * 8 * 4 * 10)
    shapes = []
    real = activations.activations

    def noting(*args, **kwargs):
        shapes.append(tuple(real(*args, **kwargs).shape))
        return real(*args, **kwargs)

    monkeypatch.setattr("explainkit.concept_discovery.discover.activations", noting)
    sampled = ek.concepts(planted, bars(12), "mix", n=1)
    assert set(shapes) == {(12, 10, 8)}
    assert sampled.maps.shape[2:] == (7, 7)  # exemplars are still seen as a whole


def test_stability_tells_planted_directions_from_noise():
    w = directions(2, 12, signed=True).float()
    u = torch.rand(40, 2, 2, generator=generator(1))
    u *= torch.rand(40, 2, 2, generator=generator(2)) < 0.4
    noise = torch.randn(40, 2, 12, generator=generator(4))
    assert stability(u @ w, w, seed=0).min() > 0.95
    assert stability(noise, w, seed=0).mean() < 0.7


def test_random_directions_keep_the_values_of_each():
    w = directions(3, 8)
    sets = random_directions(w, seed=0)
    assert len(sets) == 7  # 21 directions
    for one in sets:
        assert torch.equal(one.sort(1).values, w.sort(1).values)
        assert not torch.equal(one, w)
    assert torch.equal(sets[0], random_directions(w, seed=0)[0])


def test_what_fails_is_in_the_caption(found):
    bad = replace(found, p=torch.tensor([0.5, 0.01]), random_stability=0.5)
    assert bad.failures(0) == ["no more important than random directions"]
    assert bad.failures(1) == []
    assert bad.caption(0).endswith("; fails: no more important than random directions")
    assert "fails" not in bad.caption(1)
    worse = replace(bad, random_stability=1.1)
    assert "no more stable than with random weights" in worse.caption(1)
    unknown = replace(bad, random_stability=float("nan"))
    assert unknown.failures(1) == []


def test_saved_and_loaded(found, tmp_path):
    again = ek.Concepts.load(found.save(tmp_path / "concepts"))
    assert equal(found, again)
    for name in {one.name for one in fields(found)} - set(TENSORS):
        assert getattr(again, name) == getattr(found, name), name
    record = tmp_path / "concepts" / "concepts.json"
    record.write_text(record.read_text().replace('"count": 40', '"count": 41'))
    with pytest.raises(StorageError, match="was changed"):
        ek.Concepts.load(tmp_path / "concepts")


@pytest.mark.parametrize(
    "change",
    [
        {"exemplar": torch.full((2, 9), 99)},
        {"names": ("one",)},
        {"p": torch.ones(3)},
        {"upsampled": torch.ones(2, 9, 4, 4)},
    ],
)
def test_what_no_run_writes_is_not_saved(found, tmp_path, change):
    with pytest.raises(StorageError, match=next(iter(change)).replace("names", "images")):
        replace(found, **change).save(tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (photos(1), {}, InputError, "at least 2 images"),
        ([photos(1)[0], photos(1, size=(8, 8))[0]], {}, InputError, "of one size"),
        (photos(4), {"layer": "5"}, ModelError, "expected layer '5'"),
        (photos(4), {"n": 7}, InputError, "1 to 6 concepts"),
        (photos(4), {"n": 0}, InputError, "n: expected at least 1"),
        (photos(4) * torch.nan, {}, InputError, "finite pixels"),
    ],
)
def test_refused(images, options, error, message):
    with pytest.raises(error, match=message):
        ek.concepts(deep(), images, **{"layer": "1", **options})


def test_several_branches_need_a_name():
    with pytest.raises(ModelError, match=r"2 branches.*layer="):
        ek.concepts(TwoStreams().double(), photos(4, channels=4))


def test_few_images_and_many_concepts_are_warned_of(monkeypatch):
    monkeypatch.setattr(discover, "MOST", 1)
    with pytest.warns(ExplainkitWarning) as caught:
        found = ek.concepts(deep(), photos(4), "1", n=2)
    texts = [str(one.message) for one in caught]
    assert any("2 concepts are hard to look through: use at most 1" in text for text in texts)
    assert any("4 images are few" in text for text in texts)
    assert texts == [f"concepts: {text}" for text in found.warnings]
