"""Times of metrics beside Quantus' and pytorch-grad-cam's, and of scorecards beside bare forwards.

    pip install quantus==0.6.0 grad-cam==1.5.5
    python benchmarks/bench_metrics.py

It prints Markdown tables: seconds, and how often ours fits into a peer's time. Equal work is done
by the plugin's trained CNN on a quarter of the synthetic faces. Questions with each library's
defaults go to its DNN: Quantus' alone would run the CNN more than 150,000 times. Scorecards are of
the CNN and of ResNet-50 with random weights at 224 pixels. ``--smoke`` takes one image and leaves
out ResNet-50 and the defaults.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from networks import resnet50
from peer_rows.metric_rows import measured, quantus
from timing import Calls, Lazy, attempt, interleaved, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit import metrics
from explainkit.interop.quantus import explain_func

SHARES = [0.1, 0.3, 0.5, 0.7, 0.9]
STEPS, SETS, SQUARES = 16, 100, 20

road = Lazy("pytorch_grad_cam.metrics.road")


@dataclass(frozen=True)
class Case:
    """A network with images, the classes that it predicts, and maps of them."""

    model: nn.Module
    images: Tensor
    classes: Tensor
    maps: Tensor

    def theirs(self, name: str, **options: Any) -> Any:
        """One of Quantus' metrics of the maps."""
        return measured(
            name, model=self.model, x=self.images, y=self.classes, a=self.maps, **options
        )

    def theirs_of_a_method(self, name: str, **options: Any) -> Any:
        """One of Quantus' metrics of a method."""
        metric = getattr(quantus(), name)(disable_warnings=True, **options)
        return metric(
            model=self.model, x_batch=self.images.numpy(), y_batch=self.classes.numpy(),
            a_batch=None, device="cpu", explain_func=explain_func,
            explain_func_kwargs={"method": "saliency"},
        )  # fmt: skip

    def gradcam_road(self) -> None:
        """ROAD of pytorch-grad-cam, the most relevant pixels first."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(label) for label in self.classes.tolist()]
        plain = self.maps.sum(1).numpy()
        for share in SHARES:
            road.ROADMostRelevantFirst(percentile=100 * (1 - share))(
                self.images, plain, targets, self.model
            )


def case(network: str, images: int) -> Case:
    """Faces with the classes that a network of the study predicts, and maps by gradient × input."""
    model = ek.load_model(f"fer_hw3/{network}")
    faces = ek.load_dataset("fer_hw3/synthetic", split="public_test").images[:images]
    found = ek.explain(model, faces, method="input_x_gradient")
    return Case(model, faces, found.target, found.attribution)


def equal_work(one: Case) -> Iterator[tuple[str, Calls]]:
    """Ours beside a peer's, with as many changed images each."""
    given = (one.model, one.images, one.maps, one.classes)
    pixels = one.images[0, 0].numel()
    yield (
        f"deletion, {STEPS} steps",
        {
            "ours": lambda: metrics.deletion(*given, steps=STEPS, baseline="mean"),
            "quantus PixelFlipping": lambda: one.theirs(
                "PixelFlipping", features_in_step=pixels // STEPS, perturb_baseline="mean"
            ),
        },
    )
    yield f"faithfulness correlation, {SETS} sets", {
        "ours": lambda: metrics.faithfulness_correlation(*given, samples=SETS, baseline="mean"),
        "quantus FaithfulnessCorrelation": lambda: one.theirs(
            "FaithfulnessCorrelation", nr_runs=SETS, subset_size=pixels // 10,
            perturb_baseline="mean", return_aggregate=False,
        ),
    }  # fmt: skip
    yield (
        f"ROAD, {len(SHARES)} shares",
        {
            "ours": lambda: metrics.road(*given, shares=SHARES),
            "quantus ROAD": lambda: one.theirs("ROAD", percentages=[100 * s for s in SHARES]),
            "grad-cam ROADMostRelevantFirst": one.gradcam_road,
        },
    )


def defaults(one: Case) -> Iterator[tuple[str, Calls]]:
    """The same questions with the options that each library chooses."""
    given = (one.model, one.images, one.maps, one.classes)

    def ours() -> None:
        for metric in (metrics.deletion, metrics.faithfulness_correlation, metrics.road):
            metric(*given)
        for metric in (metrics.mprt, metrics.random_logit, metrics.max_sensitivity):
            metric(one.model, one.images, "saliency", one.classes)
        metrics.gini(one.maps)
        metrics.entropy(one.maps)

    def theirs() -> None:
        for name in ("PixelFlipping", "FaithfulnessCorrelation", "ROAD", "Sparseness"):
            one.theirs(name)
        one.theirs("Complexity")
        for name in ("MPRT", "RandomLogit", "MaxSensitivity"):
            options = {"num_classes": 7} if name == "RandomLogit" else {}
            one.theirs_of_a_method(name, **options)

    yield "eight questions, defaults", {"ours": ours, "quantus": theirs}


def scorecards(model: nn.Module, image: Tensor, forwards: Callable[[], None]) -> Calls:
    """The first scorecard of an image, one of another method, and as many bare forwards."""
    first = ek.explain(model, image, method="input_x_gradient")
    further = ek.explain(model, image, first.target, "saliency")
    seeds = count()
    now = [0]

    def of_the_first() -> None:
        now[0] = next(seeds)
        first.scorecard(now[0])

    return {
        "first method": of_the_first,
        "further method": lambda: further.scorecard(now[0]),
        "bare forwards": forwards,
    }


def bare(model: nn.Module, image: Tensor, total: int, chunk: int = 8) -> Callable[[], None]:
    """So many forwards of an image, in chunks."""

    def run() -> None:
        with torch.no_grad():
            for start in range(0, total, chunk):
                model(image.expand(min(chunk, total - start), -1, -1, -1))

    return run


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parse(parser, images=4, rounds=0)
    warnings.simplefilter("ignore")
    attempt("quantus", quantus)  # with a torchvision that can be imported
    one = case("cnn", options.images // 4)
    tables = [("CNN", one, equal_work(one))]
    if not options.smoke:
        whole = case("dnn", options.images)
        tables.append(("DNN", whole, defaults(whole)))
    print("| question | network | images | ours, s | peer, s | of | ours fits |")
    print("|---|---|---:|---:|---:|---|---:|")
    for network, asked, questions in tables:
        for title, calls in questions:
            found, failed = interleaved(calls, options.rounds)
            row = f"| {title} | {network} | {len(asked.images)} | {found['ours']:.2f} |"
            for name, seconds in found.items():
                if name != "ours":
                    ratio = seconds / found["ours"]
                    print(f"{row} {seconds:.2f} | {name} | {ratio:.1f} × |", flush=True)
            for name, reason in failed.items():
                print(f"{row} – | {name}: {reason} | |", flush=True)
    cases = {"CNN, 48 × 48": (one.model, one.images[:1], 2 * 36 + 48)}
    if not options.smoke:
        cases["ResNet-50, 224 × 224"] = (resnet50(), torch.randn(1, 3, 224, 224), 2 * 49 + 48)
    print("\n| scorecard of one image, seconds | first method | further method | bare forwards |")
    print("|---|---|---|---|")
    for title, (model, image, total) in cases.items():
        calls = scorecards(model, image, bare(model, image, total))
        found, _ = interleaved(calls, options.rounds)
        numbers = " | ".join(f"{found[name]:.2f}" for name in calls)
        print(f"| {title} ({total} forwards) | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
