"""The numbers of the report, computed once for every language."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import explainkit as ek
from explainkit.results.explanation import Explanation
from explainkit.results.scorecard import Scorecard
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.calibration import calibration
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
"""Number of confusions that are explained, and of images per confusion."""

FIRST, FIRST_ACTIVE = "0", "1"
"""The CNN's first convolution, and the ReLU after it."""

FILTERS = 16
"""Number of filters that are maximized."""

STEPS = 180
"""Steps of gradient ascent, as in the study."""

MOST_OF_A_CLASS = 40
"""Maximum number of correctly classified images per class in the shares by part."""

SHOWN = ("angry", "happy", "surprise", "fear", "sad", "disgust", "neutral")
"""Order of the classes in the figures."""


@dataclass(frozen=True, eq=False)
class Network:
    """One of the two networks, with its layers (`commands.summary.layers`) and training curves."""

    name: str
    tag: str
    module: nn.Module
    layers: list[dict[str, Any]]
    predictions: Predictions
    synthetic: Predictions
    curves: list[Curve]

    def facts(self) -> dict[str, Any]:
        """The numbers of this network, for JSON."""
        return {
            "model": self.name,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "convolutions": self.convolutions,
            "images": self.predictions.facts(),
            "synthetic": self.synthetic.facts(),
            "curves": [asdict(curve) for curve in self.curves],
        }

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(row["parameters"] for row in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        return sum(row["multiply_adds"] for row in self.layers)

    @property
    def convolutions(self) -> int:
        """Number of convolutions."""
        return sum("convolution" in row["kind"] for row in self.layers)


@dataclass(frozen=True, eq=False)
class Findings:
    """The results of a run.

    Attributes:
        data: Name of the data; None for synthetic faces.
        met: Agreement of the networks' predictions.
        mistakes: The CNN's most frequent confusions, explained.
        mistakes_beside: The same by the method named in the CNN's model card; None without a card.
        faces: One image per class, correctly classified by the CNN, in the order of `SHOWN`.
        maps: Their saliency in the CNN, for the true class.
        beside: The same by the method named in the CNN's model card; None without a card.
        cards: The scorecards of both.
        same: The first four of them explained in both networks, for the predicted class: by
            saliency, and by the method named in its model card.
        where: Per class, the number of images and their share of saliency on each part.
        shares: Per method, the shares on the expressive parts of synthetic faces.
        outputs: Outputs of the CNN's first layer for the first of ``faces``.
        ascent: The images that maximally activate the filters with the largest outputs.
    """

    data: str | None
    split: str
    seed: int
    cnn: Network
    dnn: Network
    met: Agreement
    mistakes: list[Examples]
    mistakes_beside: list[Examples | None]
    faces: FaceDataset
    maps: Explanation
    beside: Explanation | None
    cards: list[Scorecard]
    same: list[Explanation]
    where: dict[str, tuple[int, dict[str, PartShare]]]
    shares: dict[str, list[PartShares]]
    outputs: Activations
    ascent: Visualization

    def facts(self) -> dict[str, Any]:
        """Every number, for JSON."""
        indices = self.faces.indices.tolist()
        shown = [self.faces.class_names[label] for label in self.faces.labels.tolist()]
        return {
            "schema_version": 1,
            "data": self.data or "synthetic faces",
            "split": self.split,
            "seed": self.seed,
            "n": len(self.cnn.predictions),
            "class_names": list(self.faces.class_names),
            "cnn": self.cnn.facts(),
            "dnn": self.dnn.facts(),
            "agreement": asdict(self.met),
            "confusions": [asdict(one.confusion) for one in self.mistakes],
            "shown": dict(zip(shown, indices, strict=True)),
            "where": {
                name: {"n": n, "parts": {part: asdict(share) for part, share in parts.items()}}
                for name, (n, parts) in self.where.items()
            },
            "shares": {name: [asdict(s) for s in shares] for name, shares in self.shares.items()},
            "first_layer": self.outputs.statistics(),
            "filters": ranked(self.ascent),
        }


def find(
    cnn: Network, dnn: Network, faces: FaceDataset, synthetic: FaceDataset, *, data: str | None,
    split: str, seed: int,
) -> Findings:  # fmt: skip
    """Computes the numbers of the report."""
    device = next(cnn.module.parameters()).device
    shown = faces.subset(_shown(cnn.predictions))
    images = shown.images.to(device)
    outputs = activations(cnn.module, images[0], FIRST)
    peaks = outputs.outputs.amax((1, 2))
    strongest = sorted(peaks.argsort(descending=True, stable=True)[:FILTERS].tolist())
    card, named = calibration(cnn.name), [calibration(one.name) for one in (cnn, dnn)]
    maps = ek.explain(cnn.module, images, shown.labels, seed=seed)
    beside = None
    if card is not None:
        beside = ek.explain(cnn.module, images, shown.labels, card.method, seed=seed)
    confusions = most_confused(cnn.predictions.counts, faces.class_names, PAIRS)
    explained = partial(
        explain_confusion, model=cnn.module, faces=faces, predictions=cnn.predictions,
        most=EXAMPLES, seed=seed,
    )  # fmt: skip
    return Findings(
        data=data,
        split=split,
        seed=seed,
        cnn=cnn,
        dnn=dnn,
        met=agreement(cnn.predictions, dnn.predictions),
        mistakes=[explained(one) for one in confusions],
        mistakes_beside=[
            None if card is None else explained(one, method=card.method) for one in confusions
        ],
        faces=shown,
        maps=maps,
        beside=beside,
        cards=[one.scorecard() for one in (maps, beside) if one is not None],
        same=[
            ek.explain(one.module, images[:4], method=method, seed=seed)
            for one, known in zip((cnn, dnn), named, strict=True)
            for method in ("saliency", known and known.method)
            if method
        ],
        where=_where(cnn, faces, seed),
        shares={name: part_shares(cnn.module, synthetic, name, seed=seed) for name in METHODS},
        outputs=outputs,
        ascent=ek.maximize(
            cnn.module,
            f'channels("{FIRST_ACTIVE}", {strongest})',
            maximizer="explainkit/plain",
            steps=STEPS,
            seed=seed,
        ),
    )


def _shown(predictions: Predictions) -> list[int]:
    """One image per class, correctly classified if possible, with median confidence.

    The median image is neither the easiest of its class nor the hardest.
    """
    found = []
    confidence = predictions.logits.softmax(1).amax(1)
    for name in SHOWN:
        of_class = predictions.labels == CLASS_NAMES.index(name)
        correct = of_class & predictions.correct
        pool = correct if bool(correct.any()) else of_class
        rows = pool.nonzero().flatten()
        if len(rows):
            order = confidence[rows].argsort(stable=True)
            found.append(int(rows[order[len(rows) // 2]]))
    return found


def _where(
    cnn: Network, faces: FaceDataset, seed: int
) -> dict[str, tuple[int, dict[str, PartShare]]]:
    """Per class, the share of |saliency| by part in correctly classified images."""
    device = next(cnn.module.parameters()).device
    average = atlas() if faces.parts is None else None
    found = {}
    for name in SHOWN:
        label = CLASS_NAMES.index(name)
        rows = (cnn.predictions.correct & (cnn.predictions.labels == label)).nonzero().flatten()
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
    """Up to ``most`` indices, evenly spread over n."""
    return torch.arange(min(n, most)) * n // min(n, most) if n else torch.arange(0)
