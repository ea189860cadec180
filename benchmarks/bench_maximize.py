"""Activation maximization compared with its bare forwards and gradients, and with Lucent.

Run ``python benchmarks/bench_maximize.py``. One process on two threads: rounds are interleaved,
a warm-up round is dropped and the median is reported. The network is the plugin's CNN with random
weights: speed does not depend on their values. All optimize Fourier images without transforms
(``--transforms`` adds ours with them). Lucent optimizes one unit at a time, as documented; it is
timed on a few units, and all times are per unit. It is measured where it is installed
(`make peers`).
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import installed, interleaved, parse
from torch import nn

import explainkit as ek
from explainkit.activation_maximization.runner import WIDEST
from explainkit_fer_hw3.models import build_cnn

LAYERS = {"first": ("0", 128, 8), "last": ("14", 32, 4)}
"""Layer, its units, and how many of them Lucent is timed on.

Where a flat image would score higher than the optimized one, as for every unit of the first
convolution, ours optimizes twice. It computes only the requested channel of a convolution, so that
it can take less than the bare passes through the whole layer.
"""

STILL = {"jitter": 0, "scale": 0, "rotate": 0, "noise": 0}


def bare(model: nn.Sequential, layer: str, units: int, steps: int) -> None:
    """The forwards up to the layer and the gradients that are needed at least, nothing else."""
    head = model[: int(layer) + 1]
    for start in range(0, units, WIDEST):
        images = torch.randn(min(WIDEST, units - start), 1, 48, 48)
        rows = torch.arange(len(images))
        for _ in range(steps):
            leaf = images.clone().requires_grad_()
            score = head(leaf)[rows, start + rows].mean((1, 2)).sum()
            torch.autograd.grad(score, leaf)


def lucent(model: nn.Sequential, layer: str, units: int, steps: int) -> None:
    """Lucent as documented, on images of this size and without transforms."""
    from lucent.optvis import param, render

    for unit in range(units):
        render.render_vis(
            model, f"{layer}:{unit}", lambda: param.image(48, channels=1, fft=True),
            thresholds=(steps,), transforms=[], preprocess=False, fixed_image_size=48,
            progress=False, show_image=False,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transforms", action="store_true")
    arguments = parse(parser, steps=2, rounds=0)
    torch.manual_seed(0)
    model = build_cnn().eval().requires_grad_(False)
    hooked = copy.deepcopy(model)  # Lucent leaves its hooks behind
    steps = arguments.steps
    if installed("lucent"):
        # stand-ins for IPython and torchvision: it imports names that are not used here
        stand_ins = Path(__file__).parent / "stand_ins"
        sys.path += [str(stand_ins), str(stand_ins / "lucent_only")]
    table: dict[str, Any] = {}
    for name, (layer, units, few) in LAYERS.items():

        def ours(layer: str = layer, units: int = units, **how: float) -> object:
            objective = f'channels("{layer}", {list(range(units))})'
            return ek.maximize(model, objective, shape=(1, 48, 48), steps=steps, **how)

        calls: dict[str, Callable[[], object]] = {
            "bare": lambda layer=layer, units=units: bare(model, layer, units, steps),
            "explainkit": lambda ours=ours: ours(**STILL),
        }
        if arguments.transforms:
            calls["explainkit, transforms"] = ours
        calls["lucent"] = lambda layer=layer, few=few: lucent(hooked, layer, few, steps)
        seconds, failed = interleaved(calls, arguments.rounds)
        each = {run: took / (few if run == "lucent" else units) for run, took in seconds.items()}
        table[f"{name} convolution, {units} units, {steps} steps"] = {
            "ms per unit": {run: round(1000 * took, 2) for run, took in each.items()} | failed,
            "explainkit / bare": round(each["explainkit"] / each["bare"], 3),
        } | ({"lucent / explainkit": round(each["lucent"] / each["explainkit"], 2)}
             if "lucent" in each else {})  # fmt: skip
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
