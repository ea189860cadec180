"""Factorizes activations into non-negative weights and directions: NMF, or semi-NMF."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from explainkit.errors import InputError, ModelError

ITERATIONS = 500
TOLERANCE = 1e-5
"""Relative decrease of the loss per iteration at which the factorization has converged."""

EVERY = 10
"""Iterations between two computations of the loss."""

SWEEPS = 5
"""Of coordinate descent over a factor per iteration; its products with the values cost more."""

PASSES = 100
"""Of coordinate descent over the weights of fixed directions: a fixed number, so that a position's
weights do not depend on the others."""

_BLOCK = 1024
"""Rows of which the loss is computed at once: what they leave out stays in a processor's cache."""

_OVERSAMPLING, _POWER_ITERATIONS = 8, 4
_CLUSTERING = 20
"""Iterations of k-means, which only starts the factorization."""

Kind = Literal["nmf", "semi-nmf"]


@dataclass(frozen=True, eq=False)
class Factors:
    """``values ≈ weights @ directions``, with weights from 0.

    Attributes:
        weights: ``[row, n]``, not negative.
        directions: ``[n, channel]``, of length 1, the one that carries most of the values first;
            not negative for ``"nmf"``.
        loss: Sum of squares that the factors leave out.
        kind: ``"nmf"``, or ``"semi-nmf"`` for values that may be negative.
    """

    weights: Tensor
    directions: Tensor
    loss: float
    kind: Kind


def factorize(
    values: Tensor,
    n: int,
    *,
    seed: int = 0,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Factors:
    """Minimizes ``‖A − U W‖²`` over weights U ≥ 0 and directions W, with W ≥ 0 if A ≥ 0.

    Hierarchical alternating least squares: each column of U, and for NMF each row of W, is solved
    exactly in turn, ``u_k ← max(0, u_k + (A − U W) w_k / ‖w_k‖²)``, several times before the other
    factor's turn; the directions of semi-NMF have a closed form, ``W = (UᵀU)⁺ UᵀA``. NMF starts
    from the non-negative parts of a randomized singular value decomposition, with small random
    numbers added; semi-NMF from clusters by cosine, since free directions fit any wide enough cone
    around the values equally well.

    Lee and Seung 2001 (NMF); Cichocki and Phan 2009, doi:10.1587/transfun.E92.A.708 (HALS); Gillis
    and Glineur 2012, doi:10.1162/NECO_a_00256 (several sweeps); Ding, Li and Jordan 2010,
    doi:10.1109/TPAMI.2008.277 (semi-NMF); Boutsidis and Gallopoulos 2008,
    doi:10.1016/j.patcog.2007.09.010, Halko et al. 2011, arXiv:0909.4061, and Arthur and
    Vassilvitskii 2007 (starts).

    Args:
        values: A, ``[row, channel]``.
        n: Number of factors, at most the number of rows and of channels.
        seed: Random seed of the start.
        iterations: At most so many.
        tolerance: Ends when the loss decreases by a smaller share per iteration.

    Returns:
        The factors; fewer than ``n`` if the values have fewer.

    Raises:
        InputError: ``n`` is too large.
        ModelError: All values are zero, or one is not finite.

    Examples:
        >>> planted = torch.rand(60, 2) @ torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 0]])
        >>> found = factorize(planted, 2)
        >>> found.kind, bool(found.loss < 1e-3 * planted.square().sum())
        ('nmf', True)
    """
    if not 1 <= n <= min(values.shape):
        raise InputError(
            f"n: expected 1 to {min(values.shape)} concepts of {len(values)} positions with "
            f"{values.shape[1]} channels, got {n}"
        )
    if not bool(values.isfinite().all()):
        raise ModelError("expected finite activations, got NaN or infinity: name another layer")
    scale = values.abs().max()
    if not scale:
        raise ModelError("expected activations, but the layer outputs zeros: name another layer")
    values = values / scale
    kind: Kind = "nmf" if bool((values >= 0).all()) else "semi-nmf"
    weights = _START[kind](values, n, torch.Generator().manual_seed(seed))
    directions = values.new_zeros(n, values.shape[1])
    before, loss = float("inf"), float("inf")
    for iteration in range(1, iterations + 1):
        gram, products = weights @ weights.T, weights @ values
        if kind == "nmf":
            _descend(directions, gram, products, SWEEPS)
        else:
            directions = torch.linalg.pinv(gram, hermitian=True) @ products
        _descend(weights, directions @ directions.T, directions @ values.T, SWEEPS)
        if iteration % EVERY == 0 or iteration == iterations:
            before, loss = loss, _left_out(values, weights, directions)
            if before - loss <= EVERY * tolerance * loss:
                break
    return _ordered(weights * scale, directions, loss * float(scale) ** 2, kind)


def encode(values: Tensor, directions: Tensor) -> Tensor:
    """The weights from 0 with which directions best make up values: ``min ‖A − U W‖²`` over U ≥ 0.

    Args:
        values: A, ``[row, channel]``.
        directions: W, ``[n, channel]``, of length 1.

    Returns:
        U, ``[row, n]``.

    Examples:
        >>> encode(torch.tensor([[3.0, -1.0]]), torch.eye(2))
        tensor([[3., 0.]])
    """
    gram, products = directions @ directions.T, directions @ values.T
    weights = (torch.linalg.pinv(gram, hermitian=True) @ products).clamp_min_(0)
    _descend(weights, gram, products, PASSES)
    found: Tensor = weights.T
    return found


def _descend(factor: Tensor, gram: Tensor, products: Tensor, sweeps: int) -> None:
    """Solves each row of a non-negative factor in turn, with the others fixed, in place."""
    others = gram.clone().fill_diagonal_(0)
    rows = [
        (factor[k], others[k] / size, products[k] / size)
        for k, size in enumerate(gram.diagonal().tolist())
        if size  # the other factor's row is empty: this one has no effect
    ]
    for row, other, wanted in rows * sweeps:
        torch.clamp(torch.addmv(wanted, factor.T, other, alpha=-1), min=0, out=row)


def _singular(values: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Weights ``[n, row]`` to start from: of each singular vector the larger part of one sign."""
    width = min(n + _OVERSAMPLING, *values.shape)
    sketch = torch.randn(values.shape[1], width, generator=generator).to(values)
    noise = torch.rand(n, len(values), generator=generator).to(values)
    basis = torch.linalg.qr(values @ sketch).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(values @ torch.linalg.qr(values.T @ basis).Q).Q
    left, _, right = torch.linalg.svd(basis.T @ values, full_matrices=False)
    left, right = (basis @ left).T[:n], right[:n]
    above = left.clamp_min(0), right.clamp_min(0).norm(dim=1)
    below = (-left).clamp_min(0), (-right).clamp_min(0).norm(dim=1)
    larger = above[0].norm(dim=1) * above[1] >= below[0].norm(dim=1) * below[1]
    weights = normalize(torch.where(larger[:, None], above[0], below[0]), dim=1)
    # a weight of zero for all rows would stay zero; 1 % leaves the start what it is
    return weights.add_(noise, alpha=0.01 / len(values) ** 0.5)


def _clusters(values: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Weights ``[n, row]`` to start from: each row's length, in its cluster by cosine."""
    length = values.norm(dim=1, keepdim=True)
    unit = normalize(values, dim=1)
    chosen = unit[:0]
    far = length[:, 0].double()  # the first center is any row, likelier a long one
    for _ in range(n):
        # k-means++: the farther a row from all centers, the likelier it is the next
        place = far.cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64).to(place) * place[-1]
        chosen = torch.cat(
            [chosen, unit[torch.searchsorted(place, drawn).clamp_max(len(unit) - 1)]]
        )
        far = (1 - (unit @ chosen.T).amax(1)).clamp_min(0).double() * (length[:, 0] > 0)
    for _ in range(_CLUSTERING):
        label = (unit @ chosen.T).argmax(1)
        members = one_hot(label, n).T.to(unit)
        chosen = normalize(members @ unit, dim=1)
    found: Tensor = members * length.T
    return found


_START = {"nmf": _singular, "semi-nmf": _clusters}


def _left_out(values: Tensor, weights: Tensor, directions: Tensor) -> float:
    """Sum of squares of the residual; Gram matrices would lose a small one to rounding."""
    loss = values.new_zeros((), dtype=torch.float64)
    for part, own in zip(torch.split(values, _BLOCK), torch.split(weights, _BLOCK, 1), strict=True):
        rest = torch.addmm(part, own.T, directions, alpha=-1)
        loss += torch.linalg.vecdot(rest, rest).sum(dtype=torch.float64)
    return float(loss)


def _ordered(weights: Tensor, directions: Tensor, loss: float, kind: Kind) -> Factors:
    """The factors with directions of length 1, largest first, without empty ones."""
    length = directions.norm(dim=1)
    size = weights.norm(dim=1) * length
    order = size.argsort(descending=True, stable=True)
    order = order[size[order] > 0]
    length = length[order][:, None]
    return Factors((weights[order] * length).T, directions[order] / length, loss, kind)
