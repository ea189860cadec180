"""How much of an attribution map falls on the parts that form the expression.

Synthetic faces are made from action units, so the parts that an expression moves and their pixels
are known. The share of |a| on these expressive parts is compared with three controls: their share
of the image's area, a noise map, and the map of a face with another expression. The last one
exposes a network that looks at the same positions in every face.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import explainkit as ek
from explainkit.errors import DatasetError
from explainkit.results import statistics
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.faces import ACTION_UNITS, CLASS_NAMES, PART_UNITS, PARTS, draw

METHODS = ("explainkit/saliency", "explainkit/input_x_gradient")


def expressive_parts(class_name: str) -> tuple[str, ...]:
    """The parts that an action unit of the class moves, in the order of ``PARTS``.

    Examples:
        >>> expressive_parts("happy")
        ('cheeks', 'mouth', 'eyes')
    """
    units = set(ACTION_UNITS[class_name])
    return tuple(part for part in PARTS if units & set(PART_UNITS.get(part, ())))


@dataclass(frozen=True)
class Share:
    """A mean over images, and its 95 % interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class PartShare:
    """How much of |a| falls on one part of the face, and the part's share of the image area."""

    share: Share
    area: float

    @property
    def density(self) -> float:
        """Share over area: 1 for a uniform map; 0 for a part that doesn't occur."""
        return self.share.value / self.area if self.area else 0.0

    @property
    def dense(self) -> bool:
        """Whether the whole interval of the share is above the area."""
        return self.share.interval[0] > self.area


@dataclass(frozen=True)
class PartShares:
    """How much of a method's maps falls on the expressive parts.

    Attributes:
        method: Qualified name.
        class_name: The expression, or "all".
        n: Number of images, without those whose map is zero everywhere.
        parts: The expressive parts; empty for "all".
        share: Share of |a| on these parts, mean over images.
        area: Share of the image's pixels, which is the share of a uniform map.
        noise: Share of a map of independent normal numbers.
        other: Share of |a| of the next face with another expression, on this face's parts.
        gain: ``share − other``, paired by image.
        by_part: Share of |a| on every part.
    """

    method: str
    class_name: str
    n: int
    parts: tuple[str, ...]
    share: Share
    area: float
    noise: float
    other: Share
    gain: Share
    by_part: dict[str, PartShare]


def part_shares(
    model: nn.Module, faces: FaceDataset, method: str = METHODS[0], *, seed: int = 0
) -> list[PartShares]:
    """The shares per expression; the last entry is for all expressions together.

    Args:
        model: The network; each face is explained for its true class.
        faces: Synthetic faces; neutral ones have no expressive parts and are skipped.
        method: An attribution method.
        seed: Random seed of the method, the noise and the resamples.

    Raises:
        DatasetError: The faces have no part masks, or fewer than two expressions.
    """
    if faces.parts is None:
        raise DatasetError("expected synthetic faces with part masks, got images without")
    faces = faces.subset(faces.labels != CLASS_NAMES.index("neutral"))
    names = [CLASS_NAMES[label] for label in faces.labels.tolist()]
    present = list(dict.fromkeys(names))
    if len(present) < 2:
        raise DatasetError(f"expected faces of at least two expressions, got {len(present)}")
    device = next(model.parameters()).device
    maps = (
        ek.explain(model, faces.images.to(device), faces.labels, method, seed=seed)
        .heatmap("abs_sum").double().cpu()
    )  # fmt: skip
    parts = faces.parts
    assert parts is not None
    expressive = torch.stack(
        [_mask(parts[i], expressive_parts(name)) for i, name in enumerate(names)]
    )
    noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(seed)).abs().double()
    others = maps[[_next_other(names, i) for i in range(len(names))]]
    share, other, random = (_share(one, expressive) for one in (maps, others, noise))
    area = expressive.double().mean((1, 2)).numpy()
    where = one_hot(parts)
    known = np.isfinite(share) & np.isfinite(other)
    found = []
    for name in [*present, "all"]:
        rows = known & np.array([name in {"all", one} for one in names])
        if not rows.any():
            continue
        found.append(
            PartShares(
                method=method,
                class_name=name,
                n=int(rows.sum()),
                parts=() if name == "all" else expressive_parts(name),
                share=bootstrap(share[rows], seed),
                area=float(area[rows].mean()),
                noise=float(random[rows].mean()),
                other=bootstrap(other[rows], seed),
                gain=bootstrap(share[rows] - other[rows], seed),
                by_part=by_part(maps[rows], where[rows], seed),
            )
        )
    return found


def bootstrap(values: NDArray[np.float64], seed: int) -> Share:
    """The mean, and its interval by `explainkit.results.statistics.bootstrap`."""
    mean, low, high = statistics.bootstrap(torch.from_numpy(values), seed)
    return Share(mean, (low, high) if len(values) > 1 else (mean, mean))


def atlas(faces: int = 210) -> Tensor:
    """How often each pixel shows each part in synthetic faces, ``[part, 48, 48]``; sums to 1.

    Synthetic faces are framed like FER2013, so this estimates where the parts are in a frontal
    photograph: an average over faces, not a measurement of one image.
    """
    parts = torch.from_numpy(draw(np.arange(faces) % len(CLASS_NAMES), seed=6_000_000).parts)
    return one_hot(parts).mean(0)


def one_hot(parts: Tensor) -> Tensor:
    """Parts ``[n, 48, 48]``, indices into ``PARTS``, as masks ``[n, part, 48, 48]``."""
    return torch.stack([(parts == code) for code in range(len(PARTS))], 1).double()


def by_part(maps: Tensor, where: Tensor, seed: int = 0) -> dict[str, PartShare]:
    """The share of |a| on each part of the face.

    Args:
        maps: ``[n, 48, 48]``, none of them zero everywhere.
        where: The parts of each image, ``[n, part, 48, 48]``, or one `atlas` for all.
        seed: Random seed of the resamples.
    """
    sizes = maps.abs().double()
    sizes = sizes / sizes.sum((1, 2), keepdim=True)
    masks = where.expand(len(maps), *where.shape[-3:])
    shares = torch.einsum("nhw,nphw->np", sizes, masks).numpy()
    areas = masks.mean((0, 2, 3)).tolist()
    return {
        part: PartShare(bootstrap(shares[:, code], seed), areas[code])
        for code, part in enumerate(PARTS)
    }


def _mask(parts: Tensor, names: Sequence[str]) -> Tensor:
    return torch.isin(parts, torch.tensor([PARTS.index(name) for name in names]).to(parts.dtype))


def _share(maps: Tensor, mask: Tensor) -> NDArray[np.float64]:
    """The share of each map within the mask; NaN for a map that is zero everywhere."""
    found: NDArray[np.float64] = ((maps * mask).sum((1, 2)) / maps.sum((1, 2))).numpy()
    return found


def _next_other(names: Sequence[str], i: int) -> int:
    """The next image, cyclically, with another expression."""
    order = [*range(i + 1, len(names)), *range(i)]
    found: int = next(j for j in order if names[j] != names[i])
    return found
