"""How far synthetic images can be trusted: ways to maximize against measures, as Markdown.

Run ``python benchmarks/maximize_quality.py > docs/reference/maximization-quality.md``; the page is
of FER2013, with ``--data``. Each way finds an image for the same units of the trained CNN, and for
its classes. All ways maximize the channel's mean but one, which maximizes its lead over its layer's
others; all are measured by the channel's mean. Kernel distance, two-choice and transfer use the
DNN. The exemplar row shows the best real image in the synthetic one's place.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import explainkit as ek
from explainkit.activation_maximization.exemplars import find_exemplars
from explainkit.activation_maximization.quality import kernel_distance, measure
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.data import load_fer2013, load_synthetic

STILL = {"jitter": 0, "scale": 0.0, "rotate": 0.0, "noise": 0.0}
JUDGED, AHEAD = "Fourier + transforms", "Fourier + transforms, lead"
WAYS = {
    "pixel": ("pixel", STILL),
    "Fourier": ("fourier", STILL),
    JUDGED: ("fourier", {}),
    AHEAD: ("fourier", {}),
    "MACO": ("maco", {}),
}
HEADS = (
    "live units", "Q1 gain > 1", "Q2 robust, median", "Q3 rank 1", "Q4 transfer, mean",
    "Q5 kernel distance", "Q5 spectrum off", "Q6 path, median", "Q7 by image",
    "Q7 by exemplars", "Q8 converged",
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
        f"{found.converged[live].float().mean():.0%}" if climbed else "—",
    ]


def reached(judged: list[Visualization]) -> list[float]:
    """The measures that are asked for, over all units of one way together."""

    def pooled(name: str) -> Tensor:
        return torch.cat([found.quality[name][~found.dead] for found in judged])

    converged = torch.cat([found.converged[~found.dead] for found in judged]).float()
    return [
        float((pooled("gain") > 1).float().mean()),
        float(pooled("robust_gain").median()),
        float((pooled("selectivity") == 1).float().mean()),
        float(converged.mean()),
    ]


def targets(judged: dict[str, list[Visualization]]) -> str:
    """All units of the judged ways together, beside what is asked of them."""
    asked = [
        ("Q1 gain > 1", 0.95, ".0%"), ("Q2 robust, median", 0.7, ".2f"),
        ("Q3 rank 1", 0.8, ".0%"), ("Q8 converged", 0.95, ".0%"),
    ]  # fmt: skip
    columns = [reached(found) for found in judged.values()]
    lines = [f"| measure | at least | {' | '.join(judged)} |", "|---|---:|" + "---:|" * len(judged)]
    for (name, least, form), *values in zip(asked, *columns, strict=True):
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
    arguments = parser.parse_args()
    split = "public_test"
    faces = load_fer2013(arguments.data, split) if arguments.data else load_synthetic(None, split)
    images = faces.images[: arguments.images]
    cnn, dnn = (ek.load_model(f"fer_hw3/{name}") for name in ("cnn", "dnn"))
    numbers = list(range(arguments.units))
    print("# Maximization: quality measured\n")
    print(
        "This page is generated: all of it was printed by one run of "
        "`benchmarks/maximize_quality.py`. The trained CNN; the first "
        f"{arguments.units} units of each layer, and the classes; {arguments.steps} steps; "
        f"measured against {len(images)} "
        f"{'images of FER2013' if arguments.data else 'synthetic faces'}. "
        "`explainkit.activation_maximization.quality.measure` defines the measures; Q4 is of "
        "classes only: the probability that the DNN gives the class. LogOdds: the objective is "
        "`all_log_odds(…)`, how far a unit is ahead of its layer's others; it is measured by its "
        "channel's mean like all.\n"
    )
    judged: dict[str, list[Visualization]] = {JUDGED: [], AHEAD: []}
    classes = list(range(len(faces.class_names)))
    sections = [(f"Layer {name}", name, numbers) for name in arguments.layers]
    for title, layer, units in [*sections, ("Classes", str(len(cnn) - 1), classes)]:
        print(f"## {title}\n\n| way | {' | '.join(HEADS)} |")
        print("|---|" + "---:|" * len(HEADS))
        of_units = title != "Classes"
        for way, (maximizer, params) in WAYS.items():
            if way == AHEAD and not of_units:
                judged[AHEAD].append(judged[JUDGED][-1])  # logits are compared by the softmax
                continue
            family = "all_log_odds" if way == AHEAD else "channels"
            objective = f'{family}("{layer}", {units})' if of_units else "classes()"
            found = ek.maximize(
                cnn, objective, maximizer=maximizer, steps=arguments.steps, dataset=images, **params
            )
            if of_units:
                found = replace(
                    found, objective=tuple(f'channel("{layer}", {unit})' for unit in units)
                )
            found = measure(found, cnn, images, other=dnn, features=dnn[:-1])
            print(f"| {way} | {' | '.join(row(found, images, dnn, climbed=True))} |", flush=True)
            if way in judged:
                judged[way].append(found)
        best = find_exemplars(cnn, layer, images, k=1).top[units, 0]
        shown = replace(found, images=images[best], dead=torch.zeros_like(found.dead))
        shown = measure(shown, cnn, images, other=dnn, features=dnn[:-1])
        print(f"| exemplar | {' | '.join(row(shown, images, dnn, climbed=False))} |\n", flush=True)
    print(f"## Targets\n\nAll units and classes above together:\n\n{targets(judged)}")


if __name__ == "__main__":
    main()
