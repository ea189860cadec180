"""Weighted least squares in closed form, with the influence of each observation."""

import torch
from torch import Tensor

from explainkit.errors import MethodError


def least_squares(
    features: Tensor, values: Tensor, weights: Tensor, ridge: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Minimizes ``Σ_i w_i (y_i − x_iᵀ β)² + Σ_j r_j β_j²``.

    The influence of an observation is ``G⁻¹ x_i w_i e_i / (1 − h_i)`` with the Gram matrix
    ``G = Xᵀ W X + R``, the residual ``e_i`` and the leverage ``h_i``: approximately the change of β
    without it. The sum of its squares is the HC3 variance of β, which is valid for any distribution
    of the residuals (MacKinnon and White, 1985, doi:10.1016/0304-4076(85)90158-7).

    Args:
        features: X, float64 ``[observations, unknowns]``.
        values: y, ``[observations]``.
        weights: w, ``[observations]``.
        ridge: r, ``[unknowns]``.

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
    rank = int(torch.linalg.matrix_rank(gram, hermitian=True))
    if rank < len(gram):
        raise MethodError(
            f"samples: expected masks that determine {len(gram)} unknowns, got {len(features)} "
            f"that determine {rank}: raise samples or use fewer segments"
        )
    pull = torch.linalg.solve(gram, weighted.T).T
    solution = pull.T @ values
    residual = values - features @ solution
    leverage = (pull * features).sum(1)
    return solution, pull * (residual / (1 - leverage).clamp(min=1e-6))[:, None]
