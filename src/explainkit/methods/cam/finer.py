"""Finer-CAM: what distinguishes a class from similar ones."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.model import ScoreModel
from explainkit.engine.passes import Needs
from explainkit.errors import MethodError, TargetError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.cam.base import as_gradient_cam
from explainkit.methods.cam.gradient import GradCAM
from explainkit.scores import class_index


@dataclass(frozen=True)
class FinerCAM(Typed):
    """A gradient CAM of the difference between a class's score and those of similar classes.

    The CAM named by ``base`` explains ``S_c − α Σ_j p_j S_j / Σ_j p_j``, where j runs over the
    classes whose scores are nearest to S_c and p is the softmax of the scores, taken as fixed
    weights. Channels that support all of these classes equally cancel. Units as those of the base.

    Attributes:
        base: A gradient CAM, which sets the layer and the placement.
        strength: α: 0 is the base itself, 1 subtracts the full scores of the similar classes.
        similar: Number of similar classes; all others if the model has fewer.
        against: The classes to compare with instead, as indices or names, the same for all images.

    Raises:
        TargetError: A class to compare with does not exist or is explained itself, or there is no
            other class: one score alone, or labels that do not exclude each other.

    References:
        Zhang, Gu, Chowdhury, Mai, Carlyn, Berger-Wolf, Su and Chao (2025), "Finer-CAM: Spotting the
        Difference Reveals Finer Details for Visual Explanation", arXiv:2501.11309.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.methods.cam.gradient import LayerCAM
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "finercam", base=LayerCAM(layer="1"))
        >>> e.layer, e.diagnostics["similar"].shape
        ('1', torch.Size([4, 3]))
    """

    volumes: ClassVar[bool] = True

    base: Method = field(default_factory=GradCAM)
    strength: float = field(default=1.0, metadata={"least": 0, "below": torch.inf})
    similar: int = field(default=3, metadata={"least": 1})
    against: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        as_gradient_cam(self.base)
        if self.against is not None and not self.against:
            raise MethodError("against: expected classes, got none: omit it for the most similar")

    def needs(self, model: nn.Module, inputs: Tensor) -> Needs:
        """Those of its base."""
        return as_gradient_cam(self.base).needs(model, inputs)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed; the similar classes in diagnostics."""
        with torch.no_grad():
            scores = model(inputs)
        if scores.shape[1] < 2:
            raise TargetError(
                "expected a class among others to compare with, got a model or a target function "
                "with one score: explain a class, or use gradcam"
            )
        if isinstance(model, ScoreModel) and model.outputs.task == "multilabel":
            raise TargetError(
                "expected classes that exclude each other, got labels of a multi-label model, of "
                "which each is decided by itself: use gradcam, or with it a difference such as "
                "target='logit(3) - logit(5)'"
            )
        if self.against is None:
            similar = self._nearest(scores, target)
        else:
            similar = self._given(self.against, model, scores, target)
        # a softmax over the similar classes alone: the same ratios without underflow
        shares = scores.gather(1, similar).softmax(1)
        weights = torch.zeros_like(scores).scatter(1, similar, -self.strength * shares)
        found = as_gradient_cam(self.base).of_score(
            model, inputs, weights.scatter(1, target[:, None], 1.0)
        )
        return found.saying(similar=similar)

    def _nearest(self, scores: Tensor, target: Tensor) -> Tensor:
        """The classes whose scores are nearest to that of the target, ``[batch, similar]``."""
        own = scores.gather(1, target[:, None])
        distance = (scores - own).abs().scatter(1, target[:, None], torch.inf)
        count = min(self.similar, scores.shape[1] - 1)
        return distance.sort(stable=True, dim=1).indices[:, :count]

    @staticmethod
    def _given(
        against: tuple[int | str, ...], model: nn.Module, scores: Tensor, target: Tensor
    ) -> Tensor:
        """The given classes for each image, ``[batch, classes]``."""
        names = model.outputs.class_names if isinstance(model, ScoreModel) else ()
        given = [class_index(one, scores.shape[1], names) for one in against]
        classes = torch.tensor(list(dict.fromkeys(given)), device=scores.device)
        itself = target[torch.isin(target, classes)].tolist()
        if itself:
            raise TargetError(
                f"against: expected classes other than the explained one, got class {itself[0]}"
            )
        return classes.expand(len(scores), -1)
