"""A report's record for machines: what each explanation was made from, and a seal over the file."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from explainkit.hashes import plain_params
from explainkit.render.heatmap import Reduce

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

KEYS = (
    "method", "params", "model", "layer", "at", "target", "expression", "seed", "task", "output",
    "precision", "class_names", "versions", "receipt", "reduce",
)  # fmt: skip
"""What every record has."""

UNSEALED = "0" * 64
"""Stands for the seal while it is computed."""

_SEAL = re.compile(r'(<meta name="explainkit-sha256" content=")([0-9a-f]{64})(">)')


def record_of(one: "Explanation", reduce: Reduce) -> dict[str, Any]:
    """What it takes to compute an explanation's maps again, as JSON; tensors are hashes."""
    values = {name: getattr(one, name) for name in KEYS[:-1]}
    return values | {
        "params": plain_params(one.params), "target": one.target.tolist(), "reduce": reduce,
    }  # fmt: skip


def sealed(text: str) -> str:
    """The page with its own sha256, which is taken with zeros in its place."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return _SEAL.sub(rf"\g<1>{digest}\g<3>", text, count=1)


def is_sealed(text: str) -> bool:
    """Whether a page has its own sha256."""
    return _SEAL.search(text) is not None


def is_whole(text: str) -> bool:
    """Whether a page is as it was written."""
    found = _SEAL.search(text)
    return found is not None and sealed(_SEAL.sub(rf"\g<1>{UNSEALED}\g<3>", text, 1)) == text


def script(text: str, name: str) -> str:
    """The content of a script element of a report; empty if there is none."""
    found = re.search(rf'<script type="[\w/+-]+" id="{re.escape(name)}">(.*?)</script>', text, re.S)
    return found[1] if found else ""


def records(text: str) -> list[dict[str, Any]]:
    """The records of a report's explanations.

    Raises:
        ValueError: They are not JSON.
    """
    found: list[dict[str, Any]] = json.loads(script(text, "receipts") or "[]")
    return found
