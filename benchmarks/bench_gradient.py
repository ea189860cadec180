"""Gradient and propagation methods beside the bare passes they need and beside Captum.

Captum runs as documented and, where it has settings for that, tuned. What the bare passes are: one
forward and input gradient per gradient of the formula; for LRP with z⁺ one forward more, for the
positive weights.

Run `make bench`. Everything is measured in one process on two threads: rounds are interleaved
(bare passes, ours, Captum, …), the median is taken, a warm-up round is dropped. Peak memory is the
high-water mark of a fresh process above its level before the call. The network is the
plugin's CNN with random weights: speed does not depend on what they are.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from memory import peak_mb
from timing import Calls, interleaved
from torch import Tensor, nn

import explainkit as ek
from explainkit_fer_hw3.models import build_cnn

STEPS, SAMPLES = 50, 25
TUNED = 16  # images at once that bare loops and Captum are fastest with


def bare(model: nn.Module, images: Tensor, target: Tensor, passes: int) -> None:
    """The forwards and input gradients that a method can't do without, and nothing else."""
    points = images.repeat_interleave(passes, 0)
    labels = target.repeat_interleave(passes)
    for start in range(0, len(points), TUNED):
        x = points[start : start + TUNED].clone().requires_grad_()
        score = model(x).gather(1, labels[start : start + TUNED, None]).sum()
        torch.autograd.grad(score, x)


class Unflattened(nn.Module):
    """The network with its flattening as a function: Captum's LRP has no rule for the module."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.before = [isinstance(layer, nn.Flatten) for layer in model].index(True)
        self.layers = nn.ModuleList(layer for layer in model if not isinstance(layer, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            x = layer(x.flatten(1) if place == self.before else x)
        return x


def forward_too(model: nn.Module, images: Tensor, target: Tensor) -> None:
    """A forward and input gradient, and one forward more."""
    bare(model, images, target, 1)
    with torch.no_grad():
        model(images)


def candidates(model: nn.Sequential, images: Tensor, target: Tensor) -> dict[str, Calls]:
    def ours(method: str, **params: object) -> Callable[[], Any]:
        return lambda: ek.explain(model, images, target, method, **params)

    saliency = captum.attr.Saliency(model)
    leaf = images.clone().requires_grad_()
    tunnel = captum.attr.NoiseTunnel(saliency)
    integrated = captum.attr.IntegratedGradients(model)
    shap = captum.attr.GradientShap(model)
    bag = torch.zeros_like(images[:1])
    noise = {"nt_samples": SAMPLES, "stdevs": 0.15, "target": target}
    return {
        "saliency": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("saliency"),
            "captum": lambda: saliency.attribute(leaf, target, abs=False),
        },
        "input_x_gradient": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("input_x_gradient"),
            "captum": lambda: captum.attr.InputXGradient(model).attribute(leaf, target),
        },
        "integrated_gradients": {
            "bare": lambda: bare(model, images, target, STEPS),
            "explainkit": ours("integrated_gradients", steps=STEPS),
            "captum": lambda: integrated.attribute(images, 0.0, target, n_steps=STEPS),
            "captum tuned": lambda: integrated.attribute(
                images, 0.0, target, n_steps=STEPS, internal_batch_size=TUNED
            ),
        },
        "expected_gradients": {
            "bare": lambda: bare(model, images, target, SAMPLES),
            "explainkit": ours("expected_gradients", samples=SAMPLES),
            "captum": lambda: shap.attribute(images, bag, target=target, n_samples=SAMPLES),
        },
        "blur_ig": {
            "bare": lambda: bare(model, images, target, STEPS + 1),
            "explainkit": ours("blur_ig", steps=STEPS),
        },
        "guided_ig": {
            "bare": lambda: bare(model, images, target, STEPS + 1),
            "explainkit": ours("guided_ig", steps=STEPS),
        },
        "idgi": {
            "bare": lambda: bare(model, images, target, STEPS + 1),
            "explainkit": ours("idgi"),
        },
        "guided_backprop": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("guided_backprop"),
            "captum": lambda: captum.attr.GuidedBackprop(model).attribute(leaf, target),
        },
        "deconvnet": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("deconvnet"),
            "captum": lambda: captum.attr.Deconvolution(model).attribute(leaf, target),
        },
        "deeplift": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("deeplift"),
            "captum": lambda: captum.attr.DeepLift(model).attribute(leaf, target=target),
        },
        "lrp epsilon": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("lrp", composite="epsilon"),
            "captum": lambda: captum.attr.LRP(Unflattened(model)).attribute(leaf, target),
        },
        "lrp epsilon_plus": {
            "bare": lambda: forward_too(model, images, target),
            "explainkit": ours("lrp", composite="epsilon_plus"),
        },
        "full_gradient": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("full_gradient"),
        },
        "smoothgrad": {
            "bare": lambda: bare(model, images, target, SAMPLES),
            "explainkit": ours("smoothgrad", samples=SAMPLES),
            "captum": lambda: tunnel.attribute(leaf, abs=False, **noise),
            "captum tuned": lambda: tunnel.attribute(
                leaf, abs=False, nt_samples_batch_size=max(TUNED // len(images), 1), **noise
            ),
        },
    }


def prepare(batch: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.set_num_threads(2)
    # Captum computes the gradients of all weights unless they are frozen: its best setting
    torch.manual_seed(0)
    model = build_cnn().eval().requires_grad_(False)
    return model, torch.rand(batch, 1, 48, 48), torch.arange(batch) % 7


def peak(method: str, batch: int, name: str) -> float:
    """Megabytes above the level before the call; the process is fresh."""
    model, images, target = prepare(batch)
    call = candidates(model, images, target)[method][name]
    bare(model, images[:1], target[:1], 1)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(4, 7)).eval()
    for warm in candidates(tiny, torch.rand(2, 1, 2, 2), target[:2])[method].values():
        warm()  # imports are not the method's memory
    before = peak_mb()
    call()
    return peak_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="methods; all by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak[0], options.batch, options.peak[1]))
        return
    rows = []
    for method in candidates(*prepare(1)):
        if options.only and method not in options.only:
            continue
        calls = candidates(*prepare(options.batch))[method]
        times = interleaved(calls, options.rounds)
        for name, value in times.items():
            command = [sys.executable, __file__, "--batch", str(options.batch), "--peak", method]
            memory = subprocess.run([*command, name], capture_output=True, text=True, check=True)
            rows.append(
                {
                    "method": method,
                    "what": name,
                    "ms_per_image": 1000 * value / options.batch,
                    "ratio_to_bare": value / times["bare"],
                    "peak_mb": float(memory.stdout),
                }
            )
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"batch {options.batch}, {options.rounds} interleaved rounds, torch {torch.__version__}\n"
    )
    print(f"{'method':22}{'':14}{'ms/image':>10}{'/ bare':>9}{'peak MB':>10}")
    for row in rows:
        print(
            f"{row['method']:22}{row['what']:14}{row['ms_per_image']:10.1f}"
            f"{row['ratio_to_bare']:9.3f}{row['peak_mb']:10.0f}"
        )


if __name__ == "__main__":
    main()
