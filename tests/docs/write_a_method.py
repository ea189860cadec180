"""Snippets of docs/how-to/write-a-method.md; run by tests/test_docs.py."""

# --8<-- [start:method]
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GradientTimesDeviation:
    """Gradient times each pixel's deviation from a reference grey.

    ``a = (x − g) · ∂S_c(x) / ∂x``.

    Attributes:
        grey: The reference g, in model-input space.
    """

    grey: float = 0.0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        score = model(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        return gradient * (inputs - self.grey)


# --8<-- [end:method]


# --8<-- [start:use]
import explainkit as ek
from explainkit.testing import toy_models

model, images = toy_models()["plain"]
explanation = ek.explain(model, images, method=GradientTimesDeviation(grey=0.5))
# --8<-- [end:use]

# --8<-- [start:attribution]
from explainkit.interfaces import Attribution


@dataclass(frozen=True)
class WithMoreToSay:
    """Gradient, and how long it is."""

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        score = model(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        length = gradient.flatten(1).norm(dim=1)
        return Attribution(gradient, diagnostics={"gradient_norm": length})


# --8<-- [end:attribution]


# --8<-- [start:check]
from explainkit.testing import check_method


def test_my_method():
    check_method(GradientTimesDeviation(grey=0.5))


# --8<-- [end:check]


test_my_method()
assert explanation.params == {"grey": 0.5}
found = ek.explain(model, images, 0, WithMoreToSay()).diagnostics["gradient_norm"]
assert found.shape == (4,)
