"""Spectral clustering: well-separated groups, a hand-made graph, and what nothing depends on."""

import pytest
import torch

from explainkit.concept_discovery import spectral
from explainkit.concept_discovery.spectral import eigengap, laplacian, partition
from explainkit.errors import InputError
from explainkit.results.statistics import adjusted_rand


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(sizes, features=6, apart=12.0):
    """Normal points around centers, and which center each has."""
    centers = apart * torch.randn(len(sizes), features, generator=generator(1))
    labels = torch.repeat_interleave(torch.tensor(sizes))
    return centers[labels] + torch.randn(len(labels), features, generator=generator(2)), labels


@pytest.mark.parametrize("sizes", [[40], [30, 50], [25, 40, 20, 30]])
def test_the_eigengap_counts_separate_groups(sizes):
    values, labels = blobs(sizes)
    found = partition(values)
    assert adjusted_rand(found.cluster, labels) == 1
    assert found.cluster.bincount().tolist() == sorted(sizes, reverse=True)
    assert found.eigenvalues[: len(sizes)].abs().max() < 1e-9  # components of the graph


def touching():
    """Normal points in the plane around two centers, and which one each has."""
    labels = torch.repeat_interleave(torch.tensor([60, 40]))
    return torch.randn(100, 2, generator=generator(2)) + 4 * labels[:, None], labels


def test_groups_that_touch_are_found_with_their_number():
    values, labels = touching()
    found = partition(values, 2)
    assert found.eigenvalues[1] > 1e-6  # the graph is connected
    assert adjusted_rand(found.cluster, labels) > 0.9


def test_the_order_of_rows_changes_nothing():
    values, _ = touching()
    order = torch.randperm(len(values), generator=generator(3))
    one, other = partition(values), partition(values[order])
    assert adjusted_rand(one.cluster[order], other.cluster) == 1
    torch.testing.assert_close(one.eigenvalues, other.eigenvalues)


def test_the_laplacian_of_a_hand_made_graph():
    # 0 – 1 – 2 on a line: 1 and 0 are each other's nearest, and 1 is that of 2
    found = laplacian(torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64), 1)
    side = -(2**-0.5)
    expected = [[1, side, 0], [side, 1, side], [0, side, 1]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_more_rows_join_the_closest_landmark(monkeypatch):
    monkeypatch.setattr(spectral, "LANDMARKS", 60)
    values, labels = blobs([120, 80])
    one, same = partition(values, seed=4), partition(values, seed=4)
    assert adjusted_rand(one.cluster, labels) == 1
    assert torch.equal(one.cluster, same.cluster)
    assert torch.equal(one.eigenvalues, same.eigenvalues)


def test_the_gap_is_sought_among_the_smallest():
    assert eigengap(torch.tensor([0.0, 0.0, 0.0, 0.4, 0.7])) == 3
    values = torch.linspace(0, 0.5, spectral.MOST + 2)
    values[5:] += 0.1
    values[-1] += 9  # beyond the most clusters that are considered
    assert eigengap(values) == 5


@pytest.mark.parametrize(
    ("count", "n", "message"), [(11, None, "at least 12 maps"), (30, 31, "at most 30 clusters")]
)
def test_refused(count, n, message):
    with pytest.raises(InputError, match=message):
        partition(torch.rand(count, 3), n)
