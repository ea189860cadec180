"""Parity with Quantus 0.6.0 and Captum 0.9.0: metrics.

A small seeded network of convolutions and four random images; Quantus' options are set so that it
measures the maps as they are.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import third_party
import torch
from torch import Tensor, nn

from explainkit import metrics
from explainkit.metrics.reinitialization import reinitialized
from peer_rows.rows import Fault, Row

NETWORK = "one convolution"
TOLERANCE = 1e-5
RADIUS, NOISE, SAMPLES = 0.05, 0.05, 8


def quantus() -> Any:
    """Quantus, which imports torchvision where it can."""
    third_party.library("torchvision")
    return importlib.import_module("quantus")


def network(channels: int = 1) -> nn.Module:
    """A small seeded network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
            nn.Linear(54, 3),
        ).eval()  # fmt: skip


def images(channels: int = 1) -> Tensor:
    """Four images that contain 0: Quantus' black is an image's smallest value."""
    drawn = torch.rand(4, channels, 12, 10, generator=torch.Generator().manual_seed(1))
    drawn[:, :, 0, 0] = 0
    return drawn


CLASSES = torch.tensor([0, 2, 1, 0])
MAPS = torch.rand(4, 1, 12, 10, generator=torch.Generator().manual_seed(2))
MASKS = torch.zeros(4, 12, 10, dtype=torch.bool)
MASKS[:, 3:9, 2:7] = True


def measured(name: str, **options: Any) -> Any:
    """One of Quantus' metrics of the maps, as they are."""
    call = {"batch_size": options.pop("batch_size", 64), "softmax": False}
    call |= {key: options.pop(key) for key in ("model", "x", "y", "a", "s") if key in options}
    x, y, a = call.pop("x", images()), call.pop("y", CLASSES), call.pop("a", MAPS)
    masks = call.pop("s", None)
    metric = getattr(quantus(), name)(
        **{"normalise": False, "abs": False, "disable_warnings": True} | options
    )
    return metric(
        model=call.pop("model", network()), x_batch=x.numpy(), y_batch=y.numpy(),
        a_batch=a.clone().numpy(), device="cpu",
        s_batch=None if masks is None else masks[:, None].clone().numpy(), **call,
    )  # fmt: skip


def flipped() -> Tensor:
    """The area under Quantus' pixel flipping, from the image to the last pixel."""
    first = network()(images()).gather(1, CLASSES[:, None]).detach()
    curve = torch.tensor(np.asarray(measured("PixelFlipping", perturb_baseline="black")))
    return torch.trapezoid(torch.cat([first, curve], 1).double(), dx=1 / curve.shape[1])


def noises(uniform: bool) -> Tensor:
    """The noise that our metrics draw, before it is scaled, ``[samples, 1, 12, 10]``."""
    drawn = torch.Generator().manual_seed(0)
    if uniform:
        each = [2 * torch.rand(1, 12, 10, generator=drawn) - 1 for _ in range(SAMPLES)]
        return torch.stack(each)
    return torch.randn(SAMPLES, 1, 12, 10, generator=drawn)


def captum_infidelity() -> Tensor:
    """Captum's infidelity under the noise that ours draws, image by image."""
    from captum.metrics import infidelity

    found = []
    for x, a, label in zip(images(), MAPS, CLASSES.tolist(), strict=True):
        noise = NOISE * (x.max() - x.min()) * noises(uniform=False)
        found.append(
            infidelity(
                network(), lambda _, x=x, noise=noise: (noise, x - noise), x[None], a[None],
                target=label, n_perturb_samples=SAMPLES, max_examples_per_batch=SAMPLES,
            )
        )  # fmt: skip
    return torch.cat(found)


def captum_sensitivity() -> Tensor:
    """Captum's largest sensitivity of the gradient under the noise that ours draws."""
    from captum.attr import Saliency
    from captum.metrics import sensitivity_max

    gradient, found = Saliency(network()), []
    for x, label in zip(images(), CLASSES.tolist(), strict=True):
        noise = RADIUS * (x.max() - x.min()) * noises(uniform=True)
        found.append(
            sensitivity_max(
                lambda inputs, **kw: gradient.attribute(inputs, abs=False, **kw),
                x[None], added(x, noise), target=label,
                n_perturb_samples=SAMPLES, max_examples_per_batch=SAMPLES,
            )
        )  # fmt: skip
    return torch.cat(found)


def added(x: Tensor, noise: Tensor) -> Callable[[Tensor], Tensor]:
    """A perturbation of one argument: Captum gives its radius to any other."""
    return lambda _: x + noise


def row(
    metric: str, peer: str, how: str, ours: Callable[[], Tensor], theirs: Callable[[], Any]
) -> Row:
    """A row of numbers, one for each image."""
    numbers = lambda: torch.as_tensor(np.asarray(theirs(), dtype=float)).flatten()  # noqa: E731
    return Row(metric, peer, NETWORK, lambda: (ours(), numbers()), TOLERANCE, how)


def rows() -> list[Row]:
    """Metrics that a peer computes by the same formula."""
    model, x = network(), images()
    return [
        row("deletion", "Quantus PixelFlipping", "one pixel a step; its curve integrated",
            lambda: metrics.deletion(model, x, MAPS, CLASSES, steps=120, baseline=0.0), flipped),
        row("gini", "Quantus Sparseness", "one channel",
            lambda: metrics.gini(MAPS), lambda: measured("Sparseness")),
        row("entropy", "Quantus Complexity", "one channel",
            lambda: metrics.entropy(MAPS), lambda: measured("Complexity")),
        row("mass_accuracy", "Quantus RelevanceMassAccuracy", "a map without negative values",
            lambda: metrics.mass_accuracy(MAPS, MASKS),
            lambda: measured("RelevanceMassAccuracy", s=MASKS)),
        row("rank_accuracy", "Quantus RelevanceRankAccuracy", "a map without ties",
            lambda: metrics.rank_accuracy(MAPS, MASKS),
            lambda: measured("RelevanceRankAccuracy", s=MASKS)),
        row("auc", "Quantus AUC", "a map without ties", lambda: metrics.auc(MAPS, MASKS),
            lambda: measured("AUC", s=MASKS)),
        row("infidelity", "Captum infidelity", "the same noise",
            lambda: metrics.infidelity(model, x, MAPS, CLASSES, perturbation="noise",
                                       samples=SAMPLES, noise=NOISE), captum_infidelity),
        row("max_sensitivity", "Captum sensitivity_max", "the same noise; the signed gradient",
            lambda: metrics.max_sensitivity(model, x, "saliency", CLASSES, samples=SAMPLES,
                                            radius=RADIUS), captum_sensitivity),
    ]  # fmt: skip


class Constant(nn.Module):
    """Class 0 is predicted, whatever the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([1.0, 0.0])


class Attention(nn.Module):
    """An attention block over pixels, with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.positions = nn.Parameter(torch.ones(10, 12))
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x[:, 0].transpose(1, 2) + self.positions
        out: Tensor = self.attention(tokens, tokens, tokens)[0].mean(1)
        return out


def kept(model: nn.Module, other: nn.Module) -> list[str]:
    """Names of the parameters that two models share."""
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    return sorted(name for (name, one), two in pairs if torch.equal(one, two))


def randomized_by_quantus(model: nn.Module) -> nn.Module:
    """The model in which Quantus has drawn all layers again."""
    quantus()
    wrapper = importlib.import_module("quantus.helpers.model.pytorch_model")
    wrapped = wrapper.PyTorchModel(model, channel_first=True)
    *_, (_, last) = wrapped.get_random_layer_generator()
    made: nn.Module = last
    return made


def faults() -> list[Fault]:
    """Cases where Quantus is wrong."""
    labels, rgb = torch.tensor([0, 0, 1, 1]), images(3)
    empty, signed = torch.zeros_like(MASKS), MAPS - 0.45
    attention = Attention().eval()
    two = {"model": Constant().eval(), "y": labels, "batch_size": 2, "percentages": [50]}
    inside = "every number in [0, 1]"
    return [
        Fault("ROAD of four images in batches of two, class 0 predicted, labels 0, 0, 1, 1",
              "mean over the images", "0.5",
              lambda: float(metrics.road(Constant(), images(), MAPS, labels).mean()),
              "Quantus ROAD", lambda: measured("ROAD", **two)[50]),
        Fault("ROAD of RGB images, class 0 predicted, label 0", "mean over the images", "1.0",
              lambda: float(metrics.road(Constant(), rgb, MAPS, 0 * labels).mean()),
              "Quantus ROAD", lambda: measured("ROAD", **two | {"x": rgb, "y": 0 * labels})[50]),
        Fault("correlations of four images, in batches of 2 and of 4", "largest difference", "0.0",
              lambda: apart(*(metrics.faithfulness_correlation(
                  network(), images(), MAPS, CLASSES, batch_size=n) for n in (2, 4))),
              "Quantus SensitivityN",
              lambda: apart(*(measured("SensitivityN", batch_size=n, features_in_step=10,
                                       return_aggregate=False) for n in (2, 4)))),
        Fault("pointing game with an empty mask", "hit", "nan",
              lambda: float(metrics.pointing_game(MAPS, empty)[0]),
              "Quantus PointingGame", lambda: float(measured("PointingGame", s=empty)[0])),
        Fault("mass accuracy of a signed map", "range", inside,
              lambda: bounded(metrics.mass_accuracy(signed, MASKS), inside),
              "Quantus RelevanceMassAccuracy",
              lambda: bounded(measured("RelevanceMassAccuracy", a=signed, s=MASKS), inside)),
        Fault("infidelity with 1, 2 and 4 random samples", "different numbers", "3",
              lambda: len({infidelity_of(n) for n in (1, 2, 4)}),
              "Quantus Infidelity",
              lambda: len({round(float(measured(
                  "Infidelity", perturb_patch_sizes=[2], n_perturb_samples=n)[0]), 6)
                  for n in (1, 2, 4)})),
        Fault("re-initialization of attention with positions", "parameters that stay", "[]",
              lambda: kept(attention, reinitialized(attention, 0)),
              "Quantus MPRT", lambda: kept(attention, randomized_by_quantus(attention))),
    ]  # fmt: skip


def apart(first: Any, second: Any) -> float:
    """The largest difference, to four digits."""
    return round(float(np.abs(np.asarray(first) - np.asarray(second)).max()), 4)


def infidelity_of(samples: int) -> float:
    """Our infidelity of the first image."""
    found = metrics.infidelity(network(), images()[:1], MAPS[:1], 0, samples=samples)
    return round(found.item(), 6)


def bounded(numbers: Any, text: str) -> str:
    """The text if all numbers lie in [0, 1], or the smallest and the largest."""
    low, high = float(np.min(np.asarray(numbers))), float(np.max(np.asarray(numbers)))
    return text if low >= 0 and high <= 1 else f"from {low:.3g} to {high:.3g}"
