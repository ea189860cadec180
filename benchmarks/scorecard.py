"""How often maps with and without knowledge of the model pass the scorecard, as Markdown tables.

Run ``python benchmarks/scorecard.py trigger``, or ``cnn`` or ``dnn`` of the study, optionally with
``--data FILE`` of FER2013 instead of synthetic faces. ``docs/explanation/verdicts.md`` has the
numbers of one run.
"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from timing import parse
from torch import Tensor, nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.engine.model import ScoreModel
from explainkit.metrics.cells import Cells
from explainkit.metrics.evidence import Evidence
from explainkit.metrics.hiding import HidingEffects, hiding_effects
from explainkit.metrics.judgement import judge
from explainkit.results.scorecard import verdict_of

TOYS = Path(__file__).parents[1] / "tests/metrics"
METHODS = (
    "deeplift", "integrated_gradients", "lrp", "input_x_gradient", "occlusion", "gradcam",
    "hirescam", "eigencam", "saliency", "smoothgrad", "guided_backprop",
)  # fmt: skip
FEW = {"integrated_gradients": {"steps": 32}, "smoothgrad": {"samples": 16}}
"""Fewer passes than the defaults, which only cost time here."""

VERDICTS = (
    "supported", "partly supported", "not class-specific", "not supported: edges",
    "not supported: center", "not supported: moved", "cannot be judged",
)  # fmt: skip
Pair = tuple[Tensor, Tensor]
"""A map of the explained class and one of the next likely class, each ``[height, width]``."""


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Maps ``[n, height, width]`` blurred on a torus."""
    rows, columns = (torch.fft.fftfreq(n)[:, None] for n in maps.shape[1:])
    squared = (2 * torch.pi * sigma) ** 2 * (rows.square() + columns.mT.square())
    return torch.fft.ifft2(torch.fft.fft2(maps) * (-squared / 2).exp()).real


def attackers(image: Tensor, right: Pair, random: torch.Generator) -> Iterator[tuple[str, Pair]]:
    """Maps that know nothing of the model, by name.

    Args:
        image: ``[channel, height, width]``.
        right: Maps by DeepLIFT, of which copies are shifted.
        random: Generator of the random ones.
    """
    size = right[0].shape
    height, width = size

    def noise(sigma: float = 0.0) -> Pair:
        drawn = torch.randn(2, *size, generator=random)
        return tuple(smooth(drawn, sigma) if sigma else drawn)

    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")

    def blob() -> Tensor:
        spread = height * (0.1 + 0.3 * float(torch.rand((), generator=random)))
        middle = torch.tensor([height, width]) * (0.3 + 0.4 * torch.rand(2, generator=random))
        squared = sum((at - m).square() for at, m in zip(grid, middle, strict=True))
        return (-squared / (2 * spread**2)).exp()

    for _ in range(20):
        shift = [int(torch.randint(n, (), generator=random)) for n in size]
        yield "shifted", (right[0].roll(shift, (0, 1)), right[1].roll(shift, (0, 1)))
        yield "random", noise()
        yield "smooth", noise(height / 12)
    center = [(n - 1) / 2 for n in size]
    squared = sum((at - m).square() for at, m in zip(grid, center, strict=True))
    window = (-squared / (2 * (height / 4) ** 2)).exp()
    for _ in range(10):
        first, second = noise(height / 12)
        yield "centered smooth", (first * window, second * window)
        yield "centered smooth, positive", (first.abs() * window, second.abs() * window)
        yield "blobs", (blob(), blob())
    gray = image.mean(0)
    laplacian = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    drawn = F.conv2d(F.pad(gray[None, None], [1] * 4, mode="replicate"), laplacian)[0, 0].abs()
    edges = torch.stack(torch.gradient(gray)).norm(dim=0)
    # a drawing of the image is the same for every class
    yield "gradient of the image", (edges, edges)
    yield "Laplacian of the image", (drawn, drawn)


def percent(found: list[bool]) -> str:
    """How many hold, in percent."""
    return f"{100 * sum(found) / len(found):.1f}"


def share(found: list[str], names: tuple[str, ...]) -> str:
    """How many of the verdicts are among the names, in percent."""
    return percent([verdict in names for verdict in found])


def subject(name: str, count: int, data: Path | None) -> tuple[nn.Module, Tensor]:
    """A network, and images that nothing was tuned on."""
    if name == "trigger":
        sys.path.insert(0, str(TOYS))
        from trigger import trained_trigger, triggers

        return trained_trigger(), triggers(count, seed=2026)[0]
    dataset = ek.load_dataset(
        "fer_hw3/fer2013" if data else "fer_hw3/synthetic", data, "public_test", seed=2026
    )
    step = len(dataset) // count
    return ek.load_model(f"fer_hw3/{name}"), dataset.images[::step][:count]


def pairs(net: nn.Module, images: Tensor, method: str, targets: Tensor) -> list[list[Tensor]]:
    """Maps ``[batch, height, width]`` of each row of targets."""
    found = ek.explain(net, images, method=method, targets=list(targets), **FEW.get(method, {}))
    return [one.heatmap() for one in found]


def tables(net: nn.Module, images: Tensor) -> tuple[Callable[[int], HidingEffects], Tensor]:
    """The effects of hiding parts of each image, and its two most likely classes."""
    scorer = ScoreModel(net)
    clean = torch.cat([scorer.run(image[None])[0] for image in images]).detach()
    cells = Cells.of(*images.shape[2:])
    what = None, *(getattr(scorer.outputs, name) for name in ("output", "task", "squashed"))

    def effects(i: int) -> HidingEffects:
        return hiding_effects(scorer, images[i], clean[i], cells, 0, what)

    return effects, clean.topk(2).indices.T


def controls(net: nn.Module, images: Tensor) -> None:
    """Prints how often maps without knowledge pass."""
    with torch.no_grad():
        effects, targets = tables(net, images)
    right, other = pairs(net, images, "deeplift", targets)
    evidence: dict[str, list[Evidence]] = {}
    for i, image in enumerate(images):
        label, against = targets[:, i].tolist()
        random = torch.Generator().manual_seed(i)
        maps = [*attackers(image, (right[i], other[i]), random)]
        maps += [
            ("another image, another class", (right[j], other[j]))
            for j in range(len(images))
            if int(targets[0, j]) != label
        ]
        for name, (values, contrast) in maps:
            found = judge(image, values, effects(i), label, (contrast, against)).evidence
            evidence.setdefault(name, []).append(found)
    every = [one for name, some in evidence.items() if "another" not in name for one in some]
    print("| map without knowledge | maps | passes *predicts* | supported | … at .02 | partly |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in {**evidence, "all but another image": every}.items():
        verdicts = [verdict_of(one.p, one.control) for one in found]
        # the limit of the second test that was tried first
        looser = [max(one.p[0], one.p[2]) <= 0.05 and one.p[1] <= 0.02 for one in found]
        row = [percent([one.p[0] <= 0.05 for one in found]), share(verdicts, VERDICTS[:1])]
        row += [percent(looser), share(verdicts, VERDICTS[1:2])]
        print(f"| {name} | {len(found)} | {' | '.join(row)} |", flush=True)


def methods(net: nn.Module, images: Tensor, names: tuple[str, ...]) -> None:
    """Prints the verdicts on methods, and how they agree between two seeds."""
    print("\n| method | supported | partly | not class-specific | edges or center | moved | κ |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    power = None
    for name in names:
        found = ek.explain(net, images, method=name, **FEW.get(name, {}))
        cards = [found.scorecard(seed=seed, power=False) for seed in (0, 1)]
        if power is None:
            power = found.scorecard(power=True).power
        ways = VERDICTS[:1], VERDICTS[1:2], VERDICTS[2:3], VERDICTS[3:5], VERDICTS[5:6]
        row = [share([*cards[0].verdict], way) for way in ways]
        retest = kappa(cards[0].verdict, cards[1].verdict)
        print(f"| {name} | {' | '.join(row)} | {retest} |", flush=True)
    assert power is not None
    share_of = 100 * float((power <= 0.05).double().mean())
    print(f"\nPositive control: passes *predicts* in {share_of:.0f} % of {len(images)} images.")


def kappa(one: tuple[str, ...], two: tuple[str, ...]) -> str:
    """Cohen's κ of supported or not, between two seeds; – where all verdicts are the same."""
    a, b = ([verdict == "supported" for verdict in card] for card in (one, two))
    agree = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    p, q = sum(a) / len(a), sum(b) / len(b)
    chance = p * q + (1 - p) * (1 - q)
    return "–" if chance == 1 else f"{(agree - chance) / (1 - chance):.2f}"


def main() -> None:
    """Prints the tables of one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=["trigger", "cnn", "dnn"], nargs="?", default="trigger")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--controls", action="store_true", help="maps without knowledge alone")
    arguments = parse(parser, images=2)
    warnings.simplefilter("ignore", ek.ExplainkitWarning)
    net, images = subject(arguments.network, arguments.images, arguments.data)
    classes = Counter(net(images).argmax(1).tolist())
    print(f"{arguments.network}, {len(images)} images of {len(classes)} predicted classes\n")
    controls(net, images)
    if arguments.controls:
        return
    chosen = tuple(n for n in METHODS if arguments.network != "dnn" or "cam" not in n)
    methods(net, images, chosen[:2] if arguments.smoke else chosen)


if __name__ == "__main__":
    main()
