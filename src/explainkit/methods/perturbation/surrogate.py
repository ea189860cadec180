"""Surrogates of the scores of coalitions with zero Shapley values: a control variate."""

import numpy as np
import torch
from torch import Tensor

FOLDS = 5
"""Folds of the sampled coalitions; each is predicted from the others."""

LEAST = 64
"""Smallest number of sampled coalitions: with fewer, the standard errors are unreliable."""

MOST = 1024
"""Largest number of coalitions to which a surrogate is fitted."""

REACH = 2.0
"""γ: at 0 the surrogate is additive; larger values allow interactions of more segments."""

RIDGE = 0.03
"""Penalty of the kernel ridge regression, relative to the kernel's diagonal."""


def predicted(kept: Tensor, half: Tensor, weights: Tensor, fixed: int) -> Tensor:
    """Predictions of pairs of coalitions, by surrogates with zero Shapley values.

    A surrogate is an odd function of the signs ``s = 2 z − 1``,
    ``f(s) = Σ_i α_i sinh(γ Σ_j a_j s_j s_ij)``, fitted by kernel ridge regression to the
    residuals of an additive game; ``a_j`` is the share of segment j in that game. Each term is a
    difference of products over the segments, so its Shapley values follow exactly from the
    multilinear extension (Owen, 1972): ``φ_j = α_i s_ij sinh(γ a_j) ∫_{−1}^{1} Π_{l≠j}
    (cosh γ a_l + t s_il sinh γ a_l) dt``, a polynomial of degree M − 1 that Gauss–Legendre
    quadrature integrates exactly. The additive game with these values is subtracted.

    The prediction for a sampled coalition comes from other coalitions, so subtracting it from the
    scores changes no Shapley value in expectation, however poor the surrogate is.

    Args:
        kept: One coalition of each pair, float64 ``[pairs, features]``.
        half: Half the difference between its score and that of its complement, ``[pairs]``.
        weights: Weights of the regression, ``[pairs]``.
        fixed: Number of pairs, at the beginning, that were enumerated rather than sampled.

    Returns:
        Predictions of ``half``, ``[pairs]``.

    References:
        Owen (1972), "Multilinear Extensions of Games", doi:10.1287/mnsc.18.5.64. Witter, Liu and
        Musco (2025), "Regression-adjusted Monte Carlo Estimators for Shapley Values and
        Probabilistic Values", arXiv:2506.11849.
    """
    found = torch.zeros_like(half)
    drawn = len(half) - fixed
    if drawn < LEAST:
        return found
    signs, weights = 2 * kept - 1, weights / weights.mean()
    fold = torch.arange(drawn, device=half.device) % FOLDS
    for k in range(FOLDS):
        mine = torch.cat([fold.new_full((fixed,), -1), fold]) == k
        others = (~mine).nonzero()[:, 0]
        others = others[:: -(-len(others) // MOST)]
        # enumerated pairs use all surrogates, weighted by the size of their fold
        queried = mine.clone()
        queried[:fixed] = True
        predictions = _fitted(signs[others], half[others], weights[others], signs[queried])
        share = (fold == k).double().mean()
        found[:fixed] += share * predictions[:fixed]
        found[mine] = predictions[fixed:]
    return found


def _fitted(signs: Tensor, values: Tensor, weights: Tensor, queried: Tensor) -> Tensor:
    """Fits a surrogate with zero Shapley values, and predicts other coalitions."""
    gram = signs.T @ (signs * weights[:, None])
    # so small that an additive game leaves no residual
    gram.diagonal().add_(1e-9 * gram.diagonal().mean())
    additive = torch.linalg.solve(gram, signs.T @ (weights * values))
    size = additive.abs()
    if not size.any():
        return queried.new_zeros(len(queried))
    reach = REACH * size / size.sum()
    kernel = torch.sinh((signs * reach) @ signs.T)
    top = float(np.sinh(REACH))
    kernel.diagonal().add_(RIDGE * top / weights)
    factors = torch.linalg.solve(kernel, values - signs @ additive)
    shapley = factors @ _shapley(signs, reach)
    found: Tensor = torch.sinh((queried * reach) @ signs.T) @ factors - queried @ shapley / 2
    return found


def _shapley(signs: Tensor, reach: Tensor) -> Tensor:
    """Shapley values of ``sinh(Σ_j reach_j s_j s_ij)`` for each i, ``[i, features]``."""
    nodes, parts = np.polynomial.legendre.leggauss(len(reach) // 2 + 1)
    slope = torch.tanh(reach)
    total = torch.zeros_like(signs)
    for node, part in zip(nodes.tolist(), parts.tolist(), strict=True):
        factor = 1 + node * signs * slope
        total += part * factor.prod(1, keepdim=True) / factor
    return total * signs * slope * torch.cosh(reach).prod()
