"""Intervals and tests: scipy as the oracle, and how often intervals hold the truth."""

import math
from itertools import product

import pytest
import torch

from explainkit.results.statistics import (
    EXACT,
    adjusted_rand,
    bootstrap,
    student,
    student95,
    wilcoxon,
    wilson,
)

NAN = float("nan")


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [2, 7, EXACT])
def test_the_exact_test_is_that_of_scipy(count):
    stats = pytest.importorskip("scipy.stats")
    for seed in range(8):
        values = torch.randn(count, generator=generator(seed), dtype=torch.float64) + seed / 10
        theirs = stats.wilcoxon(values.numpy(), method="exact").pvalue
        assert wilcoxon(values) == pytest.approx(theirs, rel=1e-9)


def test_the_normal_test_with_ties_and_zeros_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(8):
        values = torch.randint(-4, 7, (90,), generator=generator(seed)).double()
        theirs = stats.wilcoxon(values.numpy(), method="asymptotic", zero_method="wilcox").pvalue
        assert wilcoxon(values) == pytest.approx(theirs, rel=1e-9)


def test_with_few_ties_and_zeros_all_signs_are_counted():
    values = torch.tensor([0.0, 1, -1, 2, 2, 2, -3, 5, NAN])
    left = [1, -1, 2, 2, 2, -3, 5]
    ranks = [1.5, 1.5, 4, 4, 4, 6, 7]
    seen = sum(rank for rank, value in zip(ranks, left, strict=True) if value > 0)
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=7)
    ]
    middle = sum(ranks) / 2
    as_far = sum(abs(one - middle) >= abs(seen - middle) for one in sums)
    assert wilcoxon(values) == pytest.approx(as_far / 2**7)


def test_no_difference_is_no_evidence():
    assert wilcoxon(torch.zeros(30)) == 1
    assert wilcoxon(torch.full((30,), NAN)) == 1
    assert wilcoxon(torch.tensor([1.0, -1.0] * 40)) == pytest.approx(1)


@pytest.mark.parametrize("skewed", [False, True])
def test_bootstrap_intervals_hold_the_mean_about_as_often_as_they_say(skewed):
    inside = 0
    for seed in range(200):
        values = torch.randn(40, generator=generator(seed), dtype=torch.float64)
        truth = math.exp(0.125) if skewed else 0.0
        _, low, high = bootstrap((values / 2).exp() if skewed else values, seed)
        inside += low <= truth <= high
    # 0.95 less what the percentiles of 40 values lose, and four standard errors
    assert 0.86 <= inside / 200 <= 0.99


def test_an_interval_depends_on_the_seed_alone():
    values = torch.randn(30, generator=generator(1))
    assert bootstrap(values, 4) == bootstrap(torch.cat([values, torch.tensor([NAN])]), 4)
    assert bootstrap(values, 4) != bootstrap(values, 5)
    assert bootstrap(torch.full((9,), 2.0)) == (2, 2, 2)
    assert all(map(math.isnan, bootstrap(torch.tensor([NAN]))))
    assert bootstrap(torch.tensor([3.0]))[0] == 3


def test_blocks_of_resamples_are_those_of_one_block(monkeypatch):
    values = torch.randn(50, generator=generator(2))
    whole = bootstrap(values)
    monkeypatch.setattr("explainkit.results.statistics._BLOCK", 700)
    assert bootstrap(values) == whole


@pytest.mark.parametrize(("hits", "count"), [(0, 12), (3, 20), (12, 12)])
def test_intervals_of_shares_solve_the_score_equation(hits, count):
    share, low, high = wilson(hits, count)
    assert share == hits / count
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:  # |share - end| is 1.96 standard errors of a share of end
            z = abs(share - end) / math.sqrt(end * (1 - end) / count)
            assert z == pytest.approx(1.96, abs=1e-4)
    assert low < high
    assert all(map(math.isnan, wilson(0, 0)))


def test_the_adjusted_rand_index_by_hand():
    # the table is [[2, 1, 0], [0, 1, 2]]: 2 pairs together in both, 6 and 3 in each, of 15
    one, other = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert adjusted_rand(one, other) == pytest.approx((2 - 6 * 3 / 15) / (4.5 - 6 * 3 / 15))
    assert adjusted_rand(other, one) == adjusted_rand(one, other)
    assert adjusted_rand(other, 2 - other) == 1
    assert adjusted_rand(torch.zeros(6, dtype=torch.int64), other) == 0
    assert adjusted_rand(torch.arange(6), torch.arange(6)) == 1
    assert math.isnan(adjusted_rand(one[:1], other[:1]))


def test_the_adjusted_rand_index_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(6):
        one, other = torch.randint(4, (2, 50), generator=generator(seed))
        theirs = metrics.adjusted_rand_score(one.numpy(), other.numpy())
        assert adjusted_rand(one, other) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 5.5, 19, 200])
def test_students_t_is_that_of_scipy(freedom):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 0.3, -1.0, 2.5, 8.0):
        assert student(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-6)
    assert student95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)
