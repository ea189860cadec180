"""Gradients that integrated gradients need for a completeness gap of 1 %, ours and Captum's.

Run `python benchmarks/bench_tolerance.py`. It counts gradients, which do not depend on the machine.
Ours is one call with ``tolerance=0.01``. For Captum the step counts of a list are tried with its
default rule, up to the first that reaches the same gap. The networks are the plugin's
trained CNN and a small vision transformer trained here, both on synthetic faces.
"""

import argparse
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from timing import Lazy, attempt, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit_fer_hw3.data.dataset import normalize
from explainkit_fer_hw3.faces import draw

STEPS = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
TOLERANCE = 0.01

captum = Lazy("captum.attr")


class Transformer(nn.Module):
    """Patches of 8 × 8, two blocks, a class token."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 8, stride=8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 37, width) / 50)
        block = nn.TransformerEncoderLayer(
            width, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 7))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        scores: Tensor = self.head(self.blocks(tokens)[:, 0])
        return scores


def trained_transformer(steps: int) -> nn.Module:
    """Trained on new synthetic faces in every step."""
    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    labels = np.arange(70) % 7
    for step in range(steps):
        faces = draw(labels, seed=6, first=70 * step)
        x, y = normalize(torch.from_numpy(faces.pixels)), torch.from_numpy(faces.labels)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def captum_steps(
    model: nn.Module, image: Tensor, target: Tensor, tried: tuple[int, ...]
) -> tuple[int | None, float]:
    """The fewest steps that reach the tolerance, and the gap at 50 steps."""
    method = captum.IntegratedGradients(model)
    with torch.no_grad():
        scores = model(torch.cat([image, torch.zeros_like(image)]))[:, target[0]].double()
    change = scores[0] - scores[1]
    reached, at_fifty = None, 0.0
    for steps in tried:
        values = method.attribute(image, 0.0, target, n_steps=steps, internal_batch_size=64)
        gap = float((values.double().sum() - change).abs() / change.abs().clamp(min=0.05))
        at_fifty = gap if steps == 50 else at_fifty
        if gap <= TOLERANCE and reached is None:
            reached = steps
        if reached is not None and steps >= 50:
            break
    return reached, at_fifty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=7)
    parser.add_argument("--train", type=int, default=400, help="training steps of the transformer")
    parser.add_argument("--lengths", type=int, default=len(STEPS), help="step counts tried")
    options = parse(parser, images=1, train=2, lengths=1)
    tried = STEPS[: options.lengths]
    faces = draw(np.arange(options.images) % 7, seed=8)
    images = normalize(torch.from_numpy(faces.pixels))
    networks = {
        "fer_hw3/cnn": ek.load_model("fer_hw3/cnn"),
        "transformer on synthetic faces": trained_transformer(options.train),
    }
    print("| network | accuracy | ours: gradients | gap | Captum: steps | gap at 50 steps |")
    print("|---|---|---|---|---|---|")
    for name, model in networks.items():
        model.requires_grad_(False)
        target = model(images).argmax(1)
        accuracy = float((target == torch.from_numpy(faces.labels)).float().mean())
        e = ek.explain(model, images, target, "integrated_gradients", tolerance=TOLERANCE)
        used, gaps = e.diagnostics["steps"], e.diagnostics["completeness_gap"]
        ours = (
            f"| {name} | {accuracy:.2f} | median {int(used.median())}, most {int(used.max())} "
            f"| most {float(gaps.max()):.4f} "
        )
        found: list[tuple[int | None, float]] = []

        def count(model: nn.Module = model, target: Tensor = target, found: list = found) -> None:
            for one in range(len(images)):
                part = slice(one, one + 1)
                found.append(captum_steps(model, images[part], target[part], tried))

        if why := attempt("captum", count):
            print(f"{ours}| {why} | |")
            continue
        steps = [one if one is not None else tried[-1] + 1 for one, _ in found]
        more = f"> {tried[-1]}"
        median = statistics.median(steps)
        print(
            f"{ours}| median {more if median > tried[-1] else f'{median:g}'}, "
            f"most {more if max(steps) > tried[-1] else max(steps)} "
            f"| median {statistics.median(gap for _, gap in found):.3f} |"
        )


if __name__ == "__main__":
    main()
