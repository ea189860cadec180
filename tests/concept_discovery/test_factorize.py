"""Factorization: planted factors, other implementations, and what nothing depends on."""

import pytest
import torch

from explainkit.concept_discovery.factorize import encode, factorize
from explainkit.errors import InputError, ModelError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(signed, rows=300, channels=20, n=4):
    """Directions of length 1 and values made of few of them at a time."""
    weights = torch.rand(rows, n, generator=generator(1))
    weights *= torch.rand(rows, n, generator=generator(2)) < 0.4
    directions = torch.randn(n, channels, generator=generator(3))
    if not signed:
        directions = directions.clamp_min(0)
    directions /= directions.norm(dim=1, keepdim=True)
    return weights @ directions, directions


def loss(values, found):
    return float((values - found.weights @ found.directions).double().square().sum())


@pytest.mark.parametrize("signed", [False, True])
def test_planted_directions_are_found(signed):
    values, directions = planted(signed)
    found = factorize(values, 4)
    assert found.kind == ("semi-nmf" if signed else "nmf")
    assert (directions @ found.directions.T).amax(1).min() > 0.99
    assert found.loss < 1e-3 * float(values.square().sum())
    assert found.weights.min() >= 0
    assert signed or found.directions.min() >= 0


@pytest.mark.parametrize("signed", [False, True])
def test_the_loss_is_that_of_the_factors_in_units_of_the_values(signed):
    values = 1e4 * torch.randn(40, 8, generator=generator())
    found = factorize(values if signed else values.abs(), 3)
    assert found.loss == pytest.approx(loss(values if signed else values.abs(), found), rel=1e-4)
    torch.testing.assert_close(found.directions.norm(dim=1), torch.ones(3))
    size = found.weights.norm(dim=0)
    assert torch.equal(size, size.sort(descending=True).values)


@pytest.mark.filterwarnings("ignore::Warning")
def test_nmf_is_as_good_as_that_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    values = torch.rand(80, 20, generator=generator()) @ torch.rand(20, 20, generator=generator(1))
    values += 2 * torch.rand(80, 20, generator=generator(2))
    theirs = decomposition.NMF(4, max_iter=500, tol=1e-5, random_state=0).fit(values.numpy())
    found = factorize(values, 4)
    assert found.loss <= 1.01 * theirs.reconstruction_err_**2


def multiplicative_semi_nmf(values, n, iterations):
    """Ding, Li and Jordan's own updates, started from clusters' indicators plus 0.2."""
    values = values.double()
    centers = values[torch.randperm(len(values), generator=generator())[:n]]
    for _ in range(10):
        label = torch.cdist(values, centers).argmin(1)
        centers = torch.stack([values[label == k].mean(0) for k in range(n)])
    weights = torch.nn.functional.one_hot(label, n).double() + 0.2

    def parts(x):
        return x.clamp_min(0), (-x).clamp_min(0)

    for _ in range(iterations):
        directions = torch.linalg.pinv(weights.T @ weights) @ weights.T @ values
        (a, b), (c, d) = parts(values @ directions.T), parts(directions @ directions.T)
        weights = weights * ((a + weights @ d) / (b + weights @ c).clamp_min(1e-12)).sqrt()
    return float((values - weights @ directions).square().sum())


def test_semi_nmf_is_as_good_as_multiplicative_updates():
    values = torch.randn(150, 6, generator=generator()) @ torch.randn(6, 16, generator=generator(1))
    values += torch.randn(150, 16, generator=generator(2))
    assert factorize(values, 5).loss <= 1.01 * multiplicative_semi_nmf(values, 5, 500)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_generator():
    values, _ = planted(signed=True)
    state = torch.get_rng_state()
    one, same, other = (factorize(values, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.directions, same.directions)
    assert torch.equal(one.weights, same.weights)
    assert not torch.equal(one.weights, other.weights)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
def test_fewer_factors_than_asked_for(channels):
    values = torch.zeros(30, 5)
    values[:, :channels] = torch.rand(30, channels, generator=generator())
    found = factorize(values, 5)
    assert loss(values, found) < 1e-4 * float(values.square().sum())
    assert bool(found.directions.isfinite().all())


@pytest.mark.parametrize(
    ("values", "n", "error", "message"),
    [
        (torch.zeros(9, 4), 2, ModelError, "outputs zeros"),
        (torch.full((9, 4), torch.nan), 2, ModelError, "finite"),
        (torch.ones(9, 4), 5, InputError, "1 to 4 concepts of 9 positions with 4 channels, got 5"),
    ],
)
def test_refused(values, n, error, message):
    with pytest.raises(error, match=message):
        factorize(values, n)


def test_encoding_satisfies_the_conditions_of_the_optimum():
    values = torch.randn(50, 10, generator=generator()).double()
    directions = torch.randn(6, 10, generator=generator(1)).double()
    directions /= directions.norm(dim=1, keepdim=True)
    weights = encode(values, directions)
    gradient = (weights @ directions - values) @ directions.T
    assert weights.min() >= 0
    assert gradient.min() > -1e-6  # no weight should grow
    assert (gradient * weights).abs().max() < 1e-6  # nor should one above 0 shrink
