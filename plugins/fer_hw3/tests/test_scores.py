"""Scores against closed forms."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explainkit.results.statistics import Z95
from explainkit_fer_hw3.scores import class_scores, confusion_matrix, most_confused, wilson


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_wilson_inverts_the_score_test(successes, trials):
    """Its ends are the shares p at which the observed share is z standard errors of p away."""
    successes = min(successes, trials)
    share = successes / trials
    low, high = wilson(successes, trials)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            z = abs(share - end) / sqrt(end * (1 - end) / trials)
            assert z == pytest.approx(Z95, rel=1e-6)


def test_wilson_without_trials():
    assert wilson(0, 0) == (0, 1)


def test_confusion():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    read = torch.tensor([0, 1, 1, 1, 0, 2])
    counts = confusion_matrix(labels, read, 3)
    assert counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    worst, second = most_confused(counts, ["fear", "sad", "happy"])
    assert str(worst) == "Fear is predicted as Sad in 67% of its images (2 of 3)"
    assert (second.true, second.predicted, second.share) == ("sad", "fear", 0.5)
    scores = class_scores(counts, ["fear", "sad", "happy"])
    assert scores["fear"]["recall"] == pytest.approx(1 / 3)
    assert scores["fear"]["precision"] == pytest.approx(1 / 2)
    assert scores["sad"]["precision_interval"] == wilson(1, 3)
    empty = class_scores(torch.zeros(3, 3, dtype=torch.int64), ["a", "b", "c"])["a"]
    assert (empty["recall"], empty["support"]) == (None, 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=200))
def test_nothing_is_lost(pairs):
    labels, read = (torch.tensor([p[i] for p in pairs], dtype=torch.int64) for i in (0, 1))
    counts = confusion_matrix(labels, read, 7)
    assert int(counts.sum()) == len(pairs)
    assert int(counts.trace()) == sum(a == b for a, b in pairs)
