"""What became of the images of a job: the status of each, and what a scorecard says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "refused", "failed"]


@dataclass(frozen=True)
class Item:
    """What became of one image.

    Attributes:
        id: Its id.
        status: ``"ok"``; ``"refused"`` by a method for this image; ``"failed"``: the image can't be
            read, or the model fails on it.
        reason: Why it is not ok, in one line.
        sha256: Of its bytes; "" if it can't be read.
        group: Which group of inputs of one size it belongs to.
        row: Its row in the tensors of that group.
        geometry: Where its input lies in the original, as `Geometry.to_dict` gives it.
        target: The explained class.
        score: The explained score.
        predicted: The predicted class; None unless there is a single one.
        confidence: The probability of the explained class; None if there is none.
        judged: For each method, what the scorecard says; empty if there is none.
    """

    id: str
    status: Status
    reason: str = ""
    sha256: str = ""
    group: int = 0
    row: int = 0
    geometry: Mapping[str, Any] | None = None
    target: int | None = None
    score: float | None = None
    predicted: int | None = None
    confidence: float | None = None
    judged: Sequence["Judged"] = ()

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "Item":
        """An item as `dataclasses.asdict` gave it."""
        cards = tuple(Judged(**card) for card in record.get("judged", ()))
        return Item(**{**record, "judged": cards})


@dataclass(frozen=True)
class Judged:
    """What a scorecard says about one map; p-values are adjusted for the number of methods.

    Attributes:
        verdict: One of those of `explainkit.results.scorecard.SENTENCES`.
        statistic: Of the three tests; None where there is none.
        p: Their p-values.
        power: The p-value of the positive control; None if it could not be measured.
        reason: Why the map can't be judged, or why a test is missing; or empty.
    """

    verdict: str
    statistic: Sequence[float | None]
    p: Sequence[float | None]
    power: float | None
    reason: str = ""
