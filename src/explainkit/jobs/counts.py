"""How far a job is: how many images have which status, and how many maps which verdict."""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from explainkit.errors import StorageError
from explainkit.jobs.outcomes import Item, Status
from explainkit.jobs.shards import check_tensors
from explainkit.results.scorecard import control_of, fails_often

if TYPE_CHECKING:
    from explainkit.jobs.store import Store


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        items: Of the plan.
        ok: Items that were explained.
        refused: Items that a method refused.
        failed: Items whose image can't be read, or on which the model fails.
        shards: Of the plan.
        done: Shards whose files are complete.
        damaged: Why shards are not valid, one line each.
        failures: The items that have no map.
        verdicts: For each method, how many maps have which verdict; empty without scorecards.
        low_power: Methods whose positive control fails too often on this network, so that their
            verdicts say little.
    """

    items: int
    ok: int
    refused: int
    failed: int
    shards: int
    done: int
    damaged: tuple[str, ...] = ()
    failures: tuple[Item, ...] = ()
    verdicts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    low_power: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """Items that have no status yet."""
        return self.items - self.ok - self.refused - self.failed


def progress_of(store: "Store", check: bool) -> Progress:
    """How far the job of a store is; see `Store.progress`."""
    counts: Counter[Status] = Counter()
    done = 0
    damaged: list[str] = []
    failures: list[Item] = []
    verdicts: dict[str, Counter[str]] = {name: Counter() for name in store.methods}
    powers = {name: array("d") for name in store.methods}
    for number in range(store.plan.shards):
        try:
            shard = store.shard(number)
            if shard is None:
                continue
            if check:
                check_tensors(shard)
        except StorageError as error:
            damaged.append(str(error))
            continue
        done += 1
        counts.update(item.status for item in shard.items)
        failures += [item for item in shard.items if item.status != "ok"]
        for item in shard.items:
            for name, card in zip(store.methods, item.judged, strict=False):
                verdicts[name][card.verdict] += 1
                if card.power is not None:
                    powers[name].append(card.power)
    return Progress(
        items=store.plan.items.count,
        ok=counts["ok"],
        refused=counts["refused"],
        failed=counts["failed"],
        shards=store.plan.shards,
        done=done,
        damaged=tuple(damaged),
        failures=tuple(failures),
        verdicts=verdicts if store.plan.scorecard else {},
        low_power=tuple(
            name for name, p in powers.items() if fails_often(control_of(torch.tensor(p)))
        ),
    )
