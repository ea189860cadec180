"""What the tests of path methods share."""

import pytest
import torch

from explainkit.testing import toy_models


@pytest.fixture(params=sorted(toy_models()))
def toy(request):
    """A toy model in eval mode, its logits only, images of both signs, and a target for each."""
    model, images = toy_models()[request.param]
    model.eval()
    forward = (lambda x: model(x)[0]) if request.param == "tuple" else model
    return model, forward, images - 0.4, torch.tensor([0, 3, 1, 4])


@pytest.fixture
def quadratic():
    """S = Σ w x² + Σ v x: the trapezoidal rule is exact on every chord."""

    class Quadratic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(2)
            self.register_buffer("w", torch.randn(3, 12, 10, generator=generator))
            self.register_buffer("v", torch.randn(3, 12, 10, generator=generator))

        def forward(self, x):
            return (self.w * x.square() + self.v * x).flatten(1).sum(1, keepdim=True)

    return Quadratic().eval()
