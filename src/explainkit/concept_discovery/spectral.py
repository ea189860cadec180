"""Spectral clustering: groups of rows that a graph of nearest neighbors hardly connects."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from explainkit.errors import InputError

NEIGHBORS = 10
"""Edges from each row to its nearest neighbors."""

MOST = 20
"""Clusters among which the eigengap chooses."""

LANDMARKS = 2048
"""Rows whose graph is decomposed, which takes time with their third power; of more, these are drawn
at random, and each other row belongs to the cluster of the closest of them."""

_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Partition:
    """Clusters of rows.

    Attributes:
        cluster: That of each row, int64 ``[row]``; the largest is 0.
        eigenvalues: The smallest of the graph's Laplacian, float64, ascending: as many are 0 as the
            graph has components, and a gap after the k-th suggests k clusters.
    """

    cluster: Tensor
    eigenvalues: Tensor


def partition(
    values: Tensor, n: int | None = None, *, neighbors: int = NEIGHBORS, seed: int = 0
) -> Partition:
    """Clusters rows by the eigenvectors of the Laplacian of their graph of nearest neighbors.

    The n eigenvectors with the smallest eigenvalues give each row n coordinates, in which clusters
    point in different directions; a QR decomposition with pivoting finds them, without random
    starts (Damle, Minden and Ying 2019, arXiv:1609.08251). Without n, it is the number of
    eigenvalues before the largest gap, at most `MOST` (von Luxburg 2007, arXiv:0711.0189).

    Args:
        values: ``[row, feature]``.
        n: Number of clusters; None: by the eigengap.
        neighbors: Edges from each row.
        seed: Random seed of the landmarks, which more than `LANDMARKS` rows have.

    Raises:
        InputError: There are too few rows, or more clusters than rows.

    Examples:
        >>> points = torch.cat([torch.rand(20, 3), torch.rand(30, 3) + 5])
        >>> found = partition(points)
        >>> found.cluster.bincount().tolist(), bool(found.cluster[:20].eq(1).all())
        ([30, 20], True)
    """
    count = len(values)
    if count < neighbors + 2:
        raise InputError(
            f"expected at least {neighbors + 2} maps to find the {neighbors} nearest neighbors of "
            f"each, got {count}"
        )
    values = values.double()
    rows = torch.arange(count)
    if count > LANDMARKS:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(count, generator=generator)[:LANDMARKS].sort().values
    if n is not None and n > len(rows):
        raise InputError(f"expected at most {len(rows)} clusters of {count} maps, got {n}")
    eigenvalues, vectors = torch.linalg.eigh(laplacian(values[rows], neighbors))
    found = _directions(vectors[:, : eigengap(eigenvalues) if n is None else n])
    if count > len(rows):
        found = found[_closest(values, values[rows])]
    order = found.bincount().argsort(descending=True, stable=True)
    return Partition(order.argsort()[found], eigenvalues[: MOST + 1].clone())


def laplacian(values: Tensor, neighbors: int) -> Tensor:
    """``I − D^−½ W D^−½``, where ``W`` connects each row with its nearest ones, in both directions.

    Args:
        values: ``[row, feature]``.
        neighbors: Edges from each row.
    """
    apart = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.fill_diagonal_(torch.inf).topk(neighbors, largest=False).indices
    edges = torch.zeros_like(apart).scatter_(1, nearest, 1.0)
    edges = torch.maximum(edges, edges.T)
    scale = edges.sum(1).rsqrt()
    return torch.eye(len(values), dtype=values.dtype) - scale[:, None] * edges * scale


def eigengap(eigenvalues: Tensor) -> int:
    """The number of eigenvalues before the largest gap, at most `MOST`.

    Examples:
        >>> eigengap(torch.tensor([0.0, 0.01, 0.5, 0.6]))
        2
    """
    return int(eigenvalues[: MOST + 1].diff().argmax()) + 1


def _directions(vectors: Tensor) -> Tensor:
    """The cluster of each row of eigenvectors ``[row, n]``, int64 ``[row]``."""
    left, pivots = vectors.clone(), []
    for _ in range(vectors.shape[1]):
        pivots.append(int(left.square().sum(1).argmax()))
        axis = normalize(left[pivots[-1]], dim=0)
        left -= torch.outer(left @ axis, axis)
    # the rotation that comes closest to the pivots makes each of them an axis
    one, _, other = torch.linalg.svd(vectors[pivots].T)
    found: Tensor = (vectors @ (one @ other)).abs().argmax(1)
    return found


def _closest(values: Tensor, to: Tensor) -> Tensor:
    """For each row the index of the closest of others."""
    return torch.cat([torch.cdist(some, to).argmin(1) for some in torch.split(values, _BLOCK)])
