"""A whole data set: what `ek.batch` adds to a loop over `explain`, and what a second worker saves.

Run ``make bench``. PNG files of 48 × 48 pixels are explained by the FER CNN, one thread for each
process. "loop" calls `ek.explain` on the files, as many at once as a shard has, and keeps nothing;
"batch" also plans, writes and flushes shards. Interleaved, medians, a warm-up round dropped. Jobs
load the model, look at it once and start processes, which does not take longer for more images;
"without start" leaves that out. "Ray" is two workers of a cluster that the call starts and stops,
if Ray is installed (``make test-ray``). A plan of many ids is measured in a process of its own, and
so is the memory of jobs over few and many images. If EXPLAINKIT_FER2013 names the data set's file,
so are faces of it, with ``--faces 1000000`` all of them.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import interleaved, parse

import explainkit as ek

SHARD = 256
METHODS = ["saliency", "gradcam"]
PLAN = r"""
import re, tempfile, time
from pathlib import Path
from explainkit.jobs.items import write_items
count = {count}
ids = ((f"train/image_{{i * 2654435761 % 10**10:010d}}_{{i}}.JPEG", "") for i in range(count))
begin, used = time.perf_counter(), time.process_time()
with tempfile.TemporaryFile() as file:
    found = write_items(ids, file, 256)
# not ru_maxrss, which a child inherits from its parent
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(f"{{found.count:,}} ids: {{time.perf_counter() - begin:.1f}} s, of which "
      f"{{time.process_time() - used:.1f}} s of the processor, {{peak:.0f}} MB")
"""
MEMORY = r"""
import re, sys, time
from pathlib import Path
import torch, explainkit as ek
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 5, 5), torch.nn.Flatten(), torch.nn.Linear(162, 7))
begin = time.perf_counter()
ek.batch(sys.argv[1], net.eval(), "saliency", sys.argv[2], limit={count}, threads=1)
seconds = time.perf_counter() - begin
size = sum(path.stat().st_size for path in Path(sys.argv[2]).rglob("*") if path.is_file())
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(f"| {count:,} | {{seconds:.1f}} | {{size / 1e6:.0f}} | {{peak:.0f}} |")
"""
FER2013 = r"""
import os, re, resource, sys, time
from pathlib import Path
import explainkit as ek
if __name__ == "__main__":
    images = ek.load_dataset("fer_hw3/fer2013", os.environ["EXPLAINKIT_FER2013"], split="all")
    begin = time.perf_counter()
    store = ek.batch(
        images, "fer_hw3/cnn", ["saliency", "gradcam"], sys.argv[1], limit={limit}, workers=2,
        threads=1,
    )
    seconds = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in Path(sys.argv[1]).rglob("*") if path.is_file())
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    used = sum(resource.getrusage(who).ru_utime for who in whose)
    print(f"{{store.progress().ok:,}} images ok: {{seconds:.0f}} s, of which the processor worked "
          f"{{used:.0f}} s on both cores together, {{size / 1e6:.0f}} MB, "
          f"{{peak:.0f}} MB of memory at most, in a worker no more than {{worker:.0f}} MB")
"""


def in_a_process(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write_images(folder: Path, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"image_{i:05d}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--memory", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--faces", type=int, default=2048, help="of FER2013, at most")
    parser.add_argument("--rounds", type=int, default=3)
    options = parse(parser, images=8, ids=1000, memory=[8], faces=0, rounds=0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        paths = write_images(folder / "images", options.images)
        model = ek.load_model("fer_hw3/cnn")
        stores = iter(range(10**6))

        def batch(limit: int = options.images, **more: Any) -> ek.Store:
            return ek.batch(
                folder / "images", "fer_hw3/cnn", METHODS, folder / f"store {next(stores)}",
                shard_size=SHARD, threads=1, limit=limit, **more,
            )  # fmt: skip

        size = batch(1).plan.batch_size

        def loop() -> None:
            for start in range(0, len(paths), SHARD):
                ek.explain(model, paths[start : start + SHARD], method=METHODS, batch_size=size)

        calls = {"loop": loop, "batch": batch, "two workers": lambda: batch(workers=2)}
        few = min(2 * SHARD, options.images)
        calls["start"] = lambda: batch(few, workers=2)
        calls["one shard each"] = lambda: batch(few)
        if options.rounds and importlib.util.find_spec("ray"):
            calls["Ray"] = lambda: batch(workers=2, engine="ray")
        seconds, failed = interleaved(calls, options.rounds)
        assert not failed, failed
    start = seconds["start"] - seconds["one shard each"] / 2
    each = (seconds["batch"] - seconds["one shard each"]) / max(len(paths) - few, 1)
    more = each / (seconds["loop"] / len(paths)) - 1
    print("| run | s | compared |\n| --- | ---: | --- |")
    print(f"| loop | {seconds['loop']:.2f} | {len(paths) / seconds['loop']:.0f} images/s |")
    whole = seconds["batch"] / seconds["loop"] - 1
    print(f"| batch | {seconds['batch']:.2f} | {whole:+.1%}, {more:+.1%} without start |")
    two = seconds["two workers"]
    print(
        f"| two workers | {two:.2f} | {seconds['batch'] / two:.2f} ×, "
        f"{seconds['batch'] / (two - start):.2f} × without start |"
    )
    ray = seconds.get("Ray")
    shown = f"{ray:.2f} | {ray / two:.2f} × two local workers" if ray else "| not measured"
    print(f"| Ray, two workers | {shown} |")
    print(f"\nPlan: {in_a_process('-c', PLAN.format(count=options.ids))}")
    print("\n| images | s | MB of the store | peak MB |\n| ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        write_images(folder / "images", max(options.memory))
        for count in options.memory:
            code = MEMORY.format(count=count)
            print(in_a_process("-c", code, folder / "images", folder / f"maps {count}"))
        if options.faces and "EXPLAINKIT_FER2013" in os.environ:
            script = folder / "fer2013.py"  # spawned workers import the file
            script.write_text(FER2013.format(limit=options.faces))
            print(f"\nFER2013: {in_a_process(script, folder / 'faces')}")


if __name__ == "__main__":
    main()
