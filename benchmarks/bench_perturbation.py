"""Black-box methods compared with their bare forwards and Captum, as documented and tuned.

Run `make bench`. One process, two threads: rounds are interleaved (bare forwards, ours, Captum, …),
a warm-up round is dropped and the median is reported. The last column is the largest difference to
the peer's map as a share of its largest value, where both compute the same. `--error` measures
accuracy instead of time: the root-mean-square error of Shapley estimators relative to a long run,
against the counted forwards, and how many forwards Captum's estimators need for the same error.
"""

import argparse
import json
from collections.abc import Callable

import networks
import torch
from timing import Calls, Lazy, interleaved, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit.engine.batching import chunk_size
from explainkit.methods.perturbation.lime import Lime
from explainkit.methods.perturbation.rise import Rise
from explainkit.methods.perturbation.segments import grid
from explainkit.methods.perturbation.sensitivity import Hsic, Sobol
from explainkit.methods.perturbation.shapley import KernelShap, ShapleySampling
from explainkit_fer_hw3.models import build_cnn

TUNED = 16
"""The batch size at which bare loops and Captum are fastest."""

captum = Lazy("captum.attr")


def bare(model: nn.Module, images: Tensor, forwards: int) -> Tensor:
    """The forwards that a method needs at least, and nothing else."""
    with torch.inference_mode():
        for image in images:
            for start in range(0, forwards, TUNED):
                count = min(TUNED, forwards - start)
                scores = model(image.expand(count, *image.shape).contiguous())
    return scores


def candidates(
    model: nn.Module, images: Tensor, target: Tensor, samples: int, cells: int
) -> dict[str, Calls]:
    height, width = images.shape[2:]
    labels = grid(cells, height, width)
    window = min(height, width) // (cells - 1)
    stride = window // 2

    def ours(method: str, **params: object) -> Callable[[], Tensor]:
        return lambda: ek.explain(model, images, target, method, **params).attribution

    def theirs(name: str, **params: object) -> Callable[[], Tensor]:
        def call() -> Tensor:
            method = getattr(captum, name)(model)
            with torch.no_grad():
                found: Tensor = method.attribute(images, target=target, **params)[:, :1]
            return found

        return call

    def positions(size: int) -> int:
        return -(-(size - window) // stride) + 1

    channels = images.shape[1]
    slide = {
        "sliding_window_shapes": (channels, window, window),
        "strides": (channels, stride, stride),
    }
    mask = {"feature_mask": labels[None, None]}
    per_eval = max(TUNED // len(images), 1)
    sampled = {name: {"segments": cells} for name in ("lime", "kernel_shap", "hsic")}
    sampled |= {"rise": {"cells": cells}, "partition_shap": {}}
    return {
        "occlusion": {
            "bare": lambda: bare(model, images, positions(height) * positions(width)),
            "explainkit": ours("occlusion", window=window, stride=stride),
            "captum": theirs("Occlusion", **slide),
            "captum tuned": theirs("Occlusion", perturbations_per_eval=per_eval, **slide),
        },
        "feature_ablation": {
            "bare": lambda: bare(model, images, cells**2),
            "explainkit": ours("feature_ablation", segments=cells),
            "captum": theirs("FeatureAblation", **mask),
            "captum tuned": theirs("FeatureAblation", perturbations_per_eval=per_eval, **mask),
        },
        "shapley_sampling": {
            "bare": lambda: bare(model, images, 4 * (cells**2 - 1) + 2),
            "explainkit": ours("shapley_sampling", samples=4, segments=cells),
            "captum tuned": theirs(
                "ShapleyValueSampling", n_samples=4, perturbations_per_eval=per_eval, **mask
            ),
        },
        **{
            name: {
                "bare": lambda: bare(model, images, samples),
                "explainkit": ours(name, samples=samples, **parts),
            }
            for name, parts in sampled.items()
        },
        "five together": {
            "bare": lambda: bare(model, images, samples),
            "explainkit": lambda: ek.explain(
                model, images, target, five(samples, cells)
            )[0].attribution,
        },
        "kernel_shap, all classes": {
            "bare": lambda: bare(model, images, samples),
            "explainkit": lambda: ek.explain(
                model, images, targets="all", method="kernel_shap", samples=samples,
                segments=cells,
            )[0].attribution,
        },
    }  # fmt: skip


def five(samples: int, cells: int) -> list[object]:
    """Five black-box methods, which use the same masks where their designs agree."""
    return [
        Rise(samples=samples, cells=cells, smooth=False), Lime(samples=samples, segments=cells),
        Hsic(samples=samples, segments=cells), KernelShap(samples=samples, segments=cells),
        Sobol(samples=8, segments=cells),
    ]  # fmt: skip


def sharing(model: nn.Module, image: Tensor, samples: int, cells: int) -> None:
    """Forwards of five methods, and how far the coalitions of one could serve the others."""
    count = 0

    def add(_module: nn.Module, inputs: tuple[Tensor], _output: object) -> None:
        nonlocal count
        count += len(inputs[0])

    def forwards(methods: list[object]) -> int:
        nonlocal count
        count = 0
        ek.explain(model, image, 0, methods)
        return count

    chunk_size(model, image[0])  # measured once per model, with a forward
    hook = model.register_forward_hook(add)
    alone = {type(method).__name__: forwards([method]) for method in five(samples, cells)}
    together = forwards(five(samples, cells))
    hook.remove()
    most = max(alone.values())
    print(f"forwards alone: {alone}, {sum(alone.values())} in all")
    print(f"together: {together}, {together / most:.2f} x the largest")
    features = cells**2
    sizes = KernelShap(samples=samples).draw(features)[1:].sum(1).long()
    size = torch.arange(features + 1, dtype=torch.float64)
    coin = torch.distributions.Binomial(features, torch.tensor(0.5, dtype=torch.float64))
    wanted, present = coin.log_prob(size).exp(), torch.bincount(sizes, minlength=features + 1)
    weights = (wanted / present.clamp(min=1))[sizes]
    effective = float(weights.sum() ** 2 / weights.square().sum())
    reusable = float(torch.minimum(wanted * samples, present.double()).sum())
    print(
        f"{len(sizes)} KernelSHAP coalitions reweighted to fair coins have an effective sample "
        f"size of {effective:.0f}; unweighted they could replace {reusable:.0f} of {samples}"
    )


def compare(calls: Calls, rounds: int) -> list[dict[str, object]]:
    maps: dict[str, Tensor] = {}

    def stored(name: str) -> Callable[[], None]:
        return lambda: maps.update({name: calls[name]()})

    seconds, failed = interleaved({name: stored(name) for name in calls}, rounds)
    rows: list[dict[str, object]] = []
    for name, value in seconds.items():
        row: dict[str, object] = {"what": name, "seconds": value}
        row["ratio_to_bare"] = value / seconds["bare"]
        if name.startswith("captum"):
            scale = maps[name].abs().max()
            row["difference"] = float((maps["explainkit"] - maps[name]).abs().max() / scale)
        rows.append(row)
    return rows + [{"what": name, "failed": why} for name, why in failed.items()]


def captums_kernel_shap(
    model: nn.Module, image: Tensor, label: int, labels: Tensor, samples: int, seed: int
) -> Tensor:
    """Captum's estimator, vectorized: kernel-distributed sizes, both ends with weight 1e6."""
    features = int(labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    size = torch.arange(1, features, dtype=torch.float64)
    drawn = 1 + torch.multinomial(
        1 / (size * (features - size)), samples - 2, replacement=True, generator=generator
    )
    rank = torch.rand(samples - 2, features, generator=generator).argsort(1).argsort(1)
    ends = torch.stack([torch.zeros(features), torch.ones(features)])
    present = torch.cat([ends, (rank < drawn[:, None]).float()])
    with torch.inference_mode():
        scores = [model(image * part[:, None, labels]) for part in torch.split(present, TUNED)]
    values = torch.cat(scores)[:, label].double()
    root = torch.ones(samples, 1, dtype=torch.float64)
    root[:2] = 1e3
    design = torch.cat([present.double(), torch.ones_like(root)], 1)
    return torch.linalg.lstsq(design * root, values[:, None] * root).solution[:-1, 0]


def captums_sampling(
    model: nn.Module, image: Tensor, label: int, labels: Tensor, permutations: int, seed: int
) -> Tensor:
    """Captum's ShapleyValueSampling, vectorized: independent permutations."""
    features = int(labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    rank = torch.rand(permutations, features, generator=generator).argsort(1).argsort(1)
    present = (rank[:, None] < torch.arange(features + 1)[None, :, None]).float()
    inner = present[:, 1:-1].flatten(0, 1)
    with torch.inference_mode():
        ends = model(torch.cat([torch.zeros_like(image), image]))[:, label].double()
        parts = [model(image * part[:, None, labels]) for part in torch.split(inner, TUNED)]
    values = torch.cat(parts)[:, label].double().reshape(permutations, features - 1)
    ends = ends.expand(permutations, 2)
    gains = torch.cat([ends[:, :1], values, ends[:, 1:]], 1).diff(dim=1)
    return torch.einsum("pkf,pk->f", present.double().diff(dim=1), gains) / permutations


THEIRS = ("captum KernelShap", "captum ShapleyValueSampling")


def errors(
    model: nn.Module, image: Tensor, cells: int, budgets: list[int], reference: int, seeds: int
) -> list[dict[str, object]]:
    """Root-mean-square errors of segment values relative to a long run, and the forwards used."""
    labels = grid(cells, *image.shape[2:])
    features = cells**2
    first = torch.stack([(labels == j).flatten().nonzero()[0, 0] for j in range(features)])
    label = int(model(image).argmax())
    chunk_size(model, image[0])  # measured once per model, with a forward
    count = 0

    def add(_module: nn.Module, inputs: tuple[Tensor], _output: object) -> None:
        nonlocal count
        count += len(inputs[0])

    def ours(method: object, seed: int) -> Tensor:
        found = ek.explain(model, image, label, method, seed=seed)
        return found.attribution.flatten()[first].double()

    truth = ours(KernelShap(samples=reference, segments=cells), seeds + 1)
    calls: dict[str, Callable[[int, int], Tensor]] = {
        "kernel_shap": lambda n, seed: ours(KernelShap(samples=n, segments=cells), seed),
        "kernel_shap, plain": lambda n, seed: ours(
            KernelShap(samples=n, segments=cells, surrogate=False), seed
        ),
        "shapley_sampling": lambda n, seed: ours(
            ShapleySampling(samples=max(2 * round(n / (2 * features)), 4), segments=cells), seed
        ),
        "captum KernelShap": lambda n, seed: captums_kernel_shap(
            model, image, label, labels, n, seed
        ),
        "captum ShapleyValueSampling": lambda n, seed: captums_sampling(
            model, image, label, labels, max(round(n / features), 1), seed
        ),
    }
    hook = model.register_forward_hook(add)
    rows: list[dict[str, object]] = []
    for name, call in calls.items():
        for samples in budgets:
            count = 0
            squares = [(call(samples, seed) - truth).square().mean() for seed in range(seeds)]
            error = float(torch.stack(squares).mean().sqrt())
            rows.append({"method": name, "forwards": count / seeds, "rms_error": error})
    hook.remove()
    for row in rows:
        for theirs in THEIRS:
            row[theirs] = equal(rows, theirs, float(row["rms_error"])) / float(row["forwards"])
    return rows


def equal(rows: list[dict[str, object]], method: str, error: float) -> float:
    """Forwards a method needs for this error, by a straight-line fit in log-log space."""
    curve = [row for row in rows if row["method"] == method]
    axes = [
        torch.tensor([float(row[key]) for row in curve]).double().log()
        for key in ("forwards", "rms_error")
    ]
    x, y = (axis - axis.mean() for axis in axes)
    slope = (x * y).sum() / y.square().sum()
    return float((axes[0].mean() + slope * (torch.tensor(error).log() - axes[1].mean())).exp())


def print_errors(rows: list[dict[str, object]]) -> None:
    print("last two columns: forwards of Captum's estimators for this error / forwards\n")
    print(f"{'method':29}{'forwards':>9}{'rms error':>11}{'KernelShap':>12}{'Sampling':>10}")
    for row in rows:
        ratios = f"{row[THEIRS[0]]:12.2f}{row[THEIRS[1]]:10.2f}"
        print(f"{row['method']:29}{row['forwards']:9.0f}{row['rms_error']:11.4f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="cnn", help="cnn, vgg16, resnet50, mobilenet_v2")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one method")
    parser.add_argument("--error", action="store_true", help="the error curve instead of times")
    parser.add_argument("--sharing", action="store_true", help="count shared forwards instead")
    parser.add_argument("--samples", type=int, default=512, help="mask evaluations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reference", type=int, default=10_001)
    parser.add_argument("--cells", type=int, default=7, help="segments per side")
    parser.add_argument("--budgets", type=int, nargs="+", default=[257, 513, 1025])
    parser.add_argument("--json", action="store_true")
    options = parse(
        parser, batch=1, rounds=0, samples=32, seeds=1, reference=129, cells=3, budgets=[33, 65]
    )
    torch.manual_seed(0)
    small = options.network == "cnn"
    model = build_cnn() if small else getattr(networks, options.network)()
    model = model.eval().requires_grad_(False)
    images = torch.rand(options.batch, *((1, 48, 48) if small else (3, 224, 224)))
    if options.error:
        if small:  # a trained network, on a synthetic face
            model = ek.load_model("fer_hw3/cnn")
            images = ek.load_dataset("fer_hw3/synthetic", split="all").images[:1]
        rows = errors(
            model, images[:1], options.cells, options.budgets, options.reference, options.seeds
        )
        print(json.dumps(rows, indent=2)) if options.json else print_errors(rows)
        return
    if options.sharing:
        sharing(model, images[:1], options.samples, options.cells)
        return
    target = torch.arange(options.batch) % 7
    table: list[dict[str, object]] = []
    for method, calls in candidates(model, images, target, options.samples, options.cells).items():
        if options.only in (None, method):
            table += [{"method": method, **row} for row in compare(calls, options.rounds)]
    if options.json:
        print(json.dumps(table, indent=2))
        return
    print(
        f"batch {options.batch}, {options.rounds} interleaved rounds, torch {torch.__version__}\n"
    )
    print(f"{'method':26}{'':14}{'seconds':>10}{'/ bare':>9}{'difference':>12}")
    for row in table:
        if "failed" in row:
            print(f"{row['method']:26}{row['what']:14}  {row['failed']}")
            continue
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        print(
            f"{row['method']:26}{row['what']:14}{row['seconds']:10.2f}"
            f"{row['ratio_to_bare']:9.3f}{difference:>12}"
        )


if __name__ == "__main__":
    main()
