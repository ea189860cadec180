"""Concepts made by hand."""

import torch
from torch.nn.functional import interpolate

from explainkit.results.concepts import Concepts


def made(n=3, classes=4, size=(16, 20), images=9, seed=0, **changes):
    """Concepts with random numbers that pass their tests; ``changes`` may be nested lists."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    names = changes.pop("names", None)
    count = len(names) if names else images
    maps = rand(n, images, 4, 5) ** 3
    stability = torch.tensor(changes.pop("stability", [0.9] * n), dtype=torch.float64)
    fields = {
        "directions": torch.nn.functional.normalize(rand(n, 6), dim=1),
        "importance": torch.randn(n, classes, generator=generator, dtype=torch.float64),
        "standard_error": rand(n, classes).double() / 10,
        "stability": stability.expand(4, n).clone(),
        "random_stability": 0.5,
        "p": torch.full((n,), 0.04, dtype=torch.float64),
        "unexplained": 0.1,
        "random_unexplained": 0.7,
        "images": rand(count, 1, *size),
        "names": tuple(names or (f"face {i}" for i in range(count))),
        "exemplar": torch.arange(images).expand(n, images).clone(),
        "index": torch.arange(images).expand(n, images).clone(),
        "maps": maps,
        "upsampled": interpolate(maps, size, mode="bilinear"),
        "measure": "removal",
        "kind": "nmf",
        "layer": "13",
        "model": "some.Net",
        "count": 240,
        "seed": 0,
        "task": "classification",
        "output": None,
        "class_names": tuple(f"class {c}" for c in range(classes)),
        "mean": None,
        "std": None,
        "versions": {"explainkit": "0.1.0"},
    }  # fmt: skip
    for name, value in changes.items():
        like = fields.get(name)
        fields[name] = torch.tensor(value, dtype=like.dtype) if hasattr(like, "dtype") else value
    return Concepts(**fields)
