"""What an export has for each image: ids, targets, scores, verdicts and maps, a shard at a time."""

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explainkit.errors import StorageError
from explainkit.jobs.outcomes import Item
from explainkit.jobs.shards import Stored, check_tensors
from explainkit.jobs.store import Store

Fields = dict[str, dict[str, Any]]
"""By the name of a map, the fields of the explanations of images of one size."""


def done(store: Store) -> Iterator[tuple[int, Stored]]:
    """The shards that are done, checked."""
    for number in range(store.plan.shards):
        if (shard := store.shard(number)) is not None:
            check_tensors(shard)
            yield number, shard


def columns(items: list[Item], maps: Fields) -> dict[str, NDArray[Any]]:
    """Arrays with a row for each image: −1 and NaN stand for what does not exist."""
    first = next(iter(maps.values()))
    found: dict[str, NDArray[Any]] = {
        "id": np.array([item.id for item in items]),
        "target": first["target"].numpy(),
        "score": array(first["score"]),
        "predicted": np.array([-1 if item.predicted is None else item.predicted for item in items]),
        "confidence": np.array(
            [math.nan if item.confidence is None else item.confidence for item in items], np.float32
        ),
        "logits": array(first["logits"]),
    }
    for number, (name, one) in enumerate(maps.items()):
        found[name] = array(one["attribution"])
        if items[0].judged:
            verdicts = [item.judged[number].verdict for item in items]
            found[f"{name} verdict"] = np.array(verdicts)
    return found


def row_of(item: Item, row: int, maps: Fields) -> dict[str, Any]:
    """What a row has besides maps."""
    found: dict[str, Any] = {
        name: getattr(item, name) for name in ("id", "target", "score", "predicted", "confidence")
    }
    found["logits"] = array(next(iter(maps.values()))["logits"][row])
    for name, card in zip(maps, item.judged, strict=False):
        found[f"{name} verdict"] = card.verdict
    return found


def array(values: Any) -> NDArray[Any]:
    """A tensor as an array of a dtype that NumPy has."""
    found: NDArray[Any] = values.float().numpy()
    return found


def facts(store: Store) -> dict[str, Any]:
    """What a store's maps are, for the record of an export."""
    return {"plan": store.plan.hash, **store.plan.question}


def needed(package: str, to: str) -> Any:
    """An optional package, which an export takes.

    Raises:
        StorageError: It is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise StorageError(f"expected {name}, for {to}: pip install {name} ({error})") from error
