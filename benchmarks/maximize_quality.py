"""Quality of synthetic images: maximizers against quality measures, as a Markdown page.

Run ``python benchmarks/maximize_quality.py --data FILE > docs/reference/maximization-quality.md``
with a file of FER2013; without it, or under ``--smoke``, synthetic faces are used. Each maximizer
optimizes images for the same units and for the classes of the trained CNN. The objective is the
channel's mean, in one row its log odds within the layer; the measures always use the channel's
mean. Kernel distance, two-choice test and transfer use the DNN. The exemplar row measures the best
real image instead of a synthetic one.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import parse
from torch import Tensor

import explainkit as ek
from explainkit.activation_maximization.exemplars import find_exemplars
from explainkit.activation_maximization.quality import measure
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.data import load_fer2013, load_synthetic

STILL = {"jitter": 0, "scale": 0.0, "rotate": 0.0, "noise": 0.0}
TRANSFORMED, SELECTIVE = "Fourier + transforms", "Fourier + transforms, log odds"
MAXIMIZERS = {
    "pixel": ("pixel", STILL),
    "Fourier": ("fourier", STILL),
    TRANSFORMED: ("fourier", {}),
    SELECTIVE: ("fourier", {}),
    "MACO": ("maco", {}),
}
HEADINGS = (
    "live units", "Q1 gain > 1", "Q2 robust, median", "Q3 rank 1", "Q4 transfer, mean",
    "Q5 kernel distance", "Q5 spectrum error", "Q6 path, median", "Q7 synthetic",
    "Q7 exemplars", "Q8 converged",
)  # fmt: skip


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Unbiased kernel inception distance between two sets of features, valid for small sets.

    The squared maximum mean discrepancy of ``[n, d]`` and ``[m, d]``, n and m at least 2, with the
    kernel ``(x·y / d + 1)³``; the estimate may be slightly negative.

    References:
        Bińkowski, Sutherland, Arbel and Gretton (2018), "Demystifying MMD GANs",
        arXiv:1801.01401.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def row(
    found: Visualization, real: Tensor, dnn: torch.nn.Sequential, *, optimized: bool
) -> list[str]:
    """One row of the table: the measures over all live units."""
    live = ~found.dead
    quality = {name: values[live] for name, values in found.quality.items()}
    with torch.inference_mode():
        distance = kernel_distance(dnn[:-1](found.images[live]), dnn[:-1](real))
    return [
        f"{int(live.sum())} of {len(live)}",
        f"{(quality['gain'] > 1).float().mean():.0%}",
        f"{quality['robust_gain'].median():.2f}",
        f"{(quality['selectivity'] == 1).float().mean():.0%}",
        f"{quality['transfer'].mean():.0%}" if "transfer" in quality else "—",
        f"{distance:.3g}",
        f"{quality['spectrum_error'].mean():.2f}",
        f"{quality['path_similarity'].median():+.2f}",
        f"{quality['choice_synthetic'].mean():.0%}",
        f"{quality['choice_exemplars'].mean():.0%}",
        f"{found.converged[live].float().mean():.0%}" if optimized else "—",
    ]


def reached(measured: list[Visualization]) -> list[float]:
    """The measures that have a target, over all units of one maximizer."""

    def pooled(name: str) -> Tensor:
        return torch.cat([found.quality[name][~found.dead] for found in measured])

    converged = torch.cat([found.converged[~found.dead] for found in measured]).float()
    return [
        float((pooled("gain") > 1).float().mean()),
        float(pooled("robust_gain").median()),
        float((pooled("selectivity") == 1).float().mean()),
        float(converged.mean()),
    ]


def targets(measured: dict[str, list[Visualization]]) -> str:
    """The measures over all units beside their targets."""
    goals = [
        ("Q1 gain > 1", 0.95, ".0%"), ("Q2 robust, median", 0.7, ".2f"),
        ("Q3 rank 1", 0.8, ".0%"), ("Q8 converged", 0.95, ".0%"),
    ]  # fmt: skip
    columns = [reached(found) for found in measured.values()]
    lines = [
        f"| measure | at least | {' | '.join(measured)} |",
        "|---|---:|" + "---:|" * len(measured),
    ]
    for (name, least, form), *values in zip(goals, *columns, strict=True):
        cells = [f"{value:{form}}{'' if value >= least else ', missed'}" for value in values]
        lines.append(f"| {name} | {least:{form}} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--layers", nargs="+", default=["1", "7", "15"])
    parser.add_argument("--units", type=int, default=8)
    parser.add_argument("--images", type=int, default=350)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--copies", type=int, default=64, help="transformed, for Q2")
    arguments = parse(parser, data=None, layers=["1"], units=2, images=30, steps=2, copies=2)
    split = "public_test"
    faces = load_fer2013(arguments.data, split) if arguments.data else load_synthetic(None, split)
    images = faces.images[: arguments.images]
    cnn, dnn = (ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn"))
    compared: Any = {"other": dnn, "features": dnn[:-1], "copies": arguments.copies}
    numbers = list(range(arguments.units))
    print("# Maximization: quality measured\n")
    print(
        "This page is generated by one run of `benchmarks/maximize_quality.py`. Model: the trained "
        f"CNN; the first {arguments.units} units of each layer, and the classes; "
        f"{arguments.steps} steps; measured against {len(images)} "
        f"{'images of FER2013' if arguments.data else 'synthetic faces'}. "
        "`explainkit.activation_maximization.quality.measure` defines the measures. Q4, the "
        "probability that the DNN assigns to the class, applies to classes only. In the rows "
        "`log odds` the objective is `all_log_odds(…)`, the channel's log odds within its layer; "
        "the measures use the channel's mean, as in all rows.\n"
    )
    measured: dict[str, list[Visualization]] = {TRANSFORMED: [], SELECTIVE: []}
    classes = list(range(len(faces.class_names)))
    sections = [(f"Layer {name}", name, numbers) for name in arguments.layers]
    for title, layer, units in [*sections, ("Classes", str(len(cnn) - 1), classes)]:
        print(f"## {title}\n\n| maximizer | {' | '.join(HEADINGS)} |")
        print("|---|" + "---:|" * len(HEADINGS))
        of_units = title != "Classes"
        for name, (maximizer, params) in MAXIMIZERS.items():
            if name == SELECTIVE and not of_units:
                measured[SELECTIVE].append(
                    measured[TRANSFORMED][-1]
                )  # the softmax already compares logits
                continue
            family = "all_log_odds" if name == SELECTIVE else "channels"
            objective = f'{family}("{layer}", {units})' if of_units else "classes()"
            found = ek.maximize(
                cnn, objective, maximizer=maximizer, steps=arguments.steps, dataset=images, **params
            )
            if of_units:
                found = replace(
                    found, objective=tuple(f'channel("{layer}", {unit})' for unit in units)
                )
            found = measure(found, cnn, images, **compared)
            print(f"| {name} | {' | '.join(row(found, images, dnn, optimized=True))} |", flush=True)
            if name in measured:
                measured[name].append(found)
        best = find_exemplars(cnn, layer, images, k=1).top[units, 0]
        shown = replace(found, images=images[best], dead=torch.zeros_like(found.dead))
        shown = measure(shown, cnn, images, **compared)
        print(
            f"| exemplar | {' | '.join(row(shown, images, dnn, optimized=False))} |\n", flush=True
        )
    print(f"## Targets\n\nAll units and classes above together:\n\n{targets(measured)}")


if __name__ == "__main__":
    main()
