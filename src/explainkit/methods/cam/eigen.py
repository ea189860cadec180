"""Maps of the first principal component of a layer's output."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from explainkit.engine.passes import activations
from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, GradientCAM, precise

Kernel = Literal["sigmoid", "rbf", "linear"]


def _centered(values: Tensor) -> Tensor:
    """Positions ``[batch, position, channel]`` of a map, minus their mean."""
    positions = values.flatten(2).transpose(1, 2)
    return positions - positions.mean(1, keepdim=True)


def _each_alone(compute: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Applies a function to each image, ``[1, …]``, in memory of its own.

    Matrix routines round differently, depending on where the memory of an image begins.
    """
    return torch.cat([compute(one.clone()) for one in torch.split(values, 1)])


def _projected(positions: Tensor) -> Tensor:
    """``[batch, position, channel]`` projected on its first right singular vector, up to the sign.

    Computed from the smaller of the two Gram matrices.
    """
    count, channels = positions.shape[1:]
    if count <= channels:
        return _principal(positions @ positions.mT)
    direction: Tensor = torch.linalg.eigh(positions.mT @ positions).eigenvectors[..., -1:]
    return (positions @ direction)[..., 0]


def _principal(gram: Tensor) -> Tensor:
    """``√λ u`` of the largest eigenvalue λ ≥ 0 and its eigenvector, ``[batch, position]``."""
    values, vectors = torch.linalg.eigh(gram)
    found: Tensor = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    return found


def _signed(projection: Tensor, reference: Tensor) -> Tensor:
    """The projection, with the sign that correlates it positively with a reference map."""
    agreement = (projection * (reference - reference.mean(1, keepdim=True))).sum(1, keepdim=True)
    return torch.where(agreement < 0, -projection, projection)


@dataclass(frozen=True)
class _ActivationCAM(CAM):
    """A map computed from a layer's output alone, the same for every target."""

    def combine(self, values: Tensor) -> Tensor:
        """The map ``[batch, height, width]`` of an output ``[batch, channel, height, width]``."""
        raise NotImplementedError

    def __call__(self, model: nn.Module, inputs: Tensor, _target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed."""
        layers = self.layers(model, inputs)
        found = activations(model, inputs, layers)
        maps = {}
        for path in layers:
            layout = self.layout(found[path], path, model, inputs)
            maps[path] = layout, self.combine(precise(layout.to_nchw(found[path])))
        placed = self.placed(model, inputs, maps)
        return placed.saying(uses_target=False)


@dataclass(frozen=True)
class EigenCAM(_ActivationCAM):
    """The first principal component of a layer's output. It ignores the target.

    ``L[p] = (A[:, p] − mean_q A[:, q]) · v`` with v the first right singular vector of the
    ``[position, channel]`` matrix on the left, in units of the layer's output. The sign of a
    singular vector is arbitrary; it is chosen so that the map correlates positively with
    ``Σ_k |A[k, p]|``.
    The paper does not subtract the mean (``centered=False``); its code and other libraries do.

    Attributes:
        centered: Subtract the mean over the spatial positions.
        layer: As in `GradCAM`, like all other fields.

    References:
        Muhammad and Yeasin (2020), "Eigen-CAM: Class Activation Map using Principal Components",
        arXiv:2008.00299.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "eigencam")
        >>> e.diagnostics["uses_target"]
        False
    """

    centered: bool = True

    def combine(self, values: Tensor) -> Tensor:
        """``A v``."""
        positions = _centered(values) if self.centered else values.flatten(2).transpose(1, 2)
        found = _signed(_each_alone(_projected, positions), values.abs().sum(1).flatten(1))
        return found.view(values[:, 0].shape)


@dataclass(frozen=True)
class KPCACAM(_ActivationCAM):
    """The first kernel principal component of a layer's output. It ignores the target.

    ``L[p] = √λ u[p]`` of the largest eigenvalue λ and its eigenvector u of the centered kernel
    matrix over positions, ``K[p, q] = κ(a_p, a_q)`` of outputs ``a_p = A[:, p] − mean_q A[:, q]``.
    κ is ``tanh(γ a·b + 1)`` (sigmoid), ``exp(−γ |a − b|²)`` (rbf), or ``a·b`` (linear: EigenCAM).
    The sign is chosen as in `EigenCAM`. Memory grows with the square of the number of positions,
    time with its cube.

    Attributes:
        kernel: κ: ``"sigmoid"``, ``"rbf"`` or ``"linear"``.
        gamma: γ; None: one over the number of channels.
        layer: As in `GradCAM`, like all other fields.

    References:
        Karmani, Sivakaran, Prasad, Ali, Yang and Tang (2024), "KPCA-CAM: Visual Explainability of
        Deep Computer Vision Models using Kernel PCA", arXiv:2410.00267.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> ek.explain(*toy_models()["plain"], 0, "kpca_cam", kernel="rbf").attribution.shape
        torch.Size([4, 1, 12, 10])
    """

    kernel: Kernel = "sigmoid"
    gamma: float | None = field(default=None, metadata={"above": 0, "below": torch.inf})

    def combine(self, values: Tensor) -> Tensor:
        """``√λ u``."""
        # centering subtracts nearly equal numbers
        projected = _each_alone(self._component, _centered(values.double()))
        found = _signed(projected, values.double().abs().sum(1).flatten(1))
        return found.to(values.dtype).view(values[:, 0].shape)

    def _component(self, positions: Tensor) -> Tensor:
        kernel = self._kernel(positions)
        over_rows = kernel.mean(1, keepdim=True)
        return _principal(kernel - over_rows - over_rows.mT + over_rows.mean(2, keepdim=True))

    def _kernel(self, positions: Tensor) -> Tensor:
        products = positions @ positions.mT
        gamma = 1 / positions.shape[2] if self.gamma is None else self.gamma
        match self.kernel:
            case "sigmoid":
                return torch.tanh(gamma * products + 1)
            case "rbf":
                squares = products.diagonal(dim1=1, dim2=2)
                return torch.exp(-gamma * (squares[:, :, None] + squares[:, None] - 2 * products))
            case "linear":
                return products


@dataclass(frozen=True)
class EigenGradCAM(GradientCAM):
    """The first principal component of gradient times activation: EigenCAM for a class.

    As `EigenCAM` with ``g[k, p] · A[k, p]`` in place of ``A[k, p]``; in units of the score. The
    sign is chosen so that the map correlates positively with HiResCAM's, ``Σ_k g A``.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Gildenblat and contributors (2021), "PyTorch library for CAM methods",
        github.com/jacobgil/pytorch-grad-cam; after Muhammad and Yeasin (2020), arXiv:2008.00299.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> ek.explain(*toy_models()["plain"], 0, "eigengradcam").attribution.shape
        torch.Size([4, 1, 12, 10])
    """

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """``(g A) v``."""
        shares = grads * activations
        projected = _each_alone(_projected, _centered(shares))
        found = _signed(projected, shares.sum(1).flatten(1))
        return found.view(shares[:, 0].shape)
