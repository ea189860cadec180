"""Concepts of a layer: seconds beside CRAFT's procedure, and importance beside full runs.

    pip install scikit-learn
    python benchmarks/bench_concepts.py

It prints Markdown tables. The plugin's CNN sees faces of FER2013 at EXPLAINKIT_FER2013, or else
synthetic ones; ResNet-50 has random weights and sees smooth random images. CRAFT (Fel et al. 2023,
arXiv:2211.10154) is written from the paper, without its recursion: overlapping crops are enlarged
to the size of the image, their activations are averaged over positions and factorized by
scikit-learn, and total Sobol indices take N (n + 2) runs of the rest of the network for each image.
Ours factorizes the positions of whole images and takes N (n + 1) runs. What `ek.concepts` adds:
stability, also in a network with random weights, random directions, what is unexplained, exemplars.
"""

import argparse
import os
import warnings
from dataclasses import dataclass

import torch
from networks import resnet50
from timing import Calls, Lazy, interleaved, parse
from torch import Tensor, nn
from torch.nn.functional import interpolate, unfold

import explainkit as ek
from explainkit.concept_discovery.activations import ImageChunks, activations
from explainkit.concept_discovery.factorize import factorize
from explainkit.concept_discovery.importance import DESIGNS, Effects, concept_maps, sobol_indices
from explainkit.concept_discovery.layer import LayerMaps
from explainkit.evaluation.images import given
from explainkit.scores import VALUES

CROP = 64 / 224
"""Side of CRAFT's crops, as a part of the image's; a crop starts every 0.8 sides."""

BATCH = 64
"""Inputs that CRAFT runs at once."""

FEW = 16
"""Images for which Sobol indices, and importance by full runs, are computed."""

sklearn = Lazy("sklearn.decomposition")


@dataclass
class Case:
    """A network, the number of one of its layers, images, and how many concepts to find."""

    model: nn.Sequential
    at: int
    images: Tensor
    n: int

    def __post_init__(self) -> None:
        self.layer = LayerMaps(self.model, str(self.at), self.images[:2], VALUES)

    def concepts(self) -> None:
        ek.concepts(self.model, self.images, str(self.at), self.n)

    def directions(self) -> None:
        values = activations(self.layer, ImageChunks(self.model, given(self.images)), seed=0)
        self.found = factorize(values.flatten(0, 1), self.n).directions

    def importance(self) -> None:
        for chunk in self.images[:FEW].split(self.layer.chunk):
            maps = self.layer.maps(chunk)
            sobol_indices(self.layer, maps, concept_maps(maps, self.found), self.found, seed=0)

    def craft_directions(self) -> None:
        side = self.images.shape[-1]
        crop = round(CROP * side)
        crops = unfold(self.images, crop, stride=int(0.8 * crop)).transpose(1, 2)
        parts = crops.reshape(-1, self.images.shape[1], crop, crop).split(BATCH)
        before = self.model[: self.at + 1]
        pooled = [
            before(interpolate(one, (side, side), mode="bilinear")).mean((2, 3)) for one in parts
        ]
        self.reducer = sklearn.NMF(self.n, random_state=0).fit(torch.cat(pooled).numpy())

    def craft_importance(self) -> Tensor:
        """Of the first class, ``[n]``."""
        before, after = self.model[: self.at + 1], self.model[self.at + 1 :]
        maps = before(self.images[:FEW])
        positions = maps.flatten(2).transpose(1, 2)
        weights = torch.from_numpy(self.reducer.transform(positions.flatten(0, 1).numpy()))
        directions = torch.from_numpy(self.reducer.components_)
        engine = torch.quasirandom.SobolEngine(2 * self.n, scramble=True, seed=0)
        a, b = engine.draw(DESIGNS).chunk(2, 1)
        masks = torch.cat([a, b, *(torch.where(one, b, a) for one in torch.eye(self.n).bool())])
        found = []
        for u in weights.view(len(maps), -1, self.n):
            changed = ((masks[:, None] * u) @ directions).transpose(1, 2)
            changed = changed.reshape(len(masks), *maps.shape[1:])
            score = torch.cat([after(one) for one in changed.split(BATCH)])[:, 0]
            first, _, *others = score.split(DESIGNS)
            left = torch.stack([(first - other).square().mean() / 2 for other in others])
            found.append(left / first.var())
        return torch.stack(found).mean(0)


class FullRuns(LayerMaps):
    """A layer whose changed outputs are scored by full runs of the model."""

    def maps(self, images: Tensor) -> Tensor:
        self.images = images
        return super().maps(images)

    def scores(self, maps: Tensor, of: Tensor) -> Tensor:
        changed = maps.permute(0, 3, 1, 2)
        layer = self.model.module.get_submodule(self.path)
        hook = layer.register_forward_hook(lambda _layer, _inputs, _output: changed)
        try:
            return self.model.run(self.images[of]).scores.double()
        finally:
            hook.remove()


def removal(case: Case, rounds: int) -> list[str]:
    """Importance by removal: ms per image on the suffix and by full runs, and how far apart."""
    few = case.images[:FEW]
    layers = {
        "suffix": case.layer,
        "full": FullRuns(case.model, str(case.at), few[:2], VALUES),
    }
    found: dict[str, Effects] = {}

    def run(name: str) -> None:
        found[name] = Effects(case.found)
        found[name].add(layers[name], layers[name].maps(few))

    calls: Calls = {name: lambda name=name: run(name) for name in layers}
    seconds, _ = interleaved(calls, rounds)
    suffix, full = (1000 * seconds[name] / len(few) for name in layers)
    one, other = (found[name].losses.mean for name in layers)
    apart = float((one - other).abs().max() / other.abs().max())
    return [f"{suffix:.1f}", f"{full:.1f}", f"{full / suffix:.1f} ×", f"{apart:.0e}"]


def faces(count: int) -> tuple[str, Tensor]:
    """The name of a data set, and evenly spread faces of it."""
    path = os.environ.get("EXPLAINKIT_FER2013")
    name = "synthetic" if path is None else "FER2013"
    found = ek.load_dataset(f"fer_hw3/{name.lower()}", path, "public_test").images
    return name, found[torch.linspace(0, len(found) - 1, count).long()]


@torch.no_grad()
def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=512)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    options = parse(parser, faces=8, images=3, side=64, n=2, rounds=0)
    warnings.simplefilter("ignore")  # scikit-learn reaches its 200 iterations
    data, some = faces(options.faces)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(options.images, 3, 8, 8, generator=generator)
    smooth = interpolate(coarse, (options.side, options.side), mode="bicubic")
    cnn, resnet = ek.load_model("fer_hw3/cnn"), resnet50().requires_grad_(False)
    cases = {
        f"FER CNN, {len(some)} images of {data}": Case(cnn, 15, some, options.n),
        f"ResNet-50, {len(smooth)} images at {options.side}": Case(resnet, 19, smooth, options.n),
    }
    print(f"{options.n} concepts, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| seconds | explainkit | CRAFT |\n|---|---:|---:|")
    for name, case in cases.items():
        few = f"{min(FEW, len(case.images))} images"
        calls: Calls = {
            "directions": case.directions,
            f"Sobol indices of {few}": case.importance,
            "CRAFT directions": case.craft_directions,
            f"CRAFT Sobol indices of {few}": case.craft_importance,
            "`ek.concepts`": case.concepts,
        }
        seconds, _ = interleaved(calls, options.rounds)
        for step in calls:
            if not step.startswith("CRAFT"):
                other = seconds.get(f"CRAFT {step}")
                theirs = "" if other is None else f"{other:.1f}"
                print(f"| {name}: {step} | {seconds[step]:.1f} | {theirs} |", flush=True)
    print("\n| importance by removal, ms per image | suffix | full runs | | apart |")
    print("|---|---:|---:|---:|---:|")
    for name, case in cases.items():
        row = " | ".join(removal(case, options.rounds))
        print(f"| {name.partition(',')[0]} | {row} |", flush=True)


if __name__ == "__main__":
    main()
