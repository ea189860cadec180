"""A small transformer trained on synthetic faces: its maps name what its answer hangs on."""

import numpy as np
import pytest
import torch
from attention_toys import SPELLINGS, ViT
from torch.nn import functional as F

import explainkit as ek
from explainkit.methods.attention.libragrad import LibraGrad
from explainkit.methods.gradient import InputXGradient, SmoothGrad

faces = pytest.importorskip("explainkit_fer_hw3.faces")

GRID = (6, 6)
OPTIONS = {"channels": 1, "image": (24, 24), "classes": 3, "depth": 2, "width": 32}


def upsampled(count, seed):
    """Angry, happy and neutral faces of 24 × 24 pixels."""
    classes = np.arange(count) % 3
    pixels = torch.from_numpy(faces.draw(classes * 3, seed=seed).pixels).float() / 255
    return (F.avg_pool2d(pixels, 2) - 0.5) / 0.25, torch.from_numpy(classes)


@pytest.fixture(scope="module")
def trained():
    """The model, and faces that it has not seen, with their classes: two seconds of training."""
    x, y = upsampled(900, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViT("fused", **OPTIONS)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=200)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        chosen = torch.randint(900, (32,), generator=generator)
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, y = upsampled(60, seed=2)
    model.eval()
    assert (model(x).argmax(1) == y).float().mean() > 0.6
    return model, x, y


def drop(model, x, y, places):
    """By how much the right class's probability falls without some patches, on average."""
    hidden = torch.zeros(len(x), 36).scatter(1, places, 1).reshape(-1, 1, *GRID)
    hidden = F.interpolate(hidden, x.shape[2:], mode="nearest")
    masked = x * (1 - hidden) + x.mean((1, 2, 3), keepdim=True) * hidden

    def right(images):
        return model(images).softmax(1).gather(1, y[:, None])

    with torch.no_grad():
        return float((right(x) - right(masked)).mean())


@pytest.mark.parametrize(
    "method",
    ["attention_rollout", "gradient_rollout", "attn_lrp", LibraGrad(InputXGradient()), "deeplift"],
    ids=str,
)
def test_the_answer_hangs_on_what_a_map_names(trained, method):
    model, x, y = trained
    e = ek.explain(model, x, y, method)
    order = F.avg_pool2d(e.attribution.sum(1, keepdim=True), 4).flatten(1).argsort(1)
    assert drop(model, x, y, order[:, -9:]) > drop(model, x, y, order[:, :9]) + 0.1


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "method",
    ["attention_rollout", "gradient_rollout", "legrad", "attn_lrp", "libragrad", "deeplift",
     "lrp", "guided_backprop", "full_gradient"],
)  # fmt: skip
def test_spellings_of_a_trained_model_have_one_map(trained, method, spelling):
    model, x, y = trained
    other = ViT(spelling, **OPTIONS).eval()
    other.load_state_dict(model.state_dict())
    maps = [ek.explain(m, x[:4], y[:4], method).attribution for m in (model, other)]
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4 * float(maps[0].abs().max()))


def test_additive_methods_are_complete(trained):
    model, x, y = trained
    for method in ("deeplift", "full_gradient"):
        assert ek.explain(model, x, y, method).diagnostics["completeness_gap"].max() < 1e-4


def test_balanced_gradients_are_less_noisy(trained):
    """What LibraGrad is for: over a little noise its gradients hardly turn, plain ones do."""
    model, x, y = trained

    def spread(base):
        found = ek.explain(model, x[:8], y[:8], base)
        error = found.diagnostics["standard_error"]
        return float((error.square().sum() / found.attribution.square().sum()).sqrt())

    noisy = SmoothGrad(samples=8, noise=0.1)
    assert spread(LibraGrad(noisy)) < spread(noisy)
