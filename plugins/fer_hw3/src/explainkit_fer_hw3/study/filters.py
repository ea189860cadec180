"""Results of maximizing the units of a layer: a row per unit for printing, and unit cards."""

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from explainkit.activation_maximization.exemplars import (
    Exemplars,
    ReceptiveFields,
    find_exemplars,
    receptive_fields,
)
from explainkit.errors import TargetError
from explainkit.expressions import channel, parse
from explainkit.layers import capture
from explainkit.render.unit import Bar, Bars, examples, unit_card
from explainkit.results.plain import plain
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.data import FaceDataset, load_synthetic
from explainkit_fer_hw3.data.source import SIDE
from explainkit_fer_hw3.faces import PARTS
from explainkit_fer_hw3.study.detectors import Detectors, detect_parts

DISSECTED = 210
"""Number of synthetic faces on which the parts that units detect are measured."""


def parse_units(text: str) -> list[int]:
    """Parses unit numbers and ranges, such as ``3,26,40-42``.

    Examples:
        >>> parse_units("3,26,40-42")
        [3, 26, 40, 41, 42]
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdigit() and (last.isdigit() if dash else True)):
            raise TargetError(f"expected units such as 3,26,40-42, got {text!r}")
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers:
            raise TargetError(f"expected an ascending range of units, got {part.strip()!r}")
        found += numbers
    return list(dict.fromkeys(found))


def count_units(model: nn.Module, layer: str) -> int:
    """Number of channels of a layer's output, or of its features."""
    image = torch.zeros(1, 1, SIDE, SIDE, device=next(model.parameters()).device)
    with torch.inference_mode(), capture(model, [layer]) as outputs:
        model(image)
    return int(outputs[layer][0].shape[1])


def ranked(found: Visualization) -> list[dict[str, Any]]:
    """A row per unit, highest score first, dead units last; channel None: of several channels."""
    rows = [
        {
            "unit": i,
            "channel": _channel(text),
            "objective": text,
            "rank": int(found.rank[i]),
            "dead": bool(found.dead[i]),
            "converged": bool(found.converged[i]),
            "score": None if found.dead[i] else float(found.score[i]),
            "trace": found.trace[:, i].tolist(),
            "quality": {name: plain(values[i]) for name, values in found.quality.items()},
        }
        for i, text in enumerate(found.objective)
    ]
    return sorted(rows, key=lambda row: row["rank"])


def _channel(text: str) -> int | None:
    terms = [node for node in parse(text).walk() if isinstance(node, channel)]
    return terms[0].index if len(terms) == 1 else None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Real images that activate the units of a layer, and the parts that the units detect.

    Attributes:
        faces: The data set that was searched.
        exemplars: The images that activate each unit most and least.
        fields: The receptive field of each spatial position of the layer.
        detectors: Measured on synthetic faces; None for a layer without feature maps.
    """

    faces: FaceDataset
    exemplars: Exemplars
    fields: ReceptiveFields
    detectors: Detectors | None

    def facts(self, unit: int) -> dict[str, Any]:
        """The exemplars and parts of one unit, for JSON."""
        found = self.exemplars
        tops = zip(found.top[unit], found.top_value[unit], found.top_place[unit], strict=True)
        facts: dict[str, Any] = {
            "exemplars": [
                {
                    "index": int(self.faces.indices[number]),
                    "value": float(value),
                    "position": position.tolist(),
                    "box": list(vars(self.fields.at(*position.tolist())).values()),
                }
                for number, value, position in tops
            ]
        }
        if self.detectors is None:
            return facts | {"part": None, "parts": None}
        return facts | {"part": self.detectors.part(unit), "parts": self.detectors.facts(unit)}

    def card(self, found: Visualization, index: int, unit: int) -> Figure:
        """The unit card of a unit of the layer, which has ``index`` in ``found``."""
        most, least = examples(self.exemplars, unit, self.faces.images, self.fields)
        return unit_card(found, index, most, least, self._bars(unit))

    def _bars(self, unit: int) -> Bars | None:
        one = self.detectors
        if one is None or bool(one.enrichment[unit].isnan().any()):
            return None
        part = one.part(unit)
        order = one.enrichment[unit].argsort(descending=True, stable=True).tolist()
        return Bars(
            f"detects: {part}" if part else "detects no part of the face",
            "share of each part among the activated pixels over its share of all pixels, on "
            f"{one.count} synthetic faces; dashed: chance; tick: control with another face",
            [
                Bar(
                    PARTS[code],
                    float(one.enrichment[unit, code]),
                    (float(one.low[unit, code]), float(one.high[unit, code])),
                    float(one.control[unit, code]),
                )
                for code in order[:6]
            ],
            mark=1,
        )


def gather(model: nn.Module, layer: str, faces: FaceDataset, *, seed: int = 0) -> Evidence:
    """Finds the exemplars of every unit of a layer, and the part that it detects."""
    device = next(model.parameters()).device
    found = find_exemplars(model, layer, faces.images.to(device))
    fields = receptive_fields(model, layer, (1, faces.images.shape[2], faces.images.shape[3]))
    synthetic = load_synthetic(None, "validation", seed=seed, count=DISSECTED)
    detectors = None
    if len(fields.boxes) > 1:
        detectors = detect_parts(model, layer, synthetic, seed=seed)
    return Evidence(faces, found, fields, detectors)
