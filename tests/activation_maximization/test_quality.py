"""Quality measures with known values."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.activation_maximization.parameterization import frequencies
from explainkit.activation_maximization.quality import measure, spectral_slope
from explainkit.errors import InputError, TargetError
from explainkit.expressions import channel, channels, classes, log_odds, logit
from explainkit.testing import toy_models


def data(n=60, shape=(1, 8, 8)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


def shown(model, images, objective):
    """A visualization with given images instead of optimized ones."""
    found = ek.maximize(model, objective, shape=tuple(images.shape[1:]), steps=2)
    return replace(found, images=images)


def test_log_odds_avoid_what_activates_another_channel_more():
    """In real images both colors are nearly equal, so unit 1, their difference, hardly varies."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, -1.0]])[:, :, None, None])
    generator = torch.Generator().manual_seed(0)
    brightness = torch.randn(40, 1, 1, 1, generator=generator).expand(-1, 2, 6, 6)
    real = brightness + 0.1 * torch.randn(40, 2, 6, 6, generator=generator)
    settings = {"dataset": real, "steps": 200}
    plain, selective = (
        ek.maximize(model, objective, **settings)
        for objective in (channel("1", 0), log_odds("1", 0))
    )
    assert measure(plain, model, real).quality["selectivity"].tolist() == [2]
    measured = measure(selective, model, real)
    assert measured.quality["selectivity"].tolist() == [1]
    assert float(measured.quality["gain"]) > 1
    with pytest.raises(TargetError, match="give maximize a dataset"):
        ek.maximize(model, log_odds("1", 0), shape=(2, 6, 6), steps=2)


def test_gain_is_one_for_the_best_real_image_and_zero_for_the_mean_one():
    model, images = linear(), data()
    best = images[model(images).argmax(0)]
    found = measure(shown(model, best, classes()), model, images, k=5)
    torch.testing.assert_close(found.quality["gain"], torch.ones(3))
    mean = images.mean(0, keepdim=True).expand(3, 1, 8, 8)
    found = measure(shown(model, mean, classes()), model, images, k=5)
    assert found.quality["gain"].abs().max() < 1e-4


def test_a_smooth_pattern_is_robust_and_a_checkerboard_is_not():
    """Two matched filters: one for a low frequency, one for a checkerboard."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    patterns = torch.stack([torch.cos(y * math.pi / 12), (-1) ** (y + x)])[:, None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(patterns.flatten(1))
    images = data(30, (1, 16, 16)) - 0.5
    found = measure(shown(model, patterns, classes()), model, images, k=5)
    smooth, checkerboard = found.quality["robust_gain"].tolist()
    assert smooth > 0.7
    assert checkerboard < 0.5
    assert "NOT ROBUST" in found.caption(1)
    assert "NOT ROBUST" not in found.caption(0)


def test_selectivity_is_the_rank_among_the_layer_s_units():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU()).eval()
    found = ek.maximize(model, channels("0"), shape=(1, 8, 8), steps=60, lr=0.2)
    good = measure(found, model, data() - 0.5, k=5)
    assert good.quality["selectivity"].tolist() == [1, 1, 1, 1]
    swapped = shown(model, found.images[[1, 0, 2, 3]], channels("0"))
    bad = measure(swapped, model, data() - 0.5, k=5).quality["selectivity"]
    assert (bad[:2] > 1).all()
    assert (bad[2:] == 1).all()


def test_transfer_is_the_other_network_s_probability():
    model, other, images = linear(), linear(), data()
    found = measure(shown(model, images[:3], classes()), model, images, other=other, k=5)
    torch.testing.assert_close(
        found.quality["transfer"], other(images[:3]).softmax(1).diagonal().detach()
    )


def test_spectra():
    height, width = 32, 27
    white = torch.randn(20, 1, height, width, generator=torch.Generator().manual_seed(0))
    assert spectral_slope(white).mean().abs() < 0.1
    decayed = torch.fft.irfft2(
        torch.fft.rfft2(white) / frequencies(height, width).clamp_min(1 / 32), s=(height, width)
    )
    assert abs(spectral_slope(decayed).mean() + 2) < 0.1


def test_path_similarity_is_positive_for_real_images_and_negative_for_noise():
    model, _ = toy_models()["plain"]
    generator = torch.Generator().manual_seed(0)
    # two kinds of images: a bright upper half, a bright left half
    images = 0.1 * torch.rand(60, 3, 12, 10, generator=generator)
    images[:30, :, :6] += 1
    images[30:, :, :, :5] += 1
    real = images[model(images).argmax(0)]
    found = measure(shown(model, real, classes()), model, images, k=5)
    noise = torch.randn(5, 3, 12, 10, generator=generator)
    other = measure(shown(model, noise, classes()), model, images, k=5)
    assert (found.quality["path_similarity"] > 0).all()
    assert (other.quality["path_similarity"] < 0).all()
    assert "UNNATURAL" in other.caption(0)


def test_two_choices():
    """Features that are the logits always choose correctly; constant ones guess."""
    model, images = linear(), data()
    best = images[model(images).argmax(0)]
    what = shown(model, best, logit(0))[:1]
    sure = measure(
        what, model, images, k=5, features=lambda x: model(x)[:, :1].sub(model(images)[:, 0].mean())
    )
    assert sure.quality["choice_synthetic"].tolist() == [1]
    assert sure.quality["choice_exemplars"].tolist() == [1]
    blind = measure(what, model, images, k=5, features=lambda x: torch.ones(len(x), 2))
    assert blind.quality["choice_synthetic"].tolist() == [0.5]


def test_quality_does_not_depend_on_the_batch_and_is_saved(tmp_path):
    model, images = linear(), data()
    found = measure(shown(model, images[:3], classes()), model, images, k=5)
    one = measure(shown(model, images[:3], classes())[1], model, images, k=5)
    for name, values in one.quality.items():
        torch.testing.assert_close(values, found.quality[name][1:2])
    again = ek.Visualization.load(found.save(tmp_path))
    assert again.quality.keys() == found.quality.keys()
    assert again.caption(0) == found.caption(0)


def test_refusals():
    model, images = linear(), data()
    with pytest.raises(InputError, match="at least 27"):
        measure(shown(model, images[:3], classes()), model, images[:20])
