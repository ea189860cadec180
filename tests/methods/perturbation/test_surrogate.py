"""Surrogates have no Shapley values, and what they take from the scores is noise."""

import pytest
import torch
from games import Game, shapley

import explainkit as ek
from explainkit.methods.perturbation import surrogate
from explainkit.methods.perturbation.shapley import KernelShap
from explainkit.methods.perturbation.surrogate import predicted

EACH_PIXEL = torch.arange(12).reshape(3, 4)


def coalitions(features):
    """All of them, float64, the empty one first."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * features)


def values_by_set(rows, scores):
    return {
        frozenset(row.nonzero()[:, 0].tolist()): score
        for row, score in zip(rows, scores.tolist(), strict=True)
    }


def test_shapley_values_of_a_term_in_closed_form():
    rows = coalitions(6)
    generator = torch.Generator().manual_seed(0)
    centers = rows[torch.randint(64, (3,), generator=generator)] * 2 - 1
    reach = torch.rand(6, generator=generator, dtype=torch.float64)
    scores = torch.sinh((2 * rows - 1) * reach @ centers.T)
    expected = torch.stack([shapley(values_by_set(rows, column)) for column in scores.T])
    torch.testing.assert_close(surrogate._shapley(centers, reach), expected)


@pytest.mark.parametrize("features", [5, 6])
def test_a_surrogate_has_no_shapley_values(features):
    rows = coalitions(features)
    generator = torch.Generator().manual_seed(1)
    seen = rows[torch.randint(len(rows), (20,), generator=generator)] * 2 - 1
    values, weights = torch.rand(2, 20, generator=generator, dtype=torch.float64)
    predictions = surrogate._fitted(seen, values, weights + 0.5, 2 * rows - 1)
    assert float(predictions.abs().max()) > 0.01
    found = shapley(values_by_set(rows, predictions))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-10, rtol=0)


def drawn(pairs, features, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = (torch.rand(pairs, features, generator=generator) < 0.5).double()
    return kept, torch.ones(pairs, dtype=torch.float64)


def test_a_prediction_does_not_see_its_own_score():
    kept, weights = drawn(100, 8)
    half = torch.randn(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = predicted(kept, half, weights, 10)
    for row in (10, 57):
        other = half.clone()
        other[row] += 100
        after = predicted(kept, other, weights, 10)
        mine = torch.arange(90) % surrogate.FOLDS == (row - 10) % surrogate.FOLDS
        assert torch.equal(after[10:][mine], before[10:][mine])
        assert not torch.allclose(after[10:][~mine], before[10:][~mine])


def test_it_learns_what_segments_do_together():
    kept, weights = drawn(400, 8)
    signs = 2 * kept - 1
    together = signs[:, 0] * signs[:, 1] * signs[:, 2]
    left = together - signs[:, :3].sum(1) / 3  # less its own Shapley values
    predictions = predicted(kept, together, weights, 0)
    assert float((left - predictions).square().mean()) < 0.2 * float(left.square().mean())


@pytest.mark.parametrize("scores", ["additive", "zero", "few"])
def test_nothing_is_predictions_where_nothing_is_known(scores):
    kept, weights = drawn(surrogate.LEAST - (scores == "few"), 8)
    half = {
        "additive": (kept - 0.5) @ torch.arange(8.0, dtype=torch.float64),
        "zero": torch.zeros(len(kept), dtype=torch.float64),
        "few": (kept[:, 0] - 0.5) * (kept[:, 1] - 0.5) * (kept[:, 2] - 0.5),
    }[scores]
    assert float(predicted(kept, half, weights, 0).abs().max()) < 1e-6


def test_no_bias_and_half_the_squared_error():
    game = Game(3, 4).double()
    x = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def found(samples, seed, **fields):
        method = KernelShap(segments=EACH_PIXEL, samples=samples, **fields)
        return ek.explain(game, x, 0, method, seed=seed).attribution.flatten()

    exact = found(4095, 0)
    squares = {}
    for adjusted in (False, True):
        errors = torch.stack([found(401, seed, surrogate=adjusted) - exact for seed in range(60)])
        assert bool((errors.mean(0).abs() < 4 * errors.std(0) / 60**0.5).all())
        squares[adjusted] = float(errors.square().mean())
    assert squares[True] < 0.5 * squares[False]
