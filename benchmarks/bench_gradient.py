"""Gradient and propagation methods compared with the bare passes they need and Captum.

Captum runs as documented and, where it has settings for that, tuned. The bare passes are one
forward and input gradient per gradient of the formula; LRP with z⁺ needs one more forward, for the
positive weights.

Run `make bench`. Everything is measured in one process on two threads: rounds are interleaved
(bare passes, ours, Captum, …), a warm-up round is dropped and the median is reported. Peak memory
is the high-water mark of a fresh process minus its level before the call. The network is the
plugin's CNN with random weights: speed does not depend on their values.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from memory import peak_mb, printed_by
from timing import Calls, Lazy, attempt, interleaved, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit.methods import IntegratedGradients
from explainkit_fer_hw3.models import build_cnn

TUNED = 16
"""The batch size at which bare loops and Captum are fastest."""

captum = Lazy("captum.attr")


def bare(model: nn.Module, images: Tensor, target: Tensor, passes: int) -> None:
    """The forwards and input gradients that a method needs at least, and nothing else."""
    points = images.repeat_interleave(passes, 0)
    labels = target.repeat_interleave(passes)
    for start in range(0, len(points), TUNED):
        x = points[start : start + TUNED].clone().requires_grad_()
        score = model(x).gather(1, labels[start : start + TUNED, None]).sum()
        torch.autograd.grad(score, x)


class Unflattened(nn.Module):
    """The network with `torch.flatten` as a function: Captum's LRP has no rule for the module."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.before = [isinstance(layer, nn.Flatten) for layer in model].index(True)
        self.layers = nn.ModuleList(layer for layer in model if not isinstance(layer, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x.flatten(1) if index == self.before else x)
        return x


def forward_too(model: nn.Module, images: Tensor, target: Tensor) -> None:
    """A forward and input gradient, and one more forward."""
    bare(model, images, target, 1)
    with torch.no_grad():
        model(images)


def candidates(
    model: nn.Sequential, images: Tensor, target: Tensor, steps: int, samples: int
) -> dict[str, Calls]:
    def ours(method: str, **params: object) -> Callable[[], Any]:
        return lambda: ek.explain(model, images, target, method, **params)

    def smoothed(**params: object) -> Callable[[], Any]:
        return lambda: captum.NoiseTunnel(captum.Saliency(model)).attribute(
            leaf, abs=False, nt_samples=samples, stdevs=0.15, target=target, **params
        )

    def integrated(**params: object) -> Callable[[], Any]:
        return lambda: captum.IntegratedGradients(model).attribute(
            images, 0.0, target, n_steps=steps, **params
        )

    leaf = images.clone().requires_grad_()
    baselines = torch.zeros_like(images[:1])
    return {
        "saliency": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("saliency"),
            "captum": lambda: captum.Saliency(model).attribute(leaf, target, abs=False),
        },
        "input_x_gradient": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("input_x_gradient"),
            "captum": lambda: captum.InputXGradient(model).attribute(leaf, target),
        },
        "integrated_gradients": {
            "bare": lambda: bare(model, images, target, steps),
            "explainkit": ours("integrated_gradients", steps=steps),
            "captum": integrated(),
            "captum tuned": integrated(internal_batch_size=TUNED),
        },
        "expected_gradients": {
            "bare": lambda: bare(model, images, target, samples),
            "explainkit": ours("expected_gradients", samples=samples),
            "captum": lambda: captum.GradientShap(model).attribute(
                images, baselines, target=target, n_samples=samples
            ),
        },
        "blur_ig": {
            "bare": lambda: bare(model, images, target, steps + 1),
            "explainkit": ours("blur_ig", steps=steps),
        },
        "guided_ig": {
            "bare": lambda: bare(model, images, target, steps + 1),
            "explainkit": ours("guided_ig", steps=steps),
        },
        "idgi": {
            "bare": lambda: bare(model, images, target, steps + 1),
            "explainkit": ours("idgi", path=IntegratedGradients(steps=steps)),
        },
        "guided_backprop": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("guided_backprop"),
            "captum": lambda: captum.GuidedBackprop(model).attribute(leaf, target),
        },
        "deconvnet": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("deconvnet"),
            "captum": lambda: captum.Deconvolution(model).attribute(leaf, target),
        },
        "deeplift": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("deeplift"),
            "captum": lambda: captum.DeepLift(model).attribute(leaf, target=target),
        },
        "lrp epsilon": {
            "bare": lambda: bare(model, images, target, 1),
            "explainkit": ours("lrp", composite="epsilon"),
            "captum": lambda: captum.LRP(Unflattened(model)).attribute(leaf, target),
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
            "bare": lambda: bare(model, images, target, samples),
            "explainkit": ours("smoothgrad", samples=samples),
            "captum": smoothed(),
            "captum tuned": smoothed(nt_samples_batch_size=max(TUNED // len(images), 1)),
        },
    }


def prepare(batch: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    # Captum computes the gradients of all weights unless they are frozen, which is faster for it
    torch.manual_seed(0)
    model = build_cnn().eval().requires_grad_(False)
    return model, torch.rand(batch, 1, 48, 48), torch.arange(batch) % 7


def peak(method: str, name: str, batch: int, steps: int, samples: int) -> float:
    """Megabytes above the level before the call, in a fresh process."""
    model, images, target = prepare(batch)
    call = candidates(model, images, target, steps, samples)[method][name]
    bare(model, images[:1], target[:1], 1)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(4, 7)).eval()
    two, labels = torch.rand(2, 1, 2, 2), torch.arange(2)
    for what, warm in candidates(tiny, two, labels, steps, samples)[method].items():
        attempt(what, warm)  # imports are not the method's memory
    before = peak_mb()
    call()
    return peak_mb() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50, help="of path methods")
    parser.add_argument("--samples", type=int, default=25, help="of sampled methods")
    parser.add_argument("--only", nargs="*", default=[], help="methods; all by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "NAME"), help=argparse.SUPPRESS)
    options = parse(parser, batch=1, rounds=0, steps=4, samples=2)
    work = {name: getattr(options, name) for name in ("batch", "steps", "samples")}
    if options.peak:
        print(peak(*options.peak, **work))
        return
    flags = ["--smoke"] if options.smoke else []
    flags += [text for name, value in work.items() for text in (f"--{name}", value)]
    rows: list[dict[str, Any]] = []
    for method in candidates(*prepare(1), options.steps, options.samples):
        if options.only and method not in options.only:
            continue
        made = candidates(*prepare(options.batch), options.steps, options.samples)
        times, failed = interleaved(made[method], options.rounds)
        for name, value in times.items():
            rows.append(
                {
                    "method": method,
                    "what": name,
                    "ms_per_image": 1000 * value / options.batch,
                    "ratio_to_bare": value / times["bare"],
                }
            )
            if not options.smoke or len(rows) == 1:  # a process for each call takes seconds
                rows[-1]["peak_mb"] = printed_by(__file__, *flags, "--peak", method, name)
        rows += [{"method": method, "what": name, "failed": why} for name, why in failed.items()]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"batch {options.batch}, {options.rounds} interleaved rounds, torch {torch.__version__}\n"
    )
    print(f"{'method':22}{'':14}{'ms/image':>10}{'/ bare':>9}{'peak MB':>10}")
    for row in rows:
        head = f"{row['method']:22}{row['what']:14}"
        if "failed" in row:
            print(f"{head}  {row['failed']}")
            continue
        memory = f"{row['peak_mb']:10.0f}" if "peak_mb" in row else ""
        print(f"{head}{row['ms_per_image']:10.1f}{row['ratio_to_bare']:9.3f}{memory}")


if __name__ == "__main__":
    main()
