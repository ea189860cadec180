"""Snippets of docs/how-to/write-a-method.md; run by tests/test_docs.py."""

# --8<-- [start:method]
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GradientTimesDeviation:
    """Gradient times each pixel's deviation from a reference gray.

    ``a = (x − g) · ∂S_c(x) / ∂x``.

    Attributes:
        gray: The reference g, in model-input space.
    """

    gray: float = 0.0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        score = model(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        return gradient * (inputs - self.gray)


# --8<-- [end:method]


# --8<-- [start:use]
import explainkit as ek
from explainkit.testing import toy_models

model, images = toy_models()["plain"]
explanation = ek.explain(model, images, method=GradientTimesDeviation(gray=0.5))
# --8<-- [end:use]


# --8<-- [start:attribution]
@dataclass(frozen=True)
class GradientWithNorm:
    """Gradient, with its norm as a diagnostic."""

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> ek.Attribution:
        score = model(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        norm = gradient.flatten(1).norm(dim=1)
        return ek.Attribution(
            gradient,
            warnings=() if norm.all() else ("the gradient of an image is zero: try another layer",),
            diagnostics={"gradient_norm": norm},
        )


# --8<-- [end:attribution]

# --8<-- [start:fields]
from dataclasses import field

from explainkit.methods import Saliency


@dataclass(frozen=True)
class Weighted:
    """A method's map of the noisy images, times a weight per image."""

    base: ek.Method = field(default_factory=Saliency)
    weights: Tensor | None = field(default=None, metadata={"per_image": True})
    seed: int = field(default=0, metadata={"seed": True})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        noise = torch.Generator().manual_seed(self.seed)  # the same noise for every image
        noisy = inputs.detach() + torch.randn(inputs.shape[1:], generator=noise).to(inputs) / 10
        found = ek.Attribution.of(self.base(model, noisy.requires_grad_(), target)).values
        return found if self.weights is None else found * self.weights[:, None, None, None]


# --8<-- [end:fields]


# --8<-- [start:check]
from explainkit.testing import check_method


def test_my_method():
    check_method(GradientTimesDeviation(gray=0.5))


# --8<-- [end:check]


test_my_method()
assert explanation.params == {"gray": 0.5}
norm = ek.explain(model, images, 0, GradientWithNorm()).diagnostics["gradient_norm"]
assert norm.shape == (4,)
check_method(Weighted())
weighted = ek.explain(model, images, 0, Weighted(weights=torch.arange(1.0, 5)), batch_size=3)
alone = ek.explain(model, images[3:], 0, Weighted(weights=torch.tensor([4.0])))
torch.testing.assert_close(weighted.attribution[3:], alone.attribution)
