"""FER2013 as a CSV of 28,709 rows: first read and cached read, seconds and peak memory.

The CSV is made from the images at EXPLAINKIT_FER2013 in a temporary folder. Each read is a fresh
process; its memory is the high-water mark above the level after the imports.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

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


def write_csv(source: str, path: Path) -> None:
    from explainkit_fer_hw3.data import load_fer2013

    data = load_fer2013(source, "all")
    training = set(load_fer2013(source, "train").indices.tolist())
    training |= set(load_fer2013(source, "validation").indices.tolist())
    with path.open("w") as file:
        file.write("emotion,pixels,Usage\n")
        for i in sorted(training):
            pixels = " ".join(map(str, data.pixels[i].flatten().tolist()))
            file.write(f"{int(data.labels[i])},{pixels},Training\n")


def main() -> None:
    source = os.environ.get("EXPLAINKIT_FER2013")
    if not source:
        print("bench_csv: skipped, EXPLAINKIT_FER2013 names no images")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fer2013.csv"
        environment = os.environ | {
            "EXPLAINKIT_CACHE": str(Path(folder) / "cache"),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        write_csv(source, path)
        print(f"CSV of {path.stat().st_size / 1e6:.0f} MB")
        for what in ("first read", "cached read"):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path)],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            print(f"{what}: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
