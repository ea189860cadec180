"""FER2013 as a CSV of 28,709 rows: seconds and peak memory of the first and the cached read.

The CSV is written to a temporary folder from the images at EXPLAINKIT_FER2013; under ``--smoke``
from 32 synthetic faces. Each read is a fresh process; its memory is the high-water mark minus the
level after the imports.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import parse
from torch import Tensor

READ = """
import sys, time
from explainkit_fer_hw3.data import load_fer2013
from memory import peak_mb
level = peak_mb()
start = time.perf_counter()
data = load_fer2013(sys.argv[1], "all")
seconds = time.perf_counter() - start
print(f"{len(data):,} images in {seconds:.2f} s, {peak_mb() - level:.0f} MB above the imports")
"""


def faces(source: str | None) -> tuple[Tensor, Tensor]:
    """Pixels and labels of the training images at a source, or of a few synthetic faces."""
    from explainkit_fer_hw3.data import load_fer2013, load_synthetic

    if source is None:
        data = load_synthetic(None, "validation")
        return data.pixels[:32], data.labels[:32]
    data = load_fer2013(source, "all")
    splits = (load_fer2013(source, split).indices.tolist() for split in ("train", "validation"))
    training = sorted({index for split in splits for index in split})
    return data.pixels[training], data.labels[training]


def write_csv(pixels: Tensor, labels: Tensor, path: Path) -> None:
    with path.open("w") as file:
        file.write("emotion,pixels,Usage\n")
        for image, label in zip(pixels, labels.tolist(), strict=True):
            file.write(f"{label},{' '.join(map(str, image.flatten().tolist()))},Training\n")


def main() -> None:
    options = parse(argparse.ArgumentParser(description=__doc__))
    source = None if options.smoke else os.environ.get("EXPLAINKIT_FER2013")
    if source is None and not options.smoke:
        print("bench_csv: skipped, EXPLAINKIT_FER2013 names no images")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fer2013.csv"
        environment = os.environ | {
            "EXPLAINKIT_CACHE": str(Path(folder) / "cache"),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        write_csv(*faces(source), path)
        print(f"CSV of {path.stat().st_size / 1e6:.1f} MB")
        for what in ("first read", "cached read"):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path)],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            print(f"{what}: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
