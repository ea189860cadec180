"""Total Sobol indices: closed forms, full runs of the model, and what nothing depends on."""

import warnings

import pytest
import torch
from attention_toys import images as photos
from concept_nets import Planted, bars, deep

import explainkit as ek
from explainkit.concept_discovery.factorize import encode
from explainkit.concept_discovery.importance import concept_maps, sobol_indices, total_indices
from explainkit.concept_discovery.layer import LayerMaps
from explainkit.errors import InputError
from explainkit.scores import VALUES


def indices(score, n, designs=2048, seed=0):
    """The indices of a function of one mask with one score."""
    return total_indices(lambda m: score(m).view(1, 1), n, seed=seed, designs=designs)[0, :, 0]


def concepts(*args, **kwargs):
    with warnings.catch_warnings(action="ignore"):
        return ek.concepts(*args, **kwargs)


def test_of_a_linear_function_they_are_shares_of_squared_coefficients():
    c = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    found = indices(lambda m: 7 + m @ c, 4)
    torch.testing.assert_close(found, c.square() / c.square().sum(), rtol=0, atol=0.01)
    assert found[3] == 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_of_a_product_each_has_its_interactions(n):
    # E m = 1/2 and E m² = 1/3: what is left if all but one are known is E[Π m²] Var(m)
    closed = (1 / 3) ** (n - 1) / 12 / ((1 / 3) ** n - (1 / 4) ** n)
    found = indices(torch.prod, n)
    torch.testing.assert_close(found, torch.full_like(found, closed), rtol=0.1, atol=0)


def test_of_a_score_that_does_not_vary_they_are_zero():
    assert indices(lambda m: 5 + 0 * m.sum(), 3, designs=8).tolist() == [0, 0, 0]
    rounded = indices(lambda m: 1e4 + (m.sum() * 1e3).round() * 1e-6, 3, designs=8)
    assert rounded.tolist() == [0, 0, 0]


@torch.no_grad()
def test_the_suffix_gives_what_full_runs_give():
    model, x = deep(), photos(3)
    w = torch.randn(3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    w /= w.norm(dim=1, keepdim=True)
    layer = LayerMaps(model, "1", x[:2], VALUES)
    maps = layer.maps(x)
    found = sobol_indices(layer, maps, concept_maps(maps, w), w, seed=4)
    assert found.shape == (3, 3, 4)
    output = model[:2](x)
    u = encode(output.permute(0, 2, 3, 1).flatten(0, 2), w)

    def whole(mask):
        rest = ((1 - mask) * u) @ w
        handle = model[1].register_forward_hook(
            lambda _module, _inputs, out: out - rest.view(maps.shape).permute(0, 3, 1, 2)
        )
        try:
            return model(x)
        finally:
            handle.remove()

    torch.testing.assert_close(found, total_indices(whole, 3, seed=4))


def test_a_planted_concept_has_the_variance_of_its_class():
    found = concepts(Planted(), bars(), "mix", n=2, importance="sobol")
    vertical, horizontal = found.ranked(0)[0], found.ranked(1)[0]
    assert {vertical, horizontal} == {0, 1}
    share = torch.tensor([14, 13]) / 40  # of the images that have the bar
    own = found.importance[[vertical, horizontal], [0, 1]]
    torch.testing.assert_close(own, share.double(), rtol=0.25, atol=0)
    other = found.importance[[horizontal, vertical], [0, 1]]
    assert other.abs().max() < 1e-3
    assert found.importance[:, 2].tolist() == [0, 0]
    removed = concepts(Planted(), bars(), "mix", n=2)
    assert torch.equal(found.p, removed.p)
    assert found.unexplained == removed.unexplained
    assert (found.measure, removed.measure) == ("sobol", "removal")


def test_captions_say_what_is_measured(tmp_path):
    found = concepts(Planted(), bars(12), "mix", n=2, importance="sobol")
    assert "share of the variance of the score" in found._repr_html_()
    assert "share of the variance of each score" in found.report(tmp_path / "a.html").read_text()
    assert found.to_dict()["measure"] == "sobol"
    assert "+" not in found.caption(0)
    assert ek.Concepts.load(found.save(tmp_path / "saved")).measure == "sobol"


def test_the_same_seed_gives_the_same_bits_in_any_batch():
    model, x = deep(), photos(5)
    state = torch.get_rng_state()
    one, same, other = (
        concepts(model, x, "1", n=2, importance="sobol", batch_size=size) for size in (5, 5, 2)
    )
    assert torch.equal(one.importance, same.importance)
    torch.testing.assert_close(one.importance, other.importance)
    torch.testing.assert_close(one.standard_error, other.standard_error)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_importance_is_refused():
    with pytest.raises(InputError, match="importance: expected removal or sobol, got 'shapley'"):
        concepts(deep(), photos(3), "1", importance="shapley")
