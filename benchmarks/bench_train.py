"""Training and evaluation of the plugin's CNN, compared with a bare PyTorch loop.

Images per second, medians of interleaved rounds; a warm-up round is dropped. The bare loop does the
necessary minimum (forward, loss, backward, step, in the same memory format and precision) on
batches prepared in memory. Pixels are random: speed does not depend on them.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import interleaved, parse
from torch import Tensor, nn

from explainkit_fer_hw3.commands.train import recycle_memory
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.models import build_cnn
from explainkit_fer_hw3.training.batchnorm import normalized
from explainkit_fer_hw3.training.recipe import CNN_RECIPE
from explainkit_fer_hw3.training.run import EVALUATED, Training

FAST = {"memory_format": torch.channels_last}
PLAIN = dataclasses.replace(
    CNN_RECIPE,
    synthetic=0, augment=0.0, cutout=0.0, mix=0.0, sam_rho=0.0, repeat=(), first_block_every=1,
)  # fmt: skip
EVERYTHING = dataclasses.replace(CNN_RECIPE, first_block_every=1)


def random_faces(count: int) -> FaceDataset:
    generator = torch.Generator().manual_seed(0)
    return FaceDataset(
        pixels=torch.randint(256, (count, 1, 48, 48), generator=generator).to(torch.uint8),
        labels=torch.randint(7, (count,), generator=generator),
        indices=torch.arange(count),
        names=tuple(map(str, range(count))),
    )


class BareTraining:
    def __init__(self, batch: int, dtype: torch.dtype | None) -> None:
        torch.manual_seed(0)
        self.network = normalized(build_cnn()).to(**FAST).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.images = torch.randn(batch, 1, 48, 48).to(**FAST)
        self.labels = torch.arange(batch) % 7
        self.dtype = dtype

    def advance(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            logits = self.network(self.images)
        F.cross_entropy(logits.float(), self.labels, label_smoothing=0.1).backward()
        self.optimizer.step()


def bare_forward(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        for start in range(0, len(images), EVALUATED):
            network(images[start : start + EVALUATED])


def speeds(calls: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Images per second of each call, given with the number of images that it processes."""
    seconds, _ = interleaved({name: call for name, (call, _) in calls.items()}, rounds)
    return {name: count / seconds[name] for name, (_, count) in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=CNN_RECIPE.batch)
    parser.add_argument("--json", action="store_true")
    options = parse(parser, rounds=0, batch=8)
    recycle_memory()  # as the command does, for all candidates
    batch = options.batch
    data = random_faces(20 * batch)
    plain, everything, default = (
        Training("cnn", data, dataclasses.replace(recipe, batch=batch), epochs=100)
        for recipe in (PLAIN, EVERYTHING, CNN_RECIPE)
    )
    larger = batch + CNN_RECIPE.synthetic
    calls: dict[str, tuple[Callable[[], object], int]] = {
        f"bare loop, {batch}": (BareTraining(batch, plain.dtype).advance, batch),
        f"Training.advance, {batch}, all options off": (plain.advance, batch),
        f"bare loop, {larger}": (BareTraining(larger, plain.dtype).advance, larger),
        f"Training.advance, {larger}, all options on": (everything.advance, larger),
        f"Training.advance, {larger}, default recipe": (default.advance, larger),
    }
    steps = speeds(calls, options.rounds)
    held = random_faces(EVALUATED if options.smoke else 10 * EVALUATED)
    network = plain.export().to(**FAST)
    images = held.images
    evaluation = speeds(
        {
            "bare forward": (lambda: bare_forward(network, images), len(held)),
            "Training.measure": (lambda: plain.measure(held), len(held)),
        },
        0 if options.smoke else max(options.rounds // 3, 3),
    )
    found = steps | evaluation
    baselines = {name: name for name in found}
    for name in found:
        if name.startswith("Training.advance"):
            baselines[name] = f"bare loop, {name.split(', ')[1]}"
    baselines["Training.measure"] = "bare forward"
    rows = [
        {"what": name, "per_second": speed, "ratio_to_bare": speed / found[baselines[name]]}
        for name, speed in found.items()
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{options.rounds} interleaved rounds, torch {torch.__version__}, {plain.dtype}\n")
    print(f"{'':48}{'images/s':>12}{'/ bare':>8}")
    for row in rows:
        print(f"{row['what']:48}{row['per_second']:12.1f}{row['ratio_to_bare']:8.3f}")


if __name__ == "__main__":
    main()
