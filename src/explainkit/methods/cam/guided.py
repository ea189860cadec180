"""Guided Grad-CAM: guided backpropagation masked by a class activation map."""

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from explainkit.engine.passes import Needs
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.cam.base import as_gradient_cam
from explainkit.methods.cam.gradient import GradCAM
from explainkit.methods.propagation.guided import GuidedBackprop
from explainkit.methods.propagation.rules import RuleMethod


@dataclass(frozen=True)
class GuidedGradCAM(RuleMethod):
    """Guided backpropagation times Grad-CAM: fine detail in the region of the class.

    ``a = G ⊙ L``, with G the guided gradient of the image and L the positive part of Grad-CAM,
    drawn on it: score per unit of input, times score. Both share one forward pass. Guided
    backpropagation hardly depends on the class (see `GuidedBackprop`); only L does.

    Attributes:
        base: The CAM, with ``relu=True`` as in the paper; it sets the layer and the placement.
        unsupported: As in `GuidedBackprop`.

    References:
        Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra (2017), "Grad-CAM: Visual Explanations
        from Deep Networks via Gradient-Based Localization", arXiv:1610.02391.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["functional"], 1, "guided_gradcam")
        >>> e.attribution.shape, e.layer, e.coverage["operators"]["relu"]
        (torch.Size([4, 3, 12, 10]), 'second', {'rectified gradient': 2})
    """

    base: Method = field(default_factory=lambda: GradCAM(relu=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if as_gradient_cam(self.base).placement == "layer":
            raise MethodError("base: expected a CAM drawn on the image, got placement='layer'")

    def needs(self, model: nn.Module, inputs: Tensor) -> Needs:
        """Those of both factors."""
        return super().needs(model, inputs) | as_gradient_cam(self.base).needs(model, inputs)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]``."""
        guided = GuidedBackprop(unsupported=self.unsupported)(model, inputs, target)
        cam = as_gradient_cam(self.base)(model, inputs, target)
        both = replace(cam, values=guided.values * cam.values, coverage=guided.coverage)
        return both.saying(*guided.warnings)
