"""Gradients where autograd is wrong for a single image, or refuses."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import explainkit as ek
from explainkit.errors import ModelError
from explainkit.graph.autograd import contiguous


class Tokens(nn.Module):
    """A batch normalization whose output is read as tokens, as in LeViT and XCiT."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.5
        self.weight, self.head = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(15, 3))

    def forward(self, x):
        y = self.norm(self.first(x).tanh())
        return (y.flatten(2).transpose(1, 2) @ self.weight * self.head).square().sum(1)


def images():
    return torch.randn(2, 3, 3, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("saliency", {}),
        ("integrated_gradients", {"steps": 1}),
        ("deeplift", {}),
        ("full_gradient", {}),
        ("libragrad", {}),
        ("gradcam", {"layer": "first"}),
        ("shapleycam", {"layer": "first"}),
    ],
)
def test_an_image_alone_has_the_gradient_that_it_has_beside_another(method, params):
    model, x = Tokens().double().eval(), images()
    both = ek.explain(model, x, 1, method, **params).attribution
    alone = ek.explain(model, x[:1], 1, method, **params).attribution
    torch.testing.assert_close(alone, both[:1])


def test_the_gradient_of_one_image_is_that_of_finite_differences():
    model, x = Tokens().double().eval(), images()[:1]
    found = ek.explain(model, x, 1, "saliency").attribution
    steps = 1e-6 * torch.eye(45).double().view(45, 3, 3, 5)
    with torch.no_grad():
        wanted = (model(x + steps) - model(x - steps))[:, 1] / 2e-6
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-6, atol=1e-8)


def test_other_gradients_are_not_copied():
    for gradient in (
        torch.rand(1, 4, 3, 5),
        torch.rand(2, 4, 3, 5).to(memory_format=torch.channels_last),
        torch.rand(1, 4, 3, 5).to(memory_format=torch.channels_last),
    ):
        assert contiguous(gradient) is gradient
    odd = torch.rand(60).as_strided((1, 4, 3, 5), (4, 1, 20, 4))
    assert contiguous(odd).is_contiguous()
    assert torch.equal(contiguous(odd), odd)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.reentrant, self.first, self.head = reentrant, nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def block(self, x):
        return self.first(x).relu()

    def forward(self, x):
        y = checkpoint(self.block, x, use_reentrant=self.reentrant)
        return self.head(y.mean((2, 3)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    "method", ["saliency", "integrated_gradients", "lrp", "deeplift", "libragrad"]
)
def test_a_reentrant_checkpoint_is_refused(method):
    model = Checkpointed(reentrant=True).eval().double()
    with pytest.raises(ModelError, match="use_reentrant=False"):
        ek.explain(model, images(), 1, method)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_methods_without_gradients_run_on_a_reentrant_checkpoint():
    x = images()
    one, other = (
        ek.explain(Checkpointed(reentrant).eval().double(), x, 1, "occlusion", window=2).attribution
        for reentrant in (True, False)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["saliency", "lrp", "deeplift"])
def test_a_checkpoint_that_is_not_reentrant_changes_nothing(method):
    model, x = Checkpointed(reentrant=False).eval().double(), images()
    found = ek.explain(model, x, 1, method).attribution
    model.forward = lambda x: model.head(model.first(x).relu().mean((2, 3)))
    torch.testing.assert_close(found, ek.explain(model, x, 1, method).attribution)
