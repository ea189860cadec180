"""Which methods explain which networks: torchvision, timm and transformers, with random weights.

    make matrix

It tries every network in a process of its own, two at a time, and writes what it found to
docs/reference/matrix.md. A cell, one method on one network, is

- ok, if the maps of three images are finite and not constant, the same in a second call, those of
  each image alone up to rounding, and everything that a call might change is unchanged;
- refused, if `explain` raises one of explainkit's errors, of one line;
- failed otherwise: every other exception, or no end within the time limit.

Failed cells are printed with a command that repeats them, and the exit status is 1. ``--smoke``
tries five small networks of different kinds and writes nothing. With ``--resume FILE``, the cells
of each network are added to the file, and networks that it has are not tried again.
"""

import argparse
import copy
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Any

import third_party
import torch
from timing import parse
from torch import Tensor, nn

import explainkit as ek
from explainkit import Method
from explainkit.catalog.factories import load_method
from explainkit.testing import _Check

PAGE = Path(__file__).parents[1] / "docs/reference/matrix.md"
METHODS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "integrated_gradients": {"steps": 8},
    "guided_backprop": {},
    "deeplift": {},
    "lrp": {},
    "full_gradient": {},
    "attn_lrp": {},
    "libragrad": {},
    "attention_rollout": {},
    "gradcam": {},
    "layercam": {},
    "eigencam": {},
    "occlusion": {"window": 16, "stride": 16},
    "feature_ablation": {"segments": 4},
    "rise": {"samples": 32},
}
"""Fields of each method; few samples, since no map is looked at."""
SMOKE = [
    "torchvision/shufflenet_v2_x0_5", "timm/mobilevit_xxs", "timm/vit_tiny_patch16_224",
    "transformers/Swin", "transformers/ConvNextV2",
]  # fmt: skip
OUTCOMES = ("ok", "refused", "failed")
TOLERANCE = 1e-3
"""Allowed distance between an image's maps, alone and in a batch, relative to the map."""


@dataclass(frozen=True)
class Cell:
    """The outcome of one method on one network.

    Attributes:
        outcome: One of `OUTCOMES`.
        reason: Why it is not ok, or "".
        seconds: CPU time that it took, all checks together.
        parameters: The network's, for the page.
    """

    network: str
    method: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    parameters: int = 0


class _OutOfTimeError(BaseException):
    """Not an Exception, which the library might take for the model's."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raises `_OutOfTimeError` within the block after this CPU time."""

    def stop(*_: object) -> None:
        raise _OutOfTimeError

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def check(model: nn.Module, images: Tensor, method: str) -> None:
    """Raises an AssertionError unless the cell is ok."""
    ready = load_method(method, **METHODS[method])
    rules = _Check(ready, model, images, method)
    with rules.unchanged("by the call"):
        found = ek.explain(model, images, method=ready)
    values = found.attribution
    rules.expect(bool(values.isfinite().all()), "the map is not finite")
    constant = (values.flatten(1).std(1) == 0).nonzero().flatten().tolist()
    rules.expect(not constant, f"the map of image {constant} is constant")
    again, distance = alone(model, images, ready)
    rules.expect(torch.equal(values, again), "a second call gives a different map")
    if distance > TOLERANCE:  # float64 tells whether it is rounding
        _, distance = alone(copy.deepcopy(model).double(), images.double(), ready)
    rules.expect(distance <= TOLERANCE, f"an image alone has another map (by {distance:.1e})")


def alone(model: nn.Module, images: Tensor, method: Method) -> tuple[Tensor, float]:
    """The maps of a batch, and how far those of each image alone are from them, relatively."""
    found = ek.explain(model, images, method=method)
    maps = [
        ek.explain(model, image[None], target, method).attribution[0]
        for image, target in zip(images, found.target.tolist(), strict=True)
    ]
    distances = (torch.stack(maps) - found.attribution).flatten(1).norm(dim=1)
    return found.attribution, float((distances / found.attribution.flatten(1).norm(dim=1)).max())


def outcome(run: Callable[[], None], seconds: int) -> tuple[str, str]:
    """The outcome of a cell, and the reason."""
    try:
        with limit(seconds):
            run()
    except _OutOfTimeError:
        return "failed", f"did not end within {seconds} s of CPU time"
    except ek.ExplainkitError as error:
        text = f"{type(error).__name__}: {error}"
        # the network does run on these images
        wrong = "\n" in text or "failed on images" in text
        return ("failed" if wrong else "refused"), text
    except AssertionError as error:
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's outcome
        return "failed", shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
    return "ok", ""


def try_network(network: str, methods: list[str], seconds: int) -> None:
    """Prints each cell as a line of JSON, as soon as it is known."""
    model, images = third_party.build(network), third_party.images(network)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for method in methods:
        start = time.process_time()
        what = outcome(lambda method=method: check(model, images, method), seconds)
        took = round(time.process_time() - start, 2)
        print(json.dumps(asdict(Cell(network, method, *what, took, parameters))), flush=True)


def in_a_process(networks: list[str], methods: list[str], seconds: int) -> list[Cell]:
    """All cells of these networks; those that the process did not reach have failed."""
    command = [
        sys.executable, __file__, "--networks", *networks, "--methods", *methods,
        "--seconds", str(seconds), "--inside",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    cells = [Cell(**json.loads(line)) for line in done.stdout.splitlines() if line[:1] == "{"]
    why = (done.stderr.strip().splitlines() or [""])[-1]
    lost = f"the process ended with {done.returncode}: {shorten(why, 200)}"
    every = [(network, method) for network in networks for method in methods]
    return cells + [Cell(*key, "failed", lost) for key in every[len(cells) :]]


def repeat(cell: Cell) -> str:
    """The command that tries one cell again."""
    return f"python benchmarks/matrix.py --networks {cell.network} --methods {cell.method}"


def counted(cells: list[Cell], key: str, title: str) -> Iterator[str]:
    """A table of outcomes per network or method."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        counts[getattr(cell, key)][cell.outcome] += 1
    sizes = {cell.network: f"{cell.parameters / 1e6:.1f}" for cell in cells if cell.parameters}
    more = ["million parameters", "side of the images"] if key == "network" else []
    heads = [title, *more, *OUTCOMES]
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    for name, count in counts.items():
        fields = [sizes.get(name, ""), str(third_party.SIZES.get(name, 64))] if more else []
        numbers = [str(count[one]) for one in OUTCOMES]
        yield f"| {name} | {' | '.join([*fields, *numbers])} |"


def reasons(cells: list[Cell]) -> Iterator[str]:
    """Why cells were refused: one row for errors that differ in names and numbers only."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.outcome == "refused":
            template = re.sub(r"'[^']*'|\d+", "…", cell.reason)
            groups[cell.method, template].append(cell)
    yield "| method | networks | reason, of the first |"
    yield "|---|---:|---|"
    for (method, _), found in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]))):
        yield f"| {method} | {len(found)} | {_plain(found[0].reason)} |"


INTRODUCTION = """\
# Networks of other libraries

{methods} methods on {networks} networks of torchvision, timm and transformers with random weights:
**{ok} ok, {refused} refused, {failed} failed**. `make matrix` printed this page, with {versions}.
It took {minutes:.0f} minutes of a CPU core.

A method is ok on a network if the maps of three images are finite and not constant, the same in a
second call, and equal to those of each image alone (within {tolerance:g} of the map's norm, in
float32 or else in float64), and if the call leaves the model, the images and the random generators
unchanged. It is refused if `explain` raises a one-line error that says why. Everything else has
failed.

The predicted class is explained with each method's default layer, baseline and parameters, except
for {fields}. `benchmarks/third_party.py` builds the networks, with He's initialization: with their
own, many networks give all images nearly the same scores.
"""


def page(cells: list[Cell]) -> str:
    """The page of the documentation."""
    packages = ("torch", "torchvision", "timm", "transformers")
    given = [
        f"`{name}({', '.join(f'{key}={value}' for key, value in fields.items())})`"
        for name, fields in METHODS.items()
        if fields
    ]
    introduction = INTRODUCTION.format(
        methods=len(METHODS),
        networks=len({cell.network for cell in cells}),
        **{one: sum(cell.outcome == one for cell in cells) for one in OUTCOMES},
        minutes=sum(cell.seconds for cell in cells) / 60,
        versions=", ".join(
            [
                f"explainkit {ek.__version__}",
                f"Python {platform.python_version()}",
                *(f"{name} {third_party.version(name)}" for name in packages),
            ]
        ),
        tolerance=TOLERANCE,
        fields=f"{', '.join(given[:-1])} and {given[-1]}",
    )
    parts = [
        introduction,
        "## Methods\n",
        *counted(cells, "method", "method"),
        "\n## Networks\n",
        *counted(cells, "network", "network"),
        "\n## Why maps are refused\n",
        *reasons(cells),
    ]
    if failed := [cell for cell in cells if cell.outcome == "failed"]:
        parts += ["\n## Failed\n", "| network | method | reason |", "|---|---|---|"]
        parts += [f"| {cell.network} | {cell.method} | {_plain(cell.reason)} |" for cell in failed]
    return "\n".join(parts) + "\n"


def _plain(reason: str) -> str:
    return reason.replace("|", "&#124;").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", metavar="NAME", choices=third_party.NETWORKS)
    parser.add_argument("--methods", nargs="+", metavar="NAME", choices=METHODS)
    parser.add_argument("--seconds", type=int, default=60, help="CPU time limit of a cell")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="of cells known before")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parse(parser, networks=SMOKE)
    networks = options.networks or list(third_party.NETWORKS)
    methods = options.methods or list(METHODS)
    if options.inside:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        for network in networks:
            try_network(network, methods, options.seconds)
        return
    cells: list[Cell] = []
    if options.resume and options.resume.exists():
        lines = options.resume.read_text(encoding="utf-8").splitlines()
        cells = [Cell(**json.loads(line)) for line in lines]
    known = {cell.network for cell in cells}
    groups = [[name] for name in networks if name not in known]
    if options.smoke:  # importing a library takes as long as a network
        groups = [list(names) for _, names in groupby(networks, lambda name: name.split("/")[0])]
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda names: in_a_process(names, methods, options.seconds), groups):
            cells += found
            if options.resume:
                with options.resume.open("a", encoding="utf-8") as file:
                    file.writelines(f"{json.dumps(asdict(cell))}\n" for cell in found)
            for name, own in groupby(found, lambda cell: cell.network):
                every = list(own)
                count = Counter(cell.outcome for cell in every)
                numbers = ", ".join(f"{count[one]} {one}" for one in OUTCOMES)
                print(f"{name}: {numbers}, {sum(one.seconds for one in every):.0f} s", flush=True)
            for cell in found:
                if cell.outcome == "failed":
                    print(f"\n{cell.network}, {cell.method}: {cell.reason}\n  {repeat(cell)}\n")
    if options.networks or options.methods:
        for cell in cells:
            if cell.outcome == "refused":
                print(f"\n{cell.network}, {cell.method} refused: {cell.reason}")
    else:
        cells.sort(key=lambda cell: networks.index(cell.network))
        PAGE.write_text(page(cells), encoding="utf-8")
        print(f"\n{PAGE}")
    sys.exit(any(cell.outcome == "failed" for cell in cells))


if __name__ == "__main__":
    main()
