"""Which part of a face each unit of a layer detects: network dissection without labels.

Synthetic faces come with an exact mask of every part, so that no image has to be annotated. Where a
unit's map is above a high quantile of all its values, it is said to answer there; how these
places overlap with each part says what it detects. All faces are framed alike, so a unit may as
well answer to a place: the same answers are laid on another face too, and must overlap less there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explainkit.activation_maximization.activations import ActivationReader
from explainkit.activation_maximization.exemplars import ReceptiveFields, receptive_fields
from explainkit.engine.batching import chunk_size
from explainkit.errors import DatasetError, ModelError
from explainkit.isolation import preserve_model, preserve_process
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.faces import PARTS
from explainkit_fer_hw3.study.parts import one_hot

QUANTILE = 0.005
"""Share of a unit's values that count as an answer, as in network dissection."""

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Detectors:
    """What the units of a layer answer to, part by part, in the order of ``PARTS``.

    Attributes:
        layer: Dotted path.
        threshold: A unit answers where its map is above this, ``[unit]``.
        iou: Pixels that answer and show the part, over pixels that do either, ``[unit, part]``;
            NaN for a unit that answers nowhere.
        enrichment: Share of the answering pixels that show the part, over the part's share of all
            pixels, ``[unit, part]``: 1 is chance.
        low: 2.5th percentile of the enrichment over resamples of the faces; a resample without an
            answer counts as 0.
        high: 97.5th percentile.
        place: The enrichment that the same answers have on another face: what their place alone
            explains.
        count: Faces.
    """

    layer: str
    threshold: Tensor
    iou: Tensor
    enrichment: Tensor
    low: Tensor
    high: Tensor
    place: Tensor
    count: int

    def part(self, unit: int) -> str | None:
        """The part with the largest enrichment, surely above chance and its place; else None."""
        least = self.place[unit].clamp_min(1)
        sure = self.enrichment[unit].where(self.low[unit] > least, 0).nan_to_num()
        return PARTS[int(sure.argmax())] if bool(sure.any()) else None


def detect_parts(
    model: nn.Module, layer: str, faces: FaceDataset, *, quantile: float = QUANTILE, seed: int = 0
) -> Detectors:
    """Measures the overlap of each unit's answers with each part of synthetic faces.

    With M the pixels above the threshold, ``P(a > threshold) = quantile`` over all places of all
    faces, the map brought to the faces' size by linear interpolation between the centers of the
    receptive fields, and L the pixels of a part: ``iou = |M ∩ L| / |M ∪ L|``,
    ``enrichment = (|M ∩ L| / |M|) / (|L| / all)``. A small M can't have a large IoU with a large
    part, however well they match; the enrichment doesn't depend on its size.

    Args:
        model: Any network of these faces.
        layer: Dotted path of a layer with maps.
        faces: Synthetic faces.
        quantile: Share of a unit's values that count as an answer.
        seed: Of the resamples.

    Raises:
        DatasetError: The faces' parts aren't known, or the quantile isn't between 0 and 1.
        ModelError: There is no such layer, or its output has no maps.

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
        raise DatasetError("expected synthetic faces, whose parts are known, got images without")
    if not 0 < quantile < 1:
        raise DatasetError(f"quantile: expected between 0 and 1, got {quantile}")
    maps = _maps(model, layer, faces.images)
    height, width = faces.images.shape[2:]
    fields = receptive_fields(model, layer, (1, height, width))
    down, right = _interpolation(fields, height, width)
    parts = one_hot(faces.parts).float().flatten(2)
    # faces are drawn class by class: the next one has another expression
    other = parts.roll(-1, 0)
    answering, met, elsewhere, thresholds = [], [], [], []
    for unit in range(maps.shape[1]):
        large = down @ maps[:, unit] @ right.T
        # a rectifier's zero is no answer
        values = maps[:, unit].flatten()
        threshold = values.kthvalue(max(1, int(len(values) * (1 - quantile))))[0].clamp_min(0)
        mask = (large > threshold).flatten(1).float()
        thresholds.append(threshold)
        answering.append(mask.sum(1))
        met.append(torch.einsum("nx,npx->np", mask, parts))
        elsewhere.append(torch.einsum("nx,npx->np", mask, other))
    total, both, away = (
        torch.stack(column, 1).double().numpy() for column in (answering, met, elsewhere)
    )
    areas = parts.sum(2).double().numpy()
    once = np.ones((1, len(faces)))
    rows = np.random.default_rng(seed).multinomial(
        len(faces), np.full(len(faces), 1 / len(faces)), RESAMPLES
    )
    # a resample without any of the few faces that a unit answers in is no evidence for it
    drawn = np.nan_to_num(_enrichment(total, both, areas, rows.astype(float)))
    low, high = np.percentile(drawn, (2.5, 97.5), 0)
    united = total.sum(0)[:, None] + areas.sum(0) - both.sum(0)
    iou = np.where(total.sum(0)[:, None] > 0, both.sum(0) / united, np.nan)
    enrichment = _enrichment(total, both, areas, once)[0]
    place = _enrichment(total, away, areas, once)[0]
    return Detectors(
        layer=layer,
        threshold=torch.stack(thresholds),
        iou=torch.from_numpy(iou),
        enrichment=torch.from_numpy(enrichment),
        low=torch.from_numpy(low),
        high=torch.from_numpy(high),
        place=torch.from_numpy(place),
        count=len(faces),
    )


def _maps(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """What the layer puts out, ``[n, unit, height, width]``, on the CPU."""
    device = next(model.parameters()).device
    found = []
    with preserve_process(0), preserve_model(model), torch.no_grad():
        reading = ActivationReader(model, [layer], logits=False)
        for part in torch.split(images, chunk_size(reading, images[0].to(device))):
            _, outputs = reading(part.to(device))
            found.append(outputs[layer].float().cpu())
    if found[0].dim() != 4 or found[0][0, 0].numel() < 2:
        raise ModelError(
            f"expected a layer with maps [n, unit, height, width], got {list(found[0].shape)} from "
            f"{layer!r}: it doesn't say where it answers"
        )
    return torch.cat(found)


def _interpolation(fields: ReceptiveFields, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Matrices ``[height, rows]`` and ``[width, columns]`` from a map to the image's size."""
    boxes = fields.boxes.reshape(-1, fields.width, 4).double()
    rows = (boxes[:, 0, 0] + boxes[:, 0, 2] - 1) / 2
    columns = (boxes[0, :, 1] + boxes[0, :, 3] - 1) / 2
    return _hats(rows, height), _hats(columns, width)


def _hats(centers: Tensor, size: int) -> Tensor:
    """Linear interpolation between the centers, constant beyond them."""
    places, columns = np.arange(size), np.eye(len(centers))
    found = [np.interp(places, centers.numpy(), column) for column in columns]
    return torch.from_numpy(np.stack(found, 1)).float()


def _enrichment(
    answering: NDArray[np.float64],
    met: NDArray[np.float64],
    areas: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """``[resample, unit, part]``, from counts of pixels per face and each face's weight.

    Args:
        answering: ``[face, unit]``.
        met: ``[face, unit, part]``.
        areas: ``[face, part]``.
        weights: ``[resample, face]``.
    """
    total = weights @ answering
    both = np.einsum("rf,fup->rup", weights, met, optimize=True)
    share = weights @ areas
    share = share / share.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = both / total[..., None] / share[:, None]
    return found
