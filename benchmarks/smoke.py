"""Runs benchmarks once on tiny inputs: ``make bench-smoke``.

Each runs in a process of its own, forked from one that has imported the libraries once: importing
them takes longer than many of these runs.
"""

import argparse
import contextlib
import gc
import importlib
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import third_party

FOLDER = Path(__file__).parent
SHARED = (
    "captum.attr", "explainkit.cli.app", "explainkit.methods", "matplotlib.pyplot",
    "torch.fx.experimental.symbolic_shapes",
)  # fmt: skip
"""Modules whose import takes long; no operator of torch runs before the fork."""


def smoke(words: list[str], printed: Path) -> None:
    """Runs one benchmark with ``--smoke`` in this process, and writes what it prints to a file."""
    with printed.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())  # so that its child processes write there, too
    sys.argv = [str(FOLDER / words[0]), *words[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def run(benchmarks: list[str], jobs: int) -> Iterator[bool]:
    """Runs all, ``jobs`` at a time; prints the output of each as it ends, and yields success."""
    fork = multiprocessing.get_context("fork")
    waiting, running = list(benchmarks), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                words = [*waiting.pop(0).split(","), "--smoke"]
                printed = Path(folder, f"{len(waiting)}.txt")
                process = fork.Process(target=smoke, args=(words, printed))
                process.start()
                running[process.sentinel] = process, words, printed, time.perf_counter()
            for sentinel in wait(list(running)):
                process, words, printed, start = running.pop(sentinel)
                process.join()
                seconds = time.perf_counter() - start
                end = f"exit code {process.exitcode}, {seconds:.0f} s"
                print(f"\n== {' '.join(words)}\n{printed.read_text()}\n({end})", flush=True)
                yield process.exitcode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="+", metavar="NAME[,OPTION…]")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at the same time")
    arguments = parser.parse_args()
    for name in SHARED:
        importlib.import_module(name)
    with contextlib.suppress(ImportError):  # peers are optional
        third_party.library("timm")
    gc.freeze()  # benchmarks collect garbage before each call: not what all processes share
    return not all(list(run(arguments.benchmarks, arguments.jobs)))


if __name__ == "__main__":
    sys.exit(main())
