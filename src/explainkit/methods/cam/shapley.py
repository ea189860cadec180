"""Shapley-CAM: Grad-CAM with second-order weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.engine.passes import Needs, scored, shared
from explainkit.errors import ModelError
from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, check_reached, precise
from explainkit.methods.cam.gradient import weighted
from explainkit.methods.cam.layout import spatial_axes


@dataclass(frozen=True)
class ShapleyCAM(CAM):
    """Grad-CAM with second-order weights that approximate Shapley values of channels.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = mean_p(g[k, p] − (H A)[k, p] / 2)``, where H is the
    Hessian of the score with respect to the layer's output; only a Hessian-vector product is
    computed. In units of the score. If the score is piecewise linear in the layer's output, H is 0
    and the map equals Grad-CAM.

    Attributes:
        layer: As in `GradCAM`, like all fields.

    References:
        Cai (2025), "CAMs as Shapley Value-based Explainers", arXiv:2501.06261. The paper prefers
        the score ``S_c + log softmax(S)_c``: pass that as a target function.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, "shapleycam")
        >>> e.layer, e.diagnostics["patch_grid"]
        ('blocks.0', [6, 5])
    """

    def needs(self, model: nn.Module, inputs: Tensor) -> Needs:
        """The outputs of the layers, in a graph that can be differentiated twice."""
        return Needs(layers=self.layers(model, inputs), twice=True)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed."""
        layers = self.layers(model, inputs)
        forward = scored(model, inputs, layers, twice=True)
        score = forward.scores.gather(1, target[:, None]).sum()
        maps = {}
        for i, path in enumerate(layers):
            value = forward.activations[path]
            keep = shared(model) or i + 1 < len(layers)
            slope, curvature = _derivatives(score, value, path, keep)
            layout = self.layout(value, path, model, inputs)
            check_reached(slope, layout, path)
            value, slope, curvature = (
                precise(layout.to_nchw(part)) for part in (value.detach(), slope, curvature)
            )
            weights = (slope - curvature / 2).mean(spatial_axes(slope))
            maps[path] = layout, weighted(weights, value)
        return self.placed(model, inputs, maps)


def _derivatives(score: Tensor, value: Tensor, path: str, keep: bool) -> tuple[Tensor, Tensor]:
    """The gradient g of the score with respect to a layer's output A, and H A."""
    slope = None
    if score.requires_grad and value.requires_grad:
        (slope,) = torch.autograd.grad(score, value, create_graph=True, allow_unused=True)
    if slope is None:
        raise ModelError(
            f"expected a score that depends on layer {path!r}, but no gradient reaches it: look "
            "for detach() or no_grad() in the model, or name a layer on the way to the score"
        )
    curvature = None
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(
            slope, value, value.detach(), allow_unused=True, retain_graph=keep
        )
    return slope.detach(), torch.zeros_like(slope) if curvature is None else curvature
