"""Training and evaluation of the plugin's CNN beside a bare PyTorch loop of the same network.

Images per second, medians of interleaved rounds; a warm-up round is dropped. The bare loop does
what can't be left out (forward, loss, backward, step, in the same layout and precision) on batches
that lie in memory ready to use. Random pixels: speed does not depend on what they show.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
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
    drawn=0, augment=0.0, cutout=0.0, mix=0.0, sam_rho=0.0, repeat=(), first_block_every=1,
)  # fmt: skip
EVERYTHING = dataclasses.replace(CNN_RECIPE, first_block_every=1)


def synthetic_faces(count: int) -> FaceDataset:
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


def rates(calls: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Images per second of each call, which handles so many images."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, (call, _) in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: count / statistics.median(seconds[name]) for name, (_, count) in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    recycle_memory()  # as the command does, for all alike
    data = synthetic_faces(20 * PLAIN.batch)
    plain = Training("cnn", data, PLAIN, epochs=100)
    everything = Training("cnn", data, EVERYTHING, epochs=100)
    default = Training("cnn", data, CNN_RECIPE, epochs=100)
    larger = CNN_RECIPE.batch + CNN_RECIPE.drawn
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "bare loop, 96": (BareTraining(96, plain.dtype).advance, 96),
        "Training.advance, 96, nothing on": (plain.advance, 96),
        f"bare loop, {larger}": (BareTraining(larger, plain.dtype).advance, larger),
        f"Training.advance, {larger}, everything on": (everything.advance, larger),
        f"Training.advance, {larger}, the default recipe": (default.advance, larger),
    }
    steps = rates(calls, options.rounds)
    held = synthetic_faces(10 * EVALUATED)
    network = plain.export().to(**FAST)
    images = held.images
    evaluation = rates(
        {
            "bare forward": (lambda: bare_forward(network, images), len(held)),
            "Training.measure": (lambda: plain.measure(held), len(held)),
        },
        max(options.rounds // 3, 3),
    )
    found = steps | evaluation
    beside = {name: name for name in found}
    for name in found:
        if name.startswith("Training.advance"):
            beside[name] = "bare loop, 96" if ", 96," in name else f"bare loop, {larger}"
    beside["Training.measure"] = "bare forward"
    rows = [
        {"what": name, "per_second": rate, "ratio_to_bare": rate / found[beside[name]]}
        for name, rate in found.items()
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
