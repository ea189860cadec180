"""How far synthetic pictures can be trusted: ways to maximise against measures, as Markdown.

Run ``python benchmarks/maximize_quality.py > docs/reference/maximisation-quality.md``; on FER2013
with ``--data``. Each way finds a picture for the same units of the trained CNN. Kernel distance and
two-choice use the DNN's features. The exemplar row shows the best real picture in the synthetic
one's place.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import explainkit as ek
from explainkit.maximize.exemplars import find_exemplars
from explainkit.maximize.quality import kernel_distance, measure
from explainkit.visualization import Visualization
from explainkit_fer_hw3.data import load_drawn, load_fer2013

STILL = {"jitter": 0, "scale": 0.0, "rotate": 0.0, "noise": 0.0}
WAYS = {
    "pixel": ("pixel", STILL),
    "Fourier": ("fourier", STILL),
    "Fourier + transforms": ("fourier", {}),
    "MACO": ("maco", {}),
}
HEADS = (
    "units", "Q1 gain > 1", "Q2 robust, median", "Q3 rank 1", "Q5 kernel distance",
    "Q5 spectrum off", "Q6 path, median", "Q7 by picture", "Q7 by exemplars", "Q8 converged",
)  # fmt: skip


def row(
    found: Visualization, real: Tensor, dnn: torch.nn.Sequential, *, climbed: bool
) -> list[str]:
    """The measures over all live units."""
    live = ~found.dead
    quality = {name: values[live] for name, values in found.quality.items()}
    with torch.inference_mode():
        distance = kernel_distance(dnn[:-1](found.images[live]), dnn[:-1](real))
    return [
        str(int(live.sum())),
        f"{(quality['gain'] > 1).float().mean():.0%}",
        f"{quality['robust_gain'].median():.2f}",
        f"{(quality['selectivity'] == 1).float().mean():.0%}",
        f"{distance:.3g}",
        f"{quality['spectrum_error'].mean():.2f}",
        f"{quality['path_similarity'].median():+.2f}",
        f"{quality['choice_synthetic'].mean():.0%}",
        f"{quality['choice_exemplars'].mean():.0%}",
        f"{found.converged[live].float().mean():.0%}" if climbed else "—",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--layers", nargs="+", default=["1", "7", "15"])
    parser.add_argument("--units", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=700)
    parser.add_argument("--steps", type=int, default=256)
    arguments = parser.parse_args()
    split = "public_test"
    faces = load_fer2013(arguments.data, split) if arguments.data else load_drawn(None, split)
    images = faces.images[: arguments.pictures]
    cnn, dnn = (ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn"))
    print("# Maximisation: quality measured\n")
    print(
        f"`benchmarks/maximize_quality.py`: the trained CNN, the first {arguments.units} units of "
        f"each layer, {arguments.steps} steps, {len(images)} "
        f"{'pictures of FER2013' if arguments.data else 'drawn faces'}. "
        "Q4, transfer, is of classes.\n"
    )
    for layer in arguments.layers:
        print(f"## Layer {layer}\n\n| way | {' | '.join(HEADS)} |")
        print("|---|" + "---:|" * len(HEADS))
        numbers = list(range(arguments.units))
        found = None
        for name, (maximizer, params) in WAYS.items():
            found = ek.maximize(
                cnn, f'channels("{layer}", {numbers})', maximizer=maximizer, steps=arguments.steps,
                dataset=images, **params,
            )  # fmt: skip
            judged = measure(found, cnn, images, features=dnn[:-1])
            print(f"| {name} | {' | '.join(row(judged, images, dnn, climbed=True))} |", flush=True)
        assert found is not None
        best = find_exemplars(cnn, layer, images, k=1).top[: arguments.units, 0]
        shown = replace(found, images=images[best], dead=torch.zeros_like(found.dead))
        judged = measure(shown, cnn, images, features=dnn[:-1])
        print(f"| exemplar | {' | '.join(row(judged, images, dnn, climbed=False))} |\n", flush=True)


if __name__ == "__main__":
    main()
