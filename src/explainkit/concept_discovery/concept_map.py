"""A concept as a map over images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from explainkit.api import explain
from explainkit.concept_discovery.importance import concept_maps
from explainkit.engine.passes import activations
from explainkit.errors import MethodError, ModelError
from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, precise
from explainkit.results.concepts import Concepts
from explainkit.results.explanation import Explanation


@dataclass(frozen=True, kw_only=True)
class ConceptMap(CAM):
    """A concept's weights at the positions of a layer. It ignores the target.

    ``u_k[p] ≥ 0`` of ``A[p] ≈ Σ_k u_k[p] w_k``: the weights from 0 with which all concepts together
    best make up the layer's output (non-negative least squares), in units of that output. Positions
    that no score reads are drawn, too.

    Attributes:
        directions: W, the concepts ``[n, channel]``, of length 1.
        concept: k.
        layer: As in `GradCAM`, like all other fields; one only.

    References:
        Fel et al. (2023), "CRAFT: Concept Recursive Activation FacTorization for Explainability",
        arXiv:2211.10154.
    """

    directions: Tensor
    concept: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions.dim() != 2:
            raise MethodError(
                f"directions: expected [n, channel], got {list(self.directions.shape)}"
            )
        if not 0 <= self.concept < len(self.directions):
            raise MethodError(
                f"concept: expected 0 to {len(self.directions) - 1}, got {self.concept}"
            )

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:  # noqa: ARG002
        """Returns ``[batch, 1, height, width]``, not negative."""
        layers = self.layers(model, inputs)
        if len(layers) > 1:
            raise MethodError(f"layer: expected one, got {', '.join(layers)}")
        (path,) = layers
        value = activations(model, inputs, layers)[path]
        layout = self.layout(value, path, model, inputs)
        maps = precise(layout.to_nchw(value)).permute(0, 2, 3, 1)
        found = concept_maps(maps, self.directions.to(maps))[:, self.concept]
        drawn = self.placed(model, inputs, {path: (layout, found)}, unread=True)
        return drawn.saying(uses_target=False)


def map_of(
    concepts: Concepts,
    k: int,
    images: Any,
    model: str | Path | nn.Module | None,
    source: Callable[[], nn.Module | None] | None,
) -> Explanation:
    """A concept over images; see `Concepts.map`.

    Args:
        concepts: The concepts.
        k: Which one.
        images: As `explain` takes them.
        model: Their model; None: that of the source.
        source: Gives the model, or None if the caller no longer holds it.

    Raises:
        ModelError: There is no model.
    """
    module = model if model is not None or source is None else source()
    if module is None:
        why = "loaded concepts have none" if source is None else "it no longer exists"
        raise ModelError(f"expected the model of these concepts: {why}, so give it as model=")
    method = ConceptMap(layer=concepts.layer, directions=concepts.directions, concept=k)
    found: Explanation = explain(
        module, images, concepts[k], method, output=concepts.output, task=concepts.task,
        class_names=concepts.class_names or None,
    )  # fmt: skip
    # titles name what differs from the defaults
    return replace(found, params={"concept": k})
