"""Activation maximisation beside the bare forwards and gradients it needs, and beside Lucent.

Run ``python benchmarks/bench_maximize.py``. One process on two threads: rounds are interleaved,
the median is taken, a warm-up round is dropped. The network is the plugin's CNN with random
weights: speed does not depend on what they are. Lucent 0.1.8 is measured where it can be
imported (it needs kornia 0.4.1 and torchvision): Fourier pictures, no transforms, one unit at a
time, as it is documented.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import explainkit as ek
from explainkit_fer_hw3.models import build_cnn

LAYERS = {"first": ("0", 128), "last": ("14", 32)}
STILL = {"jitter": 0, "scale": 0, "rotate": 0, "noise": 0}
BATCH = 32


def bare(model: nn.Sequential, layer: str, units: int, steps: int) -> None:
    """The forwards to the layer and the gradients that can't be done without, nothing else."""
    head = model[: int(layer) + 1]
    for start in range(0, units, BATCH):
        images = torch.randn(min(BATCH, units - start), 1, 48, 48)
        rows = torch.arange(len(images))
        for _ in range(steps):
            leaf = images.clone().requires_grad_()
            score = head(leaf)[rows, start + rows].mean((1, 2)).sum()
            torch.autograd.grad(score, leaf)


def lucent(model: nn.Sequential, layer: str, units: int, steps: int) -> Callable[[], object] | None:
    try:
        from lucent.optvis import param, render
    except ImportError:
        return None

    def run() -> None:
        for unit in range(units):
            render.render_vis(
                model, f"{layer}:{unit}", lambda: param.image(48, channels=1, fft=True),
                thresholds=(steps,), transforms=[], preprocess=False, fixed_image_size=48,
                progress=False, show_image=False,
            )  # fmt: skip

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = build_cnn().eval().requires_grad_(False)
    steps = arguments.steps
    table = {}
    for name, (layer, units) in LAYERS.items():
        objective = f'channels("{layer}", {list(range(units))})'

        def ours(objective: str = objective, **how: float) -> object:
            return ek.maximize(model, objective, shape=(1, 48, 48), steps=steps, **how)

        runs: dict[str, Callable[[], object] | None] = {
            "bare": lambda layer=layer, units=units: bare(model, layer, units, steps),
            "explainkit, no transforms": lambda ours=ours: ours(**STILL),
            "explainkit": ours,
            "lucent": lucent(model, layer, units, steps),
        }
        times: dict[str, list[float]] = {run: [] for run, call in runs.items() if call}
        for _ in range(arguments.rounds + 1):
            for run, took in times.items():
                begin = time.perf_counter()
                runs[run]()  # type: ignore[misc]
                took.append(time.perf_counter() - begin)
        table[f"{name} convolution, {units} units, {steps} steps"] = {
            run: round(statistics.median(took[1:]), 3) for run, took in times.items()
        }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
