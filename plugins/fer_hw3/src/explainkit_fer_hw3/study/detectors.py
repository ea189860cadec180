"""Which part of the face each unit or concept of a layer detects: network dissection.

Synthetic faces come with an exact mask of every part. A unit is active where its map exceeds a
high quantile of all its values; the overlap of the active pixels with each part shows what the
unit detects. All faces are framed alike, so a unit may respond to a position instead. As a
control, the active pixels are also compared with the parts of another face, where the overlap
must be smaller.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explainkit.activation_maximization.activations import ActivationReader
from explainkit.activation_maximization.exemplars import ReceptiveFields, receptive_fields
from explainkit.concept_discovery.importance import concept_maps
from explainkit.engine.batching import chunk_size
from explainkit.errors import DatasetError, ModelError
from explainkit.isolation import preserve_model, preserve_process
from explainkit.results.plain import plain
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.faces import PARTS
from explainkit_fer_hw3.study.parts import one_hot

QUANTILE = 0.005
"""Share of a unit's values that count as active, as in network dissection."""

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Detectors:
    """How the units of a layer respond to each part, in the order of ``PARTS``.

    Attributes:
        layer: Dotted path.
        iou: Intersection over union of the active pixels and the part, ``[unit, part]``; NaN for
            a unit that is never active.
        enrichment: The part's share of the active pixels over its share of all pixels,
            ``[unit, part]``: 1 is chance.
        low, high: 2.5th and 97.5th percentile of the enrichment over resamples of the faces; a
            resample without active pixels counts as 0.
        control: The enrichment of the same active pixels on another face: what their position alone
            explains.
        count: Number of faces.
        sees: Rows or columns of the image that one position of the layer depends on, the most of
            all positions. Where these are most of a face, an active position is no part of it.
    """

    layer: str
    iou: Tensor
    enrichment: Tensor
    low: Tensor
    high: Tensor
    control: Tensor
    count: int
    sees: int

    def part(self, unit: int) -> str | None:
        """The part with the largest enrichment that is significantly above chance and control."""
        least = self.control[unit].clamp_min(1)
        significant = self.enrichment[unit].where(self.low[unit] > least, 0).nan_to_num()
        return PARTS[int(significant.argmax())] if bool(significant.any()) else None

    def facts(self, unit: int) -> dict[str, dict[str, float | None]]:
        """The measures of each part, for JSON; NaN is None."""
        columns = ("iou", "enrichment", "low", "high", "control")
        values = {name: getattr(self, name)[unit].tolist() for name in columns}
        return {
            part: plain({name: values[name][code] for name in columns})
            for code, part in enumerate(PARTS)
        }


def detect_parts(
    model: nn.Module,
    layer: str,
    faces: FaceDataset,
    *,
    directions: Tensor | None = None,
    quantile: float = QUANTILE,
    seed: int = 0,
) -> Detectors:
    """Measures the overlap of each unit's active pixels with each part of synthetic faces.

    With ``directions`` of concepts, ``[n, channel]``, the units are the concepts, and their maps
    the concepts' weights.

    Let M be the pixels above the threshold, ``P(a > threshold) = quantile`` over all spatial
    positions of all faces, with the map interpolated linearly between the centers of the
    receptive fields to the size of the faces. Let L be the pixels of a part. Then
    ``iou = |M ∩ L| / |M ∪ L|`` and ``enrichment = (|M ∩ L| / |M|) / (|L| / all)``. A small M has
    a small IoU with a large part, however well they match; the enrichment doesn't depend on size.

    References:
        Bau, Zhou, Khosla, Oliva and Torralba (2017), "Network Dissection: Quantifying
        Interpretability of Deep Visual Representations", arXiv:1704.05796.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit_fer_hw3.data import load_synthetic
        >>> faces = load_synthetic(split="validation", count=14)
        >>> found = detect_parts(ek.load_model("fer_hw3/cnn"), "1", faces)
        >>> found.iou.shape == found.enrichment.shape == (128, len(PARTS))
        True
    """
    if faces.parts is None:
        raise DatasetError("expected synthetic faces with part masks, got images without")
    if not 0 < quantile < 1:
        raise DatasetError(f"quantile: expected between 0 and 1, got {quantile}")
    maps = _maps(model, layer, faces.images)
    if directions is not None:
        maps = concept_maps(maps.permute(0, 2, 3, 1), directions.to(maps))
    height, width = faces.images.shape[2:]
    fields = receptive_fields(model, layer, (1, height, width))
    down, right = _interpolation(fields, height, width)
    parts = one_hot(faces.parts).float().flatten(2)
    # classes take turns: the next face has another expression
    other = parts.roll(-1, 0)
    active, inside, elsewhere = [], [], []
    for unit in range(maps.shape[1]):
        large = down @ maps[:, unit] @ right.T
        values = maps[:, unit].flatten()
        place = max(1, int(len(values) * (1 - quantile)))
        threshold = values.kthvalue(place).values.clamp_min(0)  # a ReLU's zero is not active
        mask = (large > threshold).flatten(1).float()
        active.append(mask.sum(1))
        inside.append(torch.einsum("nx,npx->np", mask, parts))
        elsewhere.append(torch.einsum("nx,npx->np", mask, other))
    total, both, away = (
        torch.stack(column, 1).double().numpy() for column in (active, inside, elsewhere)
    )
    areas = parts.sum(2).double().numpy()
    once = np.ones((1, len(faces)))
    rows = np.random.default_rng(seed).multinomial(
        len(faces), np.full(len(faces), 1 / len(faces)), RESAMPLES
    )
    # a resample without active pixels is no evidence for a part
    resampled = np.nan_to_num(_enrichment(total, both, areas, rows.astype(float)))
    low, high = np.percentile(resampled, (2.5, 97.5), 0)
    united = total.sum(0)[:, None] + areas.sum(0) - both.sum(0)
    iou = np.where(total.sum(0)[:, None] > 0, both.sum(0) / united, np.nan)
    enrichment = _enrichment(total, both, areas, once)[0]
    control = _enrichment(total, away, areas, once)[0]
    return Detectors(
        layer, torch.from_numpy(iou), torch.from_numpy(enrichment),
        torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(control), len(faces),
        int((fields.boxes[:, 2:] - fields.boxes[:, :2]).max()),
    )  # fmt: skip


def _maps(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The layer's outputs, ``[n, unit, height, width]``, on the CPU."""
    device = next(model.parameters()).device
    found = []
    with preserve_process(0), preserve_model(model), torch.no_grad():
        reader = ActivationReader(model, [layer], logits=False)
        for part in torch.split(images, chunk_size(reader, images[0].to(device))):
            _, outputs = reader(part.to(device))
            found.append(outputs[layer].float().cpu())
    if found[0].dim() != 4 or found[0][0, 0].numel() < 2:
        raise ModelError(
            "expected a layer with feature maps [n, unit, height, width], got "
            f"{list(found[0].shape)} from {layer!r}"
        )
    return torch.cat(found)


def _interpolation(fields: ReceptiveFields, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Matrices ``[height, rows]`` and ``[width, columns]`` from a map to the image's size."""
    boxes = fields.boxes.reshape(-1, fields.width, 4).double()
    rows = (boxes[:, 0, 0] + boxes[:, 0, 2] - 1) / 2
    columns = (boxes[0, :, 1] + boxes[0, :, 3] - 1) / 2
    return _linear(rows, height), _linear(columns, width)


def _linear(centers: Tensor, size: int) -> Tensor:
    """Linear interpolation between the centers, constant beyond them."""
    pixels, columns = np.arange(size), np.eye(len(centers))
    found = [np.interp(pixels, centers.numpy(), column) for column in columns]
    return torch.from_numpy(np.stack(found, 1)).float()


def _enrichment(
    active: NDArray[np.float64],
    inside: NDArray[np.float64],
    areas: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The enrichment, ``[resample, unit, part]``.

    Args:
        active: Number of active pixels, ``[face, unit]``.
        inside: Number of active pixels within each part, ``[face, unit, part]``.
        areas: Number of pixels of each part, ``[face, part]``.
        weights: Weight of each face, ``[resample, face]``.
    """
    total = weights @ active
    both = np.einsum("rf,fup->rup", weights, inside, optimize=True)
    share = weights @ areas
    share = share / share.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = both / total[..., None] / share[:, None]
    return found
