"""Principal components: against the full decomposition, with a sign that is fixed."""

import pytest
import torch
from cam_toys import pooled, unbiased
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.cam.eigen import KPCACAM, EigenCAM
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 2])


def images(seed=5):
    return torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(seed)).double()


def svd(matrix):
    """Projection on the first right singular vector, by the decomposition itself."""
    return matrix @ torch.linalg.svd(matrix).Vh[0]


def same_up_to_sign(ours, theirs):
    ours, theirs = ours.flatten(1), theirs.flatten(1)
    signs = (ours * theirs).sum(1, keepdim=True).sign()
    torch.testing.assert_close(ours, signs * theirs, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("channels", [4, 200])
@pytest.mark.parametrize("centered", [True, False])
def test_eigencam_is_the_first_component(channels, centered):
    """With fewer and with more channels than positions."""
    values = torch.rand(4, channels, 7, 5, dtype=torch.float64).relu()
    positions = values.flatten(2).transpose(1, 2)
    positions = positions - positions.mean(1, keepdim=True) if centered else positions
    expected = torch.stack([svd(one) for one in positions])
    ours = EigenCAM(centered=centered).combine(values)
    same_up_to_sign(ours, expected)
    if not centered:
        assert bool((ours >= 0).all())


def test_eigengradcam_is_the_first_component_of_gradient_times_activation():
    model, x = unbiased().double(), images()
    kept = []
    hook = model[3].register_forward_hook(lambda _m, _i, out: kept.append(out))
    score = model(x).gather(1, TARGET[:, None]).sum()
    hook.remove()
    (g,) = torch.autograd.grad(score, kept[0])
    shares = (kept[0] * g).detach().flatten(2).transpose(1, 2)
    expected = torch.stack([svd(one - one.mean(0)) for one in shares])
    ours = ek.explain(
        model,
        x[..., :12, :10],
        TARGET,
        "eigengradcam",
        layer="3",
        upsample="nearest",
        placement="stretch",
    )
    small = ours.attribution[:, 0]
    rows = torch.nn.functional.interpolate(
        torch.arange(48.0).reshape(1, 1, 8, 6), (12, 10), mode="nearest"
    )[0, 0].long()
    same_up_to_sign(small, expected[:, rows.flatten()].reshape(4, 12, 10))
    hires = shares.sum(2)
    agreement = ((hires - hires.mean(1, keepdim=True))[:, rows.flatten()] * small.flatten(1)).sum(1)
    assert bool((agreement > 0).all())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), turn=st.integers(0, 1000), scale=st.floats(0.01, 100),
)  # fmt: skip
def test_the_sign_follows_the_strength_of_activation(seed, turn, scale):
    """Rotating the channels among each other and scaling them changes nothing but the scale."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(1, 6, 5, 4, generator=generator, dtype=torch.float64)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(turn))
    one, other = EigenCAM().combine(values), EigenCAM().combine(scale * values[:, order])
    torch.testing.assert_close(other, scale * one, atol=1e-8 * scale, rtol=1e-6)
    strength = values.abs().sum(1) - values.abs().sum(1).mean()
    assert float((one * strength).sum()) >= 0


def test_bright_positions_are_positive():
    values = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    values[:, :, 2:4, 2:4] += 3
    for method in (EigenCAM(), KPCACAM(), KPCACAM(kernel="rbf", gamma=0.01)):
        found = method.combine(values)
        assert bool((found[:, 2:4, 2:4] > 0).all())
        assert float(found[:, 2:4, 2:4].mean()) > float(found.mean())


class TestKernels:
    def test_linear_is_eigencam(self):
        values = torch.rand(3, 6, 5, 4, dtype=torch.float64)
        torch.testing.assert_close(
            KPCACAM(kernel="linear").combine(values), EigenCAM().combine(values)
        )

    @pytest.mark.parametrize("kernel", ["sigmoid", "rbf"])
    def test_definition(self, kernel):
        """κ for every pair of positions, centered in feature space, its largest component."""
        values, gamma = torch.rand(2, 6, 4, 3, dtype=torch.float64), 0.3
        for image, ours in zip(
            values, KPCACAM(kernel=kernel, gamma=gamma).combine(values), strict=True
        ):
            a = image.flatten(1).T
            a = a - a.mean(0)
            k = torch.empty(12, 12, dtype=torch.float64)
            for p in range(12):
                for q in range(12):
                    if kernel == "sigmoid":
                        k[p, q] = torch.tanh(gamma * (a[p] @ a[q]) + 1)
                    else:
                        k[p, q] = torch.exp(-gamma * ((a[p] - a[q]) ** 2).sum())
            away = torch.eye(12, dtype=torch.float64) - 1 / 12
            λ, u = torch.linalg.eigh(away @ k @ away)
            same_up_to_sign(ours[None], (λ[-1].sqrt() * u[:, -1])[None])

    def test_refusals(self):
        with pytest.raises(MethodError, match="kernel"):
            KPCACAM(kernel="poly")
        with pytest.raises(MethodError, match="gamma"):
            KPCACAM(gamma=0)


@pytest.mark.parametrize("name", ["eigencam", "kpca_cam"])
def test_the_target_is_ignored_and_said_to_be(name):
    model, x = pooled().double(), images()
    one, other = (ek.explain(model, x, target, name) for target in (0, 3))
    assert torch.equal(one.attribution, other.attribution)
    assert one.diagnostics["uses_target"] is False


def test_no_gradient_is_needed():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = pooled().double()

        def forward(self, x):
            with torch.no_grad():
                return self.body(x)

    assert ek.explain(Frozen().eval(), images(), 0, "eigencam", layer="body.1").attribution.any()


@pytest.mark.parametrize("name", ["eigencam", "kpca_cam", "eigengradcam"])
def test_check_method(name):
    names = toy_models().keys() - {"mlp"} if name == "eigencam" else ("residual", "vit", "tuple")
    check_method(name, {n: toy_models()[n] for n in sorted(names)})
