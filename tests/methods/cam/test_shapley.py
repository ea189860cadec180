"""ShapleyCAM: second-order weights."""

import pytest
import torch
from cam_toys import pooled, unbiased
from torch import nn

import explainkit as ek
from explainkit.errors import ModelError
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 2])


def images():
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def test_piecewise_linear_is_gradcam():
    for model in (pooled(), unbiased()):
        one, other = (
            ek.explain(model, images(), TARGET, name, layer="1").attribution
            for name in ("shapleycam", "gradcam")
        )
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layer", ["1", ("1", "3")])
def test_definition_with_the_whole_hessian(layer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 5, stride=3), nn.Tanh(), nn.Conv2d(2, 2, 1), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(12, 5), nn.GELU(), nn.Linear(5, 4),
    ).double().eval()  # fmt: skip
    x = images().double()
    ours = ek.explain(
        model, x, TARGET, "shapleycam", layer=layer, upsample="nearest", placement="stretch"
    ).attribution
    maps = []
    for name in [layer] if isinstance(layer, str) else layer:
        after = model[int(name) + 1 :]
        for i, c in enumerate(TARGET.tolist()):
            a = model[: int(name) + 1](x[i : i + 1]).detach()

            def score(v, c=c, after=after, a=a):
                return after(v.reshape(a.shape))[0, c]

            flat = a.flatten()
            g = torch.autograd.functional.jacobian(score, flat)
            h = torch.autograd.functional.hessian(score, flat)
            w = (g - h @ flat / 2).reshape(a.shape).mean((2, 3), keepdim=True)
            assert float((h @ flat).abs().max()) > 1e-4
            maps.append((w * a).sum(1, keepdim=True))
    small = torch.cat(maps).reshape(-1, 4, 1, *maps[0].shape[2:]).mean(0)
    expected = nn.functional.interpolate(small, (12, 10), mode="nearest")
    expected[..., 11:, :] = expected[..., 8:] = 0  # pixels that no stride reaches
    torch.testing.assert_close(ours, expected)


def test_a_quadratic_score_is_shared_out_to_the_last():
    """The efficiency of the Shapley value: the map sums to the score, which is 0 at 0."""

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.features = nn.Conv2d(3, 4, 3, padding=1)
            self.pair = nn.Parameter(torch.randn(4, 4))
            self.line = nn.Parameter(torch.randn(4))

        def forward(self, x):
            a = self.features(x).mean((2, 3))
            return (a @ self.line + torch.einsum("bi,ij,bj->b", a, self.pair, a))[:, None]

    model, x = Quadratic().eval(), images()
    score = model(x)[:, 0].detach()
    shapley, gradcam = (
        ek.explain(model, x, 1, name).attribution.sum((1, 2, 3))
        for name in ("shapleycam", "gradcam")
    )
    torch.testing.assert_close(shapley, score)
    assert float((gradcam - score).abs().max()) > 1e-2


def test_a_score_that_does_not_read_the_layer():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside, self.body = nn.Conv2d(3, 4, 3), unbiased()

        def forward(self, x):
            self.aside(x)
            return self.body(x)

    with pytest.raises(ModelError, match="'aside'"):
        ek.explain(Aside().eval(), images(), 0, "shapleycam", layer="aside")


def test_check_method():
    check_method("shapleycam", {n: m for n, m in toy_models().items() if n != "mlp"})
