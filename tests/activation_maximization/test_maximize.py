"""maximize(): known optima, independence of the batch, no side effects, clear errors."""

import hashlib
import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.activation_maximization.optimize import _moved
from explainkit.activation_maximization.problem import OptimizedImages
from explainkit.errors import ExplainkitWarning, InputError, MethodError, ModelError, TargetError
from explainkit.expressions import (
    alpha,
    caricature,
    channel,
    channels,
    diversity,
    logit,
    neuron,
    norm,
    tv,
)
from explainkit.interfaces import ModelSpec
from explainkit.testing import toy_models

STILL = {"jitter": 0, "scale": 0, "rotate": 0, "noise": 0}
IMAGES = torch.rand(20, 3, 12, 10, generator=torch.Generator().manual_seed(1))
NAMES = ["cppn", "fourier", "maco", "pixel", "pyramid", "plain"]


def linear(channels=1, height=6, width=5, classes=3):
    torch.manual_seed(0)
    size = channels * height * width
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).eval()


def spec(shape, mean=0.5, std=0.25):
    channels = shape[0]
    return ModelSpec(
        build=linear, image_shape=shape, mean=(mean,) * channels, std=(std,) * channels
    )


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.detach().flatten(), b.detach().flatten()]))[0, 1])


@pytest.mark.parametrize("maximizer", ["plain", "pixel"])
def test_a_linear_unit_without_bounds_grows_along_its_weights(maximizer):
    model = linear()
    rule = {"optimizer": "ascent", **STILL} if maximizer == "pixel" else {"lr": 0.2}
    found = ek.maximize(model, logit(1), shape=(1, 6, 5), maximizer=maximizer, steps=60, **rule)
    assert correlation(found.images[0], model[1].weight[1]) > 0.999


@pytest.mark.parametrize("maximizer", ["plain", "pixel", "fourier", "pyramid"])
def test_a_linear_unit_within_bounds_ends_at_the_bounds(maximizer):
    model = linear()
    model.explainkit_spec = spec((1, 6, 5))
    found = ek.maximize(
        model, logit(2), maximizer=maximizer, steps=150, **STILL,
        lr=0.5, schedule="constant",
    )  # fmt: skip
    weight = model[1].weight[2].reshape(1, 6, 5)
    best = float(model(2 * weight.sign()[None])[0, 2].detach())
    assert found.images.abs().max() <= 2
    assert float(found.score[0]) > best - 0.02 * abs(best)
    assert found.converged.all()


def test_plain_shows_grays():
    """Kernels without a mean prefer texture to one color, and texture has grays."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.ReLU()).eval()
    model[0].weight.data -= model[0].weight.mean((2, 3), keepdim=True)
    model.explainkit_spec = spec((1, 24, 24))
    found = ek.maximize(model, 'channels("1")', maximizer="plain")
    assert (found.images.abs() >= 2).float().mean() < 0.02
    assert (found.images.std((1, 2, 3)) > 0.5).all()


class Quadratic(nn.Module):
    """Three units, each with its maximum, 0, at an image of its own."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("best", torch.randn(3, 2, 7, 6, generator=generator))

    def forward(self, x):
        return -(x[:, None] - self.best).square().mean((2, 3, 4))


@pytest.mark.parametrize("maximizer", ["pixel", "fourier", "pyramid"])
def test_a_quadratic_unit_is_found_at_its_optimum(maximizer):
    found = ek.maximize(
        Quadratic().eval(),
        "classes()",
        shape=(2, 7, 6),
        maximizer=maximizer,
        steps=200,
        lr=0.2,
        **STILL,
    )
    assert (found.images - Quadratic().best).abs().max() < 0.2
    assert found.score.abs().max() < 1e-3
    assert found.converged.all()


@pytest.mark.parametrize("maximizer", ["fourier", "pixel", "pyramid"])
def test_matched_filters_show_their_kernels(maximizer):
    """⟨w, x⟩ − |x|² / n is maximal at a multiple of w."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 7, bias=False), nn.ReLU()).eval()
    objective = channels("0") - norm() * norm()
    rule = {"lr": 0.3, "steps": 150, **STILL}
    found = ek.maximize(model, objective, shape=(2, 7, 7), maximizer=maximizer, **rule)
    for image, kernel in zip(found.images, model[0].weight, strict=True):
        assert correlation(image, kernel) > 0.95


def test_a_neuron_shows_its_kernel_in_its_receptive_field_and_nothing_elsewhere():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 5, bias=False)).eval()
    units = [neuron("0", k, 3, 2) for k in range(4)]
    found = ek.maximize(model, units, shape=(1, 13, 12), maximizer="plain", init_std=1e-6)
    for image, kernel in zip(found.images, model[0].weight, strict=True):
        assert correlation(image[:, 3:8, 2:7], kernel) > 0.999
    outside = found.images.clone()
    outside[:, :, 3:8, 2:7] = 0
    assert outside.abs().max() < 1e-4


@pytest.mark.parametrize("maximizer", NAMES)
def test_alpha_leaves_only_the_receptive_field_opaque(maximizer):
    """A neuron depends only on its receptive field, whose position is known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, bias=False)).eval()
    units = [neuron("0", k, 8, 3) - 2 * alpha() for k in range(4)]
    settings = {"maximizer": maximizer, "shape": (3, 21, 20), "dataset": torch.randn(9, 3, 21, 20)}
    if maximizer == "plain":  # an opacity needs longer steps than an image with grays
        settings["lr"] = 0.02
    found = ek.maximize(model, units, **settings, steps=150, **STILL)
    assert found.opacity.shape == (4, 1, 21, 20)
    inside = found.opacity[:, :, 8:13, 3:8].mean((1, 2, 3))
    far = found.opacity[:, :, :, 12:].mean((1, 2, 3))
    assert (inside > 0.5).all()
    assert (far < 0.15).all()
    # the images are composited on the middle of the range, here 0
    assert (
        found.images[:, :, :, 12:].abs().mean() < 0.2 * found.images[:, :, 8:13, 3:8].abs().mean()
    )
    one = ek.maximize(model, units[2], **settings, steps=150, **STILL)
    assert torch.equal(one.opacity[0], found.opacity[2])
    opaque = ek.maximize(model, units[0] + 2 * alpha() * 0, **settings, steps=2)
    assert ((opaque.opacity > 0) & (opaque.opacity < 1)).all()
    plain = ek.maximize(model, neuron("0", 0), **settings, steps=2)
    assert (plain.opacity == 1).all()


def test_lost_units_have_not_moved_and_saturated_ones_have():
    trace = torch.zeros(40, 4)
    trace[5, 0] = 0.1  # moved once, then never: lost
    trace[5:, 1] = 1  # zero gradient at the highest score: saturated
    moved = _moved(trace, torch.tensor([5, 5, 39, -1]))
    assert moved.tolist() == [False, True, True, False]


def test_a_saturated_unit_is_not_dead():
    class Saturated(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([mean.clamp(0, 1), (0 * mean).relu()], 1)

    with pytest.warns(ExplainkitWarning, match="1 of 2 units"):
        found = ek.maximize(Saturated().eval(), "classes()", shape=(1, 6, 6), steps=64)
    assert found.dead.tolist() == [False, True]
    assert float(found.score[0]) == 1


@dataclass(frozen=True, kw_only=True)
class Opaque:
    steps: int = 2

    def __call__(self, problem):
        images = problem.normal(*problem.shape)
        score = problem.score(images, images)
        return OptimizedImages(images, score[None].detach(), score > -math.inf, images[None][:0])


def test_a_maximizer_without_opacity_refuses_alpha():
    model = nn.Sequential(nn.Conv2d(1, 2, 3)).eval()
    with pytest.raises(MethodError, match=r"doesn't support opacity: leave out alpha\(\)"):
        ek.maximize(model, channel("0", 0) - alpha(), shape=(1, 5, 5), maximizer=Opaque())


@pytest.mark.parametrize("maximizer", NAMES)
def test_a_unit_s_image_is_bit_identical_in_any_batch(maximizer):
    model, _ = toy_models()["plain"]
    settings = {"maximizer": maximizer, "steps": 6, "dataset": IMAGES, "shape": (3, 12, 10)}
    whole = ek.maximize(model, [channels("1"), logit(3)], **settings)
    again = ek.maximize(model, [channels("1"), logit(3)], **settings)
    assert torch.equal(whole.images, again.images)
    for unit, objective in ((2, channel("1", 2)), (6, logit(3))):
        alone = ek.maximize(model, objective, **settings)
        assert torch.equal(alone.images[0], whole.images[unit])
        assert torch.equal(alone.trace[:, 0], whole.trace[:, unit])
    turned = ek.maximize(model, channels("1", [5, 2, 0, 1]), **settings)
    assert torch.equal(turned.images[1], whole.images[2])
    other = ek.maximize(model, channels("1"), **settings, seed=1)
    assert not torch.equal(other.images, whole.images[:6])


def test_another_process_gives_bit_identical_images():
    code = (
        "import torch, hashlib, explainkit as ek; from explainkit.testing import toy_models;"
        "torch.set_num_threads(1); m, _ = toy_models()['vit'];"
        "v = ek.maximize(m, 'channels(\"blocks.0\", [0, 3])', shape=(3, 12, 10), steps=4);"
        "print(hashlib.sha256(v.images.numpy().tobytes()).hexdigest())"
    )
    model, _ = toy_models()["vit"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = ek.maximize(model, channels("blocks.0", [0, 3]), shape=(3, 12, 10), steps=4)
    finally:
        torch.set_num_threads(threads)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == hashlib.sha256(here.images.numpy().tobytes()).hexdigest(), (
        run.stderr
    )


@pytest.mark.parametrize("name", ["functional", "residual", "mlp", "tuple", "vit", "in_place"])
def test_networks_of_every_kind(name):
    model, _ = toy_models()[name]
    found = ek.maximize(model, "classes()", shape=(3, 12, 10), steps=12, lr=0.2)
    assert found.images.shape == (5, 3, 12, 10)
    assert torch.isfinite(found.images).all()
    assert (found.trace[-1] > found.trace[0]).all()
    assert found.layer is None


@pytest.mark.parametrize("shape", [(1, 9, 7), (5, 16, 11), (2, 3, 3), (1, 1, 1), (3, 97, 33)])
@pytest.mark.parametrize("maximizer", NAMES)
def test_any_number_of_channels_and_any_size(shape, maximizer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(shape[0], 3, 3, padding=1), nn.Flatten(), nn.Linear(1, 1)
    ).eval()
    data = torch.rand(4, *shape)
    found = ek.maximize(model, channels("0"), maximizer=maximizer, steps=3, dataset=data, blur=0.5)
    assert found.images.shape == (3, *shape)
    assert torch.isfinite(found.images).all()


def test_the_model_runs_only_up_to_the_layer():
    ran = []
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)).eval()
    model[2].register_forward_hook(lambda *_: ran.append(1))
    ek.maximize(model, channel("0", 1), shape=(1, 8, 8), steps=5)
    assert len(ran) <= 1, "only the probe may run further"
    ek.maximize(model, channel("0", 1), shape=(1, 4, 4), steps=1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_s_model_and_tensors_are_unchanged(fails):
    model, images = toy_models()["batch_norm"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].weight.requires_grad_(False)
    start = images[0].clone()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    objective = logit(9) if fails else channel("2", 1)
    with (
        torch.no_grad(),
        pytest.raises(TargetError)
        if fails
        else pytest.warns(ExplainkitWarning, match="train mode"),
    ):
        ek.maximize(model, objective, shape=(3, 12, 10), steps=3, start=start)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(start, images[0])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model[0].parameters()] == [False, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert model[0].weight.grad is None


def test_dead_units_are_listed_and_blank():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].bias[1] = -1e6
        # activated only by images of high contrast: not dead
        model[0].bias[2] = -0.3
    with pytest.warns(ExplainkitWarning, match="1 of 3 units"):
        found = ek.maximize(model, channels("1") - 0.01 * tv(), shape=(1, 9, 9), steps=80)
    assert found.dead.tolist() == [False, True, False]
    assert not found.converged[1]
    assert math.isnan(found.score[1])
    assert found.images[1].unique().numel() == 1
    assert found.rank[1] == 2
    assert "dead" in found.caption(1)


def test_the_best_of_several_restarts_is_returned():
    model, _ = toy_models()["plain"]
    settings = {"shape": (3, 12, 10), "steps": 10, **STILL}
    one = ek.maximize(model, "classes()", **settings)
    best = ek.maximize(model, "classes()", **settings, restarts=4)
    assert (best.trace[-1] >= one.trace[-1]).all()
    assert not torch.equal(best.images, one.images)


def test_the_negative_direction_is_an_additional_objective():
    model = linear()
    model.explainkit_spec = spec((1, 6, 5))
    found = ek.maximize(model, logit(0), negative=True, steps=60, lr=0.3)
    assert found.objective == ("logit(0)", "-logit(0)")
    assert correlation(found.images[0], -found.images[1]) > 0.9


def test_optimization_starts_from_the_given_image():
    model, images = toy_models()["plain"]
    model.explainkit_spec = spec((3, 12, 10), 0.5, 0.5)
    start = (images[0] - 0.5) / 0.5 * 0.9
    for maximizer in ("fourier", "pixel", "pyramid", "cppn", "maco"):
        found = ek.maximize(
            model,
            logit(1),
            start=start,
            maximizer=maximizer,
            steps=2,
            lr=1e-4,
            init_std=1e-4,
            **STILL,
        )
        assert (found.images[0] - start).abs().max() < 0.02, maximizer
    exaggerated = ek.maximize(model, caricature("0"), start=start, steps=30, **STILL)
    assert exaggerated.trace[-1] > 1.2 * exaggerated.trace[0]


def test_diversity_makes_restarts_of_a_unit_differ():
    model, _ = toy_models()["plain"]
    settings = {"shape": (3, 12, 10), "steps": 20, "restarts": 3, **STILL}
    found = ek.maximize(model, [channel("0", k) + 5 * diversity("0") for k in (0, 1)], **settings)
    assert (found.trace[-1] > found.trace[0]).all()
    alone = ek.maximize(model, channel("0", 1) + 5 * diversity("0"), **settings)
    assert torch.equal(alone.images[0], found.images[1])


def test_maco_keeps_the_magnitudes_of_the_data():
    model, _ = toy_models()["plain"]
    gray = nn.Sequential(nn.Conv2d(1, 4, 3)).eval()
    data = IMAGES[:, :1] * torch.linspace(1, 3, 10)
    found = ek.maximize(gray, channels("0"), maximizer="maco", dataset=data, steps=8)
    wanted = torch.fft.rfft2(data, norm="ortho").abs().mean(0)
    magnitudes = torch.fft.rfft2(found.images, norm="ortho").abs()
    # coefficients that are their own conjugates have only a sign for a phase
    inner = (slice(None), slice(1, 6), slice(1, 5))
    torch.testing.assert_close(
        magnitudes[(slice(None), *inner)], wanted[inner].expand(4, 1, 5, 4), rtol=1e-3, atol=1e-3
    )
    with pytest.raises(MethodError, match="dataset"):
        ek.maximize(model, logit(0), shape=(3, 12, 10), maximizer="maco")


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        ({"shape": None}, InputError, "shape="),
        ({"shape": (12, 10)}, InputError, "got (12, 10)"),
        ({"shape": (3, 0, 10)}, InputError, "channel, height, width"),
        ({"shape": (1, 12, 10)}, ModelError, "failed on images"),
        ({"start": torch.zeros(3, 5, 5)}, InputError, "got [3, 5, 5]"),
        ({"start": torch.full((3, 12, 10), math.nan)}, InputError, "finite"),
        ({"dataset": torch.zeros(3, 12, 10)}, InputError, "dataset"),
        ({"objective": "channel('9', 0)"}, ModelError, "layer"),
        ({"objective": channel("0", 99)}, TargetError, "from 0 to 5"),
        ({"objective": []}, TargetError, "empty list"),
        ({"objective": [3]}, TargetError, "int"),
        ({"objective": "tv()"}, TargetError, "with a layer"),
        ({"objective": "logit(0"}, TargetError, "can't read"),
        ({"objective": "logit(0) / 0"}, ModelError, "finite objective"),
        ({"objective": caricature("0")}, TargetError, "start"),
        ({"steps": 0}, MethodError, "steps"),
        ({"restarts": 0}, InputError, "restarts"),
        ({"batch_size": 0}, InputError, "batch_size"),
        ({"lr": -1.0}, MethodError, "lr"),
        ({"decai": 1.0}, MethodError, "did you mean decay="),
        ({"maximizer": "furrier"}, ek.ExplainkitError, "fourier"),
        ({"maximizer": 3}, MethodError, "maximizer's name"),
        ({"optimizer": "lion"}, MethodError, "adam or ascent"),
        ({"padding": "wrap"}, MethodError, "reflection"),
    ],
)
def test_errors_are_one_clear_line(change, error, part):
    model, _ = toy_models()["plain"]
    settings = {"shape": (3, 12, 10), "steps": 2, "objective": logit(0)} | change
    with pytest.raises(error) as caught:
        ek.maximize(model, settings.pop("objective"), **settings)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_that_runs_twice_is_refused():
    model, _ = toy_models()["reused"]
    with pytest.raises(ModelError, match="runs 3 times"):
        ek.maximize(model, channel("relu", 0), shape=(3, 12, 10), steps=1)


def test_saved_and_loaded(tmp_path):
    model, _ = toy_models()["plain"]
    found = ek.maximize(model, "classes()", shape=(3, 12, 10), steps=4, frames=3)
    again = ek.Visualization.load(found.save(tmp_path / "v"))
    assert torch.equal(again.images, found.images)
    assert again.objective == found.objective
    assert again.frames.shape == (3, 5, 3, 12, 10)
    assert again.params == found.params
    assert again.diagnostics["frame_steps"] == [0, 2, 4]
    assert torch.equal(again.frames[-1], again.images)
    (tmp_path / "v" / "visualization.json").write_text("{}")
    with pytest.raises(ek.ExplainkitError, match="not a saved visualization"):
        ek.Visualization.load(tmp_path / "v")
