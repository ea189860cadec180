"""A model of the scores of coalitions whose Shapley values are zero: a control variate."""

import numpy as np
import torch
from torch import Tensor

FOLDS = 5
"""Parts of the drawn coalitions; each is predicted from the others."""

LEAST = 64
"""Drawn coalitions: what predictions leave of fewer does not say how sure it is."""

MOST = 1024
"""Coalitions that a surrogate is fitted to at most."""

REACH = 2.0
"""γ: at 0 the surrogate is additive, larger values let more segments act together."""

RIDGE = 0.03
"""Of the kernel ridge regression, as a share of the kernel's diagonal."""


def predicted(kept: Tensor, half: Tensor, weights: Tensor, fixed: int) -> Tensor:
    """What surrogates that have no Shapley values say of pairs of coalitions.

    A surrogate is an odd function of the signs ``s = 2 z − 1``,
    ``f(s) = Σ_i α_i sinh(γ Σ_j a_j s_j s_ij)``, fitted by kernel ridge regression to what an
    additive game leaves of the scores; ``a_j`` is the share of segment j in that game. Each term is
    a difference of products over the segments, so that its Shapley values follow exactly from the
    multilinear extension (Owen, 1972): ``φ_j = α_i s_ij sinh(γ a_j) ∫_{−1}^{1} Π_{l≠j}
    (cosh γ a_l + t s_il sinh γ a_l) dt``, a polynomial of degree M − 1 that Gauss–Legendre
    quadrature integrates without error. The additive game with these values is taken off.

    What is predicted for a coalition that was drawn comes from others, so that taking it from the
    scores changes no Shapley value in expectation, however bad the surrogate is.

    Args:
        kept: One coalition of each pair, float64 ``[pairs, features]``.
        half: Half of what its score is above that of its complement, ``[pairs]``.
        weights: Of the regression, ``[pairs]``.
        fixed: How many of the pairs, the first, were not drawn.

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
        # those that were not drawn see all surrogates, each as much as its fold weighs
        ask = mine.clone()
        ask[:fixed] = True
        said = _fitted(signs[others], half[others], weights[others], signs[ask])
        share = (fold == k).double().mean()
        found[:fixed] += share * said[:fixed]
        found[mine] = said[fixed:]
    return found


def _fitted(signs: Tensor, values: Tensor, weights: Tensor, asked: Tensor) -> Tensor:
    """What a surrogate of these values, without Shapley values, says of other coalitions."""
    gram = signs.T @ (signs * weights[:, None])
    # so little that an additive game leaves nothing
    gram.diagonal().add_(1e-9 * gram.diagonal().mean())
    additive = torch.linalg.solve(gram, signs.T @ (weights * values))
    size = additive.abs()
    if not size.any():
        return asked.new_zeros(len(asked))
    reach = REACH * size / size.sum()
    kernel = torch.sinh((signs * reach) @ signs.T)
    top = float(np.sinh(REACH))
    kernel.diagonal().add_(RIDGE * top / weights)
    factors = torch.linalg.solve(kernel, values - signs @ additive)
    shapley = factors @ _shapley(signs, reach)
    said: Tensor = torch.sinh((asked * reach) @ signs.T) @ factors - asked @ shapley / 2
    return said


def _shapley(signs: Tensor, reach: Tensor) -> Tensor:
    """Shapley values of ``sinh(Σ_j reach_j s_j s_ij)`` for each i, ``[i, features]``."""
    nodes, parts = np.polynomial.legendre.leggauss(len(reach) // 2 + 1)
    slope = torch.tanh(reach)
    total = torch.zeros_like(signs)
    for node, part in zip(nodes.tolist(), parts.tolist(), strict=True):
        factor = 1 + node * signs * slope
        total += part * factor.prod(1, keepdim=True) / factor
    return total * signs * slope * torch.cosh(reach).prod()
