"""Weighted least squares in closed form, with the influence of each observation."""

import numpy as np
import torch
from torch import Tensor

from explainkit.errors import MethodError

_MOST = 10_000
"""Largest number of rounds of coordinate descent."""

_ROUNDING = 1e-10
"""A change of an unknown this small, relative to the largest, no longer counts."""


def least_squares(
    features: Tensor,
    values: Tensor,
    weights: Tensor,
    ridge: Tensor | None = None,
    lasso: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimizes ``Σ_i w_i (y_i − x_iᵀ β)² + Σ_j r_j β_j² + 2 Σ_j l_j |β_j|``.

    The influence of an observation is ``G⁻¹ x_i w_i e_i / (1 − h_i)`` with the Gram matrix
    ``G = Xᵀ W X + R``, the residual ``e_i`` and the leverage ``h_i``: approximately the change of β
    without it. The sum of its squares is the HC3 variance of β, which is valid for any distribution
    of the residuals (MacKinnon and White, 1985, doi:10.1016/0304-4076(85)90158-7). With a lasso,
    both hold for the unknowns that it leaves; the others are 0, and so are their influences.

    Args:
        features: X, float64 ``[observations, unknowns]``.
        values: y, ``[observations]``.
        weights: w, ``[observations]``.
        ridge: r, ``[unknowns]``.
        lasso: l, ``[unknowns]``.

    Returns:
        β ``[unknowns]`` and the influences ``[observations, unknowns]``.

    Raises:
        MethodError: The observations do not determine β.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> least_squares(x, x @ x.new_tensor([3.0, 2.0]), x.new_ones(3))[0]
        tensor([3.0000, 2.0000], dtype=torch.float64)
    """
    weighted = features * weights[:, None]
    gram = features.T @ weighted
    if ridge is not None:
        gram = gram + torch.diag(ridge)
    if lasso is not None:
        signs = _signs(gram, weighted.T @ values, lasso)
        # what has no penalty is left, even if it is 0
        left = ((signs != 0) | (lasso == 0)).nonzero()[:, 0]
        features, weighted, gram = features[:, left], weighted[:, left], gram[left][:, left]
    rank = int(torch.linalg.matrix_rank(gram, hermitian=True))
    if rank < len(gram):
        raise MethodError(
            f"samples: expected masks that determine {len(gram)} unknowns, got {len(features)} "
            f"that determine {rank}: raise samples or use fewer segments"
        )
    pull = torch.linalg.solve(gram, weighted.T).T
    solution = pull.T @ values
    if lasso is not None:
        solution = solution - torch.linalg.solve(gram, (lasso * signs)[left])
    residual = values - features @ solution
    leverage = (pull * features).sum(1)
    influence = pull * (residual / (1 - leverage).clamp(min=1e-6))[:, None]
    if lasso is None:
        return solution, influence
    return (
        torch.zeros_like(lasso).index_copy(0, left, solution),
        influence.new_zeros(len(influence), len(lasso)).index_copy(1, left, influence),
    )


def _signs(gram: Tensor, pulls: Tensor, lasso: Tensor) -> Tensor:
    """Signs of the unknowns that minimize ``βᵀ G β / 2 − pᵀ β + Σ_j l_j |β_j|``.

    By coordinate descent (Friedman, Hastie and Tibshirani, 2010, doi:10.18637/jss.v033.i01), until
    no unknown moves by more than rounding.
    """
    matrix, target, penalty = (values.cpu().numpy() for values in (gram, pulls, lasso))
    solution = np.zeros_like(target)
    diagonal = np.diagonal(matrix)
    for _ in range(_MOST):
        largest = 0.0
        for j in np.flatnonzero(diagonal):
            before = solution[j]
            pull = target[j] - matrix[j] @ solution + diagonal[j] * before
            solution[j] = np.sign(pull) * max(abs(pull) - penalty[j], 0.0) / diagonal[j]
            largest = max(largest, abs(solution[j] - before))
        if largest <= _ROUNDING * np.abs(solution).max(initial=0.0):
            return torch.from_numpy(np.sign(solution)).to(lasso)
    raise MethodError(
        f"lasso: expected coordinate descent to end within {_MOST} rounds, but it did not: raise "
        "samples, use fewer segments or a larger penalty"
    )
