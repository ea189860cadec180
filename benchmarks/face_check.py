"""Fits the check whether an image may be a face, and counts what it warns of.

``python benchmarks/face_check.py --data FILE --write`` fits it on 4,000 training faces of FER2013,
and writes ``weights/faces.safetensors``. It counts PublicTest, synthetic faces, and what comes with
scikit-image and scikit-learn: image files, and faces and backgrounds of LFW.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from timing import parse
from torch import Tensor
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import DatasetError
from explainkit_fer_hw3.data import load_fer2013, load_synthetic, read_image
from explainkit_fer_hw3.data.dataset import normalize
from explainkit_fer_hw3.face_check import face_distance, features

WEIGHTS = Path(str(files("explainkit_fer_hw3"))) / "weights"
USUAL = 0.985
"""Share of the training faces within the limit."""


def fit(pixels: Tensor) -> None:
    """Writes the statistics of faces, uint8 ``[n, 1, 48, 48]``, and the file's hash."""
    network = ek.load_model("fer_hw3/cnn")
    found = features(network, normalize(pixels))
    std, mean = torch.std_mean(found, 0)
    distance = ((found - mean) / std).square().mean(1).sqrt()
    data = save({"mean": mean, "std": std, "limit": distance.quantile(USUAL)})
    (WEIGHTS / "faces.safetensors").write_bytes(data)
    hashes = json.loads((WEIGHTS / "hashes.json").read_text())
    hashes["faces.safetensors"] = hashlib.sha256(data).hexdigest()
    (WEIGHTS / "hashes.json").write_text(json.dumps(hashes, indent=2) + "\n")


def photos() -> Iterable[tuple[str, Tensor]]:
    """The image files of scikit-image and scikit-learn, as the commands read them."""
    for folder in (files("skimage") / "data", files("sklearn.datasets") / "images"):
        for path in sorted(Path(str(folder)).glob("*.*")):
            try:
                yield path.name, read_image(path)
            except DatasetError:  # the packages' code and tables lie in the same folders
                continue


def count(name: str, pixels: Tensor) -> Tensor:
    """Prints how many images are warned of; returns their distances."""
    distance = face_distance(normalize(pixels))
    warned = int((distance > 1).sum())
    print(f"| {name} | {len(distance)} | {warned} | {warned / len(distance):.1%} |", flush=True)
    return distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="FER2013")
    parser.add_argument("--write", action="store_true", help="fit it anew")
    arguments = parse(parser)
    some = slice(8) if arguments.smoke else slice(None)
    if arguments.write:
        pixels = load_fer2013(arguments.data, "train", seed=0).pixels
        chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        fit(pixels[chosen[:4000]])
    print("| images | number | warned of | share |\n|---|---|---|---|")
    if arguments.data:
        count("FER2013, PublicTest", load_fer2013(arguments.data, "public_test").pixels[some])
    count(
        "synthetic faces", load_synthetic(split="all", count=8 if arguments.smoke else 500).pixels
    )
    if arguments.smoke:
        return
    lfw = torch.from_numpy(np.load(str(files("skimage") / "data/lfw_subset.npy"))).float()[:, None]
    lfw = F.interpolate(lfw, 48, mode="bicubic", antialias=True).clamp(0, 1).mul(255).round().byte()
    count("LFW, faces", lfw[:100])
    count("LFW, backgrounds", lfw[100:])
    names, pixels = zip(*photos(), strict=True)
    distance = count("images of scikit-image and scikit-learn", torch.stack(pixels))
    for i in distance.argsort():
        print(f"{names[i]} {distance[i]:.2f}")


if __name__ == "__main__":
    main()
