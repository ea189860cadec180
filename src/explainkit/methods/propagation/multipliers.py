"""Multipliers: the exact counterpart of gradients for a finite change from a baseline.

For an operator with input ``x``, and ``x₀`` on the baseline, a multiplier ``m`` satisfies
``Δy = m · Δx`` exactly. For linear operators it is the gradient; for a scalar function it is
``Δy / Δx``; for a product each factor is multiplied by the average of the other, since
``Δ(ab) = Δa · (b + b₀)/2 + Δb · (a + a₀)/2``; everything else is composed of these.
"""

from typing import Any

import torch
from torch import Tensor

from explainkit.graph.backward import Gradients, Operator
from explainkit.graph.names import BATCH_NORMS
from explainkit.graph.tape import Record

SMALL = 1e-10
"""Below this change the gradient is used: the quotient would be rounding noise."""

_POWERS = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


def unary(operator: Operator, record: Record, base: Record, gradient: Tensor) -> Tensor:
    """``g · Δy / Δx``, or the gradient where ``x`` hardly changes."""
    x, x_base, y, y_base = record.tensors[0], base.tensors[0], record.output, base.output
    # in closed form, where the quotient would lose digits
    match _POWERS.get(record.argument(1)) if record.name == "pow" else record.name:
        case "relu":
            return _relu(x, x_base, gradient)
        case "square":
            return (x + x_base).mul_(gradient)
        case "sqrt":
            return gradient / (y + y_base).clamp_(min=SMALL)
        case "reciprocal":
            return (y * y_base).mul_(-gradient)
        case "rsqrt":
            both = y * y_base
            return (both / (y + y_base)).mul_(both).mul_(-gradient)
    change = x - x_base
    unchanged = change.abs() < SMALL
    found = (y - y_base).div_(change.masked_fill_(unchanged, 1.0)).mul_(gradient)
    if not unchanged.any():
        return found
    own = next(g for g in operator.gradient(gradient) if g is not None)
    return torch.where(unchanged, own, found)


def _relu(x: Tensor, x_base: Tensor, gradient: Tensor) -> Tensor:
    """``Δy / Δx`` of a ReLU is ``max(x, x₀) / |x − x₀|`` between 0 and 1.

    Where nothing changes, the quotient is ±∞, which the bounds turn into the gradient: 0 or 1. This
    needs half the passes over memory of the general form, on the largest maps of a network.
    """
    change = (x - x_base).abs_()
    found = torch.maximum(x, x_base).div_(change).clamp_(0, 1)
    return found.nan_to_num_(0.0).mul_(gradient)  # 0 / 0 at x = x₀ = 0


def product(
    operator: Operator, record: Record, base: Record, gradient: Tensor, scale: int | None
) -> Gradients:
    """The gradient of each factor, with the other factor at its average.

    If one factor is a reciprocal ``r``, the product is a quotient, and `quotient` in terms of ``r``
    is: the other factor's multiplier is the harmonic mean of ``r`` and ``r₀`` (their arithmetic
    mean would grow without bound where a denominator vanishes on the baseline), and that of ``r``
    is the mean of the two quotients divided by the mean of ``r`` and ``r₀``.

    Args:
        operator: The operator.
        record: Its call on the image.
        base: Its call on the baseline.
        gradient: The multiplier of its output.
        scale: The factor that is a reciprocal, 0 or 1; None: neither.
    """
    *offset, left, right = record.tensors
    *_, left_base, right_base = base.tensors
    means = [(left + left_base) / 2, (right + right_base) / 2]
    elementwise = record.name in {"mul", "addcmul"}
    weight = record.options.get("value" if elementwise else "alpha", 1)
    scaled = gradient if weight == 1 else gradient * weight
    if elementwise and scale is not None:
        r, r_base = ((left, left_base), (right, right_base))[scale]
        both, mean = r * r_base, means[scale]
        same = both > 0
        mean = torch.where(same, mean, 1.0)
        products = (left * right + left_base * right_base) / 2
        means[1 - scale] = torch.where(same, products / mean, means[1 - scale])
        means[scale] = torch.where(same, both / mean, means[scale])
    if elementwise:
        factors = (_fit(scaled * means[1], left.shape), _fit(scaled * means[0], right.shape))
    else:
        factors = (scaled @ means[1].transpose(-1, -2), means[0].transpose(-1, -2) @ scaled)
    if offset:
        own = _fit(gradient * record.options.get("beta", 1), offset[0].shape)
        return (own if operator.depends[0] else None, *factors)
    return factors


def gate(record: Record, base: Record, gradient: Tensor) -> Tensor:
    """``a · σ(b)`` of the two halves of a tensor: a product, and the multiplier of the sigmoid."""
    axis = record.argument(1, -1)
    (a, b), (a_base, b_base) = (r.tensors[0].chunk(2, axis) for r in (record, base))
    open_, open_base = b.sigmoid(), b_base.sigmoid()
    slope = ratio(open_ - open_base, b - b_base, open_ * (1 - open_))
    halves = (gradient * (open_ + open_base) / 2, gradient * (a + a_base) / 2 * slope)
    return torch.cat(halves, axis)


def quotient(operator: Operator, record: Record, base: Record, gradient: Tensor) -> Gradients:
    """``q = a / b`` from ``Δa = Δq · (b + b₀)/2 + Δb · (q + q₀)/2``.

    If b changes its sign, as a product of ``a`` and ``1 / b``, whose multiplier is ``−1 / (b b₀)``.
    """
    top, bottom = _pair(record)
    top_base, bottom_base = _pair(base)
    both = bottom * bottom_base
    same = both > 0
    total = torch.where(same, bottom + bottom_base, 1)
    reciprocal = torch.where(same, 2 / total, (1 / bottom + 1 / bottom_base) / 2)
    ratios = (top / bottom + top_base / bottom_base) / total
    below = -gradient * torch.where(same, ratios, (top + top_base) / 2 / both)
    found = (
        _fit(gradient * reciprocal, top.shape) if operator.depends[0] else None,
        _fit(below, bottom.shape),
    )
    return found[: len(operator.depends)]


def _pair(record: Record) -> tuple[Tensor, Tensor]:
    top, bottom = record.argument(0), record.argument(1)
    return top if isinstance(top, Tensor) else bottom.new_tensor(top), bottom


def maximum(operator: Operator, record: Record, base: Record, gradient: Tensor) -> Gradients | None:
    """The change is passed to the element that is the larger of the two maxima.

    That element's own change has the sign of the maximum's and at least its size, so the
    multiplier lies between 0 and 1. None for an unknown variant.
    """
    if record.name in {"maximum", "minimum"} or len(record.tensors) == 2:
        return _pairwise(operator, record, base, gradient)
    x, x_base = record.tensors[0], base.tensors[0]
    smallest = record.name in {"amin", "min"}
    if "pool" in record.name:
        dims = next(d for d in (1, 2, 3) if f"pool{d}d" in record.name)
        flat, flat_base = x.flatten(-dims), x_base.flatten(-dims)
        indices = record.outputs[1].flatten(-dims)
        indices_base = base.outputs[1].flatten(-dims)
        out, out_base = record.output.flatten(-dims), base.output.flatten(-dims)
        g = gradient.flatten(-dims)
        found = _to_winner(flat, flat_base, out, out_base, indices, indices_base, g, smallest=False)
        return (found.reshape(x.shape),)
    axes = record.argument(1, [])
    axes = [axes] if isinstance(axes, int) else list(axes or [])
    if not axes:
        return None
    axes = [axis % x.dim() for axis in axes]
    kept = [axis for axis in range(x.dim()) if axis not in axes]
    order = kept + axes
    moved, moved_base = (t.permute(order).flatten(len(kept)) for t in (x, x_base))
    pick = torch.argmin if smallest else torch.argmax
    indices, indices_base = (pick(t, -1, keepdim=True) for t in (moved, moved_base))
    out, out_base = moved.gather(-1, indices), moved_base.gather(-1, indices_base)
    keepdim = bool(record.argument(2, False))
    g = gradient
    if keepdim:
        g = g.permute(order).flatten(len(kept)).squeeze(-1)
    found = _to_winner(
        moved, moved_base, out, out_base, indices, indices_base, g[..., None], smallest=smallest
    )
    shape = [x.shape[axis] for axis in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    return (found.reshape(shape).permute(back),)


def _to_winner(
    x: Tensor,
    x_base: Tensor,
    out: Tensor,
    out_base: Tensor,
    indices: Tensor,
    indices_base: Tensor,
    gradient: Tensor,
    *,
    smallest: bool,
) -> Tensor:
    """Scatters the multipliers along the last axis, to the element that attains the maximum."""
    first = out <= out_base if smallest else out >= out_base
    chosen = torch.where(first, indices, indices_base.expand_as(indices))
    change = x.gather(-1, chosen) - x_base.expand_as(x).gather(-1, chosen)
    multiplier = ratio(out - out_base, change, 1.0)
    return torch.zeros_like(x).scatter_add_(-1, chosen, gradient * multiplier)


def _pairwise(operator: Operator, record: Record, base: Record, gradient: Tensor) -> Gradients:
    """The elementwise maximum (or minimum) of two tensors."""
    (a, b), (a_base, b_base) = _pair(record), _pair(base)
    out, out_base = record.output, base.output
    smallest = "min" in record.name
    from_a = torch.where(
        out <= out_base if smallest else out >= out_base, a == out, a_base == out_base
    )
    change = torch.where(from_a, a - a_base, b - b_base)
    share = gradient * ratio(out - out_base, change, 1.0)
    found = (_fit(share * from_a, a.shape), _fit(share * ~from_a, b.shape))
    return tuple(g if wanted else None for g, wanted in zip(found, operator.depends, strict=True))


def softmax(record: Record, base: Record, gradient: Tensor) -> Tensor:
    """Softmax, log-softmax and logsumexp, by logarithmic means.

    With ``L = (p − p₀) / (log p − log p₀)`` and ``w = L / ΣL``, ``Δ log Σeˣ = Σ w Δx`` and
    ``Δp = L (Δx − Σ w Δx)`` hold exactly, because ``ΣΔp = 0``. These are the derivatives with
    ``w`` in place of ``p``. So what is added to all inputs alike, which changes no output, has no
    share, and neither has an input whose probability is zero.
    """
    x = record.tensors[0]
    mean, weights = _weights(record, base, record.argument(1))
    match record.name:
        case "logsumexp":
            return _unreduced(gradient, record, 1, x.dim()) * weights
        case "_log_softmax":
            axes = record.argument(1)
            return gradient - weights * gradient.sum(axes, keepdim=True)
    return mean * (gradient - (weights * gradient).sum(record.argument(1), keepdim=True))


def exponential_quotient(record: Record, base: Record, axes: Any, gradient: Tensor) -> Tensor:
    """A softmax that is written as the quotient of an exponential and its sum.

    Args:
        record: The call of the exponential.
        base: The same on the baseline.
        axes: Those of the sum.
        gradient: The multiplier of the quotient.
    """
    mean, weights = _weights(record, base, axes)
    return mean * (gradient - (weights * gradient).sum(axes, keepdim=True))


def _weights(record: Record, base: Record, axes: Any) -> tuple[Tensor, Tensor]:
    """``L`` and ``w`` of the inputs of a softmax."""
    logs = [x - x.logsumexp(axes, keepdim=True) for x in (record.tensors[0], base.tensors[0])]
    mean = _logarithmic_mean(*logs)
    return mean, mean / mean.sum(axes, keepdim=True).clamp(min=SMALL)


def _logarithmic_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``(p − q) / (log p − log q)`` of the logarithms of p and q; 0 where one of them is zero."""
    ratio = (log_p - log_q).abs()
    shrink = torch.where(ratio > 0, -torch.expm1(-ratio) / ratio, 1.0)
    return (torch.maximum(log_p, log_q).exp() * shrink).nan_to_num(0.0)


def norm(record: Record, base: Record, gradient: Tensor) -> Tensor | None:
    """Normalizations, as difference from the mean, square, mean, reciprocal root and product.

    None for an unknown variant.
    """
    x, x_base = record.tensors[0], base.tensors[0]
    name = record.name
    if name == "linalg_vector_norm":
        if record.argument(1, 2) != 2:
            return None
        gradient, total = (_unreduced(t, record, 2, x.dim()) for t in (gradient, record.output))
        total_base = _unreduced(base.output, base, 2, x.dim())
        return gradient * (x + x_base) / (total + total_base).clamp(min=SMALL)
    if name in {"var", "std"}:
        return _variance(record, base, gradient)
    if name == "native_group_norm":
        groups, eps = record.argument(6), record.argument(7)
        weight = record.argument(1)
        scale = 1.0 if weight is None else weight.reshape(1, -1, *[1] * (x.dim() - 2))
        shape = (-1, groups, x.shape[1] // groups, *x.shape[2:])
        x_in, base_in, g = (t.reshape(shape) for t in (x, x_base, gradient * scale))
        axes = list(range(2, x_in.dim()))
        return _normalized(x_in, base_in, g, axes, eps, centered=True).reshape(x.shape)
    if name in BATCH_NORMS:
        if x.shape[0] != 1:
            return None  # batch statistics mix the images
        weight = record.argument(1)
        scale = 1.0 if weight is None else weight.reshape(1, -1, *[1] * (x.dim() - 2))
        axes = [0, *range(2, x.dim())]
        eps = record.argument(7, 1e-5)
        return _normalized(x, x_base, gradient * scale, axes, eps, centered=True)
    weight = record.argument(2)
    axes = [-1 - axis for axis in range(len(record.argument(1)))]
    eps = record.argument(4 if name == "native_layer_norm" else 3)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    g = gradient if weight is None else gradient * weight
    return _normalized(x, x_base, g, axes, eps, centered=name == "native_layer_norm")


def _normalized(
    x: Tensor, x_base: Tensor, gradient: Tensor, axes: list[int], eps: float, *, centered: bool
) -> Tensor:
    if centered:
        x, x_base = x - x.mean(axes, keepdim=True), x_base - x_base.mean(axes, keepdim=True)
    root = (x.square().mean(axes, keepdim=True) + eps).sqrt()
    root_base = (x_base.square().mean(axes, keepdim=True) + eps).sqrt()
    # from x = y·root: Δx = Δy · mean root + mean y · Δroot, which has no large terms that cancel
    # if one root is close to zero, as on a constant baseline
    total = root + root_base
    count = x.numel() // root.numel()
    middle = gradient * (x / root + x_base / root_base)
    crossed = middle.sum(axes, keepdim=True) / total.square() * (x + x_base) / count
    found = gradient * 2 / total - crossed
    return found - found.mean(axes, keepdim=True) if centered else found


def statistics(
    record: Record, base: Record, spread: Tensor | None, mean: Tensor | None
) -> Tensor | None:
    """``var_mean`` and ``std_mean``, given the multipliers of their two results."""
    x = record.tensors[0]
    found = None if spread is None else _variance(record, base, spread)
    if spread is not None and found is None:
        return None
    if mean is not None:
        mean = _unreduced(mean, record, 1, x.dim())
        mean = (mean * (mean.numel() / x.numel())).expand_as(x)
    return mean if found is None else found if mean is None else found + mean


def _variance(record: Record, base: Record, gradient: Tensor) -> Tensor | None:
    """Variance and standard deviation."""
    x, x_base = record.tensors[0], base.tensors[0]
    axes = record.argument(1)
    if axes is None or isinstance(axes, bool):
        return None
    axes = [axes] if isinstance(axes, int) else list(axes)
    correction = record.options.get("correction", 1)
    gradient = _unreduced(gradient, record, 1, x.dim())
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    middle = (x + x_base) / 2
    middle = middle - middle.mean(axes, keepdim=True)
    found = gradient * 2 * middle / max(count - (1 if correction is None else correction), 1)
    if record.name.startswith("std"):
        total = _unreduced(record.output, record, 1, x.dim()) + _unreduced(
            base.output, base, 1, x.dim()
        )
        found = found / total.clamp(min=SMALL)
    return found


def _unreduced(tensor: Tensor, record: Record, index: int, dim: int) -> Tensor:
    """Restores the axes that a reduction removed."""
    axes = record.argument(index)
    keepdim = bool(record.options.get("keepdim", record.argument(index + 1, False)))
    if keepdim or axes is None:
        return tensor
    axes = [axes] if isinstance(axes, int) else list(axes)
    for axis in sorted(axis % dim for axis in axes):
        tensor = tensor.unsqueeze(axis)
    return tensor


def ratio(change: Tensor, of: Tensor, otherwise: Tensor | float) -> Tensor:
    """``change / of``; something else where ``of`` is nearly zero."""
    small = of.abs() < SMALL
    return torch.where(small, otherwise, change / torch.where(small, 1.0, of))


def _fit(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Sums over broadcast axes."""
    return gradient.sum_to_size(shape) if gradient.shape != shape else gradient
