"""What the scores lose when a concept is removed from a layer."""

import torch
from torch import Tensor

from explainkit.concept_discovery.factorize import encode
from explainkit.concept_discovery.layer import LayerMaps


class Effects:
    """The effects of concepts on the scores, collected over chunks of images.

    A layer's output is ``A = U W + R``: the concepts ``u_k w_k``, and what they leave out. The
    effect of concept k on an image's score is ``s(A) − s(A − u_k w_k)``.

    Args:
        directions: W, ``[n, channel]``, of length 1.
    """

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions
        self._count = 0
        self._sum = self._squares = torch.zeros(())
        self._lost = self._whole = 0.0

    def add(self, layer: LayerMaps, maps: Tensor) -> Tensor:
        """Adds the images of the last `LayerMaps.maps`.

        Args:
            layer: The layer.
            maps: Its output, ``[batch, height, width, channel]``.

        Returns:
            The weights U of each concept, ``[batch, n, height, width]``.
        """
        weights = concept_maps(maps, self.directions)
        each = torch.arange(len(maps), device=maps.device)
        whole = layer.scores(maps, each)
        losses = []
        for k, direction in enumerate(self.directions):  # one at a time: n times less memory
            without = maps - weights[:, k, :, :, None] * direction
            losses.append(whole - layer.scores(without, each))
        effect = torch.stack(losses, 1)
        built = torch.einsum("bnhw,nc->bhwc", weights, self.directions)
        self._lost += float((whole - layer.scores(built, each)).abs().sum())
        self._whole += float((whole - layer.scores(torch.zeros_like(maps), each)).abs().sum())
        self._count += len(maps)
        self._sum = self._sum.to(effect) + effect.sum(0)
        self._squares = self._squares.to(effect) + effect.square().sum(0)
        return weights

    @property
    def importance(self) -> Tensor:
        """Mean effect over images, ``[n, class]``."""
        return self._sum / self._count

    @property
    def standard_error(self) -> Tensor:
        """Of `importance`, ``[n, class]``; NaN for a single image."""
        variance = (self._squares / self._count - self.importance.square()).clamp_min(0)
        return (variance / (self._count - 1)).sqrt()

    @property
    def size(self) -> Tensor:
        """Root mean square of each concept's effect over images and classes, ``[n]``."""
        return (self._squares / self._count).mean(1).sqrt()

    @property
    def unexplained(self) -> float:
        """The share of the layer's effect that is lost when concepts take the place of its output.

        ``Σ |s(A) − s(U W)| / Σ |s(A) − s(0)|`` over images and classes; NaN if the layer has no
        effect.
        """
        return self._lost / self._whole if self._whole else float("nan")


def concept_maps(maps: Tensor, directions: Tensor) -> Tensor:
    """The weights of concepts in a layer's output, ``[batch, n, height, width]``.

    Args:
        maps: ``[batch, height, width, channel]``.
        directions: ``[n, channel]``, of length 1.
    """
    weights = encode(maps.flatten(0, 2), directions)
    return weights.reshape(*maps.shape[:3], len(directions)).permute(0, 3, 1, 2)
