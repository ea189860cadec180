"""Everything that a report says, as numbers: computed once, whatever the language."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import explainkit as ek
from explainkit.results.explanation import Explanation
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.scores import most_confused
from explainkit_fer_hw3.study.activations import Activations, activations
from explainkit_fer_hw3.study.agreement import Agreement, agreement
from explainkit_fer_hw3.study.confusions import Examples, explain_confusion
from explainkit_fer_hw3.study.curves import Curve
from explainkit_fer_hw3.study.filters import ranked
from explainkit_fer_hw3.study.parts import (
    METHODS,
    PartShare,
    PartShares,
    atlas,
    by_part,
    one_hot,
    part_shares,
)
from explainkit_fer_hw3.study.predictions import Predictions

PAIRS, EXAMPLES = 3, 3
"""Confusions that are explained, and images of each."""

FIRST, FIRST_ACTIVE = "0", "1"
"""The CNN's first convolution, and the ReLU behind it."""

FILTERS = 16
"""Filters on which gradient ascent is run."""

STEPS = 180
"""Of this ascent, as in the study."""

MOST_OF_A_CLASS = 40
"""Rightly read images of a class whose maps are looked at by part."""

SHOWN = ("angry", "happy", "surprise", "fear", "sad", "disgust", "neutral")
"""The classes in the order in which their faces are shown."""


@dataclass(frozen=True, eq=False)
class Network:
    """One of the two networks.

    Attributes:
        name: As it was asked for.
        tag: A short name.
        module: Itself.
        layers: A row for each of its layers, as `commands.summary.layers` gives them.
        reading: What it reads in the images.
        drawn: What it reads in synthetic faces.
        curves: Of its training; may be empty.
    """

    name: str
    tag: str
    module: nn.Module
    layers: list[dict[str, Any]]
    reading: Predictions
    drawn: Predictions
    curves: list[Curve]

    def facts(self) -> dict[str, Any]:
        """Its numbers, as JSON takes them."""
        return {
            "model": self.name,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "convolutions": self.convolutions,
            "images": self.reading.facts(),
            "synthetic": self.drawn.facts(),
            "curves": [asdict(curve) for curve in self.curves],
        }

    @property
    def parameters(self) -> int:
        """How many it has."""
        return sum(row["parameters"] for row in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of one image."""
        return sum(row["multiply_adds"] for row in self.layers)

    @property
    def convolutions(self) -> int:
        """How many of its layers are convolutions."""
        return sum("convolution" in row["kind"] for row in self.layers)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a run found.

    Attributes:
        data: What the images are; None for synthetic faces.
        split: Which of them.
        seed: Of everything that is drawn at random.
        cnn: The first network.
        dnn: The second.
        met: How their answers meet.
        mistakes: The CNN's largest confusions, explained.
        faces: One image per class that the CNN reads rightly, in the order of `SHOWN`.
        maps: Their saliency in the CNN, for the true class.
        same: The first of them explained in both networks, for the class that each reads.
        where: Of each class: images looked at, and the share of their saliency by part.
        shares: Of synthetic faces: the shares on the parts that made the expression, per method.
        outputs: Of the CNN's first layer, for the first of ``faces``.
        ascent: What these filters, behind their ReLU, answer to most.
    """

    data: str | None
    split: str
    seed: int
    cnn: Network
    dnn: Network
    met: Agreement
    mistakes: list[Examples]
    faces: FaceDataset
    maps: Explanation
    same: list[Explanation]
    where: dict[str, tuple[int, dict[str, PartShare]]]
    shares: dict[str, list[PartShares]]
    outputs: Activations
    ascent: Visualization

    def facts(self) -> dict[str, Any]:
        """Every number, as JSON takes it."""
        indices = self.faces.indices.tolist()
        return {
            "schema_version": 1,
            "data": self.data or "synthetic faces",
            "split": self.split,
            "seed": self.seed,
            "n": len(self.cnn.reading),
            "class_names": list(self.faces.class_names),
            "cnn": self.cnn.facts(),
            "dnn": self.dnn.facts(),
            "agreement": asdict(self.met),
            "confusions": [asdict(one.confusion) for one in self.mistakes],
            "shown": dict(zip(self._shown_classes(), indices, strict=True)),
            "where": {
                name: {"n": n, "parts": {part: asdict(share) for part, share in parts.items()}}
                for name, (n, parts) in self.where.items()
            },
            "shares": {name: [asdict(s) for s in shares] for name, shares in self.shares.items()},
            "first_layer": self.outputs.statistics(),
            "filters": ranked(self.ascent),
        }

    def _shown_classes(self) -> list[str]:
        return [self.faces.class_names[label] for label in self.faces.labels.tolist()]


def find(
    cnn: Network, dnn: Network, faces: FaceDataset, drawn: FaceDataset, *, data: str | None,
    split: str, seed: int,
) -> Findings:  # fmt: skip
    """Computes what the report says.

    Args:
        cnn: The first network, with what it reads in ``faces`` and in ``drawn``.
        dnn: The second.
        faces: The images.
        drawn: Synthetic faces that no network saw in training.
        data: What the images are; None for synthetic faces.
        split: Which of them.
        seed: Of everything that is drawn at random.
    """
    device = next(cnn.module.parameters()).device
    shown = faces.subset(_shown(cnn.reading))
    images = shown.images.to(device)
    outputs = activations(cnn.module, images[0], FIRST)
    peaks = outputs.outputs.amax((1, 2))
    strongest = sorted(peaks.argsort(descending=True, stable=True)[:FILTERS].tolist())
    confusions = most_confused(cnn.reading.counts, faces.class_names, PAIRS)
    return Findings(
        data=data,
        split=split,
        seed=seed,
        cnn=cnn,
        dnn=dnn,
        met=agreement(cnn.reading, dnn.reading),
        mistakes=[
            explain_confusion(one, cnn.module, faces, cnn.reading, most=EXAMPLES, seed=seed)
            for one in confusions
        ],
        faces=shown,
        maps=ek.explain(cnn.module, images, shown.labels, seed=seed),
        same=[ek.explain(one.module, images[:4], seed=seed) for one in (cnn, dnn)],
        where=_where(cnn, faces, seed),
        shares={name: part_shares(cnn.module, drawn, name, seed=seed) for name in METHODS},
        outputs=outputs,
        ascent=ek.maximize(
            cnn.module,
            f'channels("{FIRST_ACTIVE}", {strongest})',
            maximizer="explainkit/plain",
            steps=STEPS,
            seed=seed,
        ),
    )


def _shown(reading: Predictions) -> list[int]:
    """An image of each class, read rightly if there is one, with median certainty.

    The median: neither the easiest image of the class nor the hardest.
    """
    found = []
    sure = reading.logits.softmax(1).amax(1)
    for name in SHOWN:
        of_class = reading.labels == CLASS_NAMES.index(name)
        pool = of_class & reading.right if bool((of_class & reading.right).any()) else of_class
        rows = pool.nonzero().flatten()
        if len(rows):
            order = sure[rows].argsort(stable=True)
            found.append(int(rows[order[len(rows) // 2]]))
    return found


def _where(
    cnn: Network, faces: FaceDataset, seed: int
) -> dict[str, tuple[int, dict[str, PartShare]]]:
    """The share of |saliency| by part in each class's rightly read images."""
    device = next(cnn.module.parameters()).device
    average = atlas() if faces.parts is None else None
    found = {}
    for name in SHOWN:
        label = CLASS_NAMES.index(name)
        rows = (cnn.reading.right & (cnn.reading.labels == label)).nonzero().flatten()
        rows = rows[_spread(len(rows), MOST_OF_A_CLASS)]
        if not len(rows):
            continue
        chosen = faces.subset(rows)
        explanation = ek.explain(cnn.module, chosen.images.to(device), label, seed=seed)
        maps = explanation.heatmap("abs_sum").cpu()
        parts = chosen.parts
        alive = maps.sum((1, 2)) > 0
        where = average if parts is None else one_hot(parts)[alive]
        assert where is not None
        if bool(alive.any()):
            found[name] = (int(alive.sum()), by_part(maps[alive], where, seed))
    return found


def _spread(n: int, most: int) -> Tensor:
    """Up to ``most`` places, evenly spread over n."""
    return torch.arange(min(n, most)) * n // min(n, most) if n else torch.arange(0)
