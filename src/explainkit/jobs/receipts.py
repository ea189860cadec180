"""Verifies results: are files, images and model unchanged, and can the maps be reproduced?"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from explainkit.catalog.factories import method_from
from explainkit.errors import ExplainkitError, StorageError
from explainkit.jobs.checks import (
    HALF,
    TOLERANCE,
    Check,
    changes,
    difference,
    first_of,
    library_check,
    numbers_check,
)
from explainkit.jobs.items import read_items
from explainkit.jobs.opening import reopened
from explainkit.jobs.plan import ITEMS, PLAN, described_model, library_versions
from explainkit.jobs.reduction import reduced
from explainkit.jobs.saved import REPORT, found_model, is_saved, verify_saved
from explainkit.jobs.shards import check_tensors, sha256_of
from explainkit.jobs.sources import Memory
from explainkit.jobs.store import Store
from explainkit.jobs.worker import Job, Worker, computing


def verify(
    path: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    recompute: int = 0,
    seed: int = 0,
) -> list[Check]:
    """Hashes all that a result was made from, and computes some of it again.

    Args:
        path: The folder of a store or of a saved explanation, or the file of a report.
        model: The model, or what loads it; None: one of a plugin is found by its name, any other
            is not checked, and nothing is recomputed, since a result must not name code to run.
        recompute: How many images are explained again.
        seed: Chooses which ones.

    Returns:
        The checks: files, images, library, model, and numbers if some were recomputed.

    Raises:
        StorageError: There is no store, no explanation and no report.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images = {f"image {i}": torch.rand(1, 4, 4) for i in range(10)}
        >>> store = ek.batch(images, net, "saliency", tempfile.mkdtemp())
        >>> [(check.name, check.verdict) for check in verify(store.path, net, recompute=2)]
        [('files', 'ok'), ('images', 'ok'), ('library', 'ok'), ('model', 'ok'), ('numbers', 'ok')]
    """
    path = Path(path)
    if not (path / PLAN).exists():
        if path.suffix != REPORT and not is_saved(path):
            raise StorageError(
                f"expected a store, a saved explanation or a report (.html), got {path}"
            )
        return verify_saved(path, model, recompute, seed)
    try:
        store = Store(path)
    except StorageError as error:
        return [Check("files", "damaged", str(error))]
    checks = [_files(store)]
    if checks[0].verdict == "damaged":
        return checks
    return [*checks, *_made_from(store, model, recompute, seed)]


def _files(store: Store) -> Check:
    if sha256_of(store.path / ITEMS) != store.plan.items.sha256:
        return Check("files", "damaged", f"{store.path / ITEMS} is missing or was changed")
    offsets = store.plan.items.offsets
    done = 0
    for number in range(store.plan.shards):
        try:
            shard = store.shard(number)
            if shard is None:
                continue
            check_tensors(shard)
        except StorageError as error:
            return Check("files", "damaged", str(error))
        ids = read_items(store.path / ITEMS, offsets[number], offsets[number + 1])
        if [item.id for item in shard.items] != ids:
            return Check("files", "damaged", f"shard {number} has other items than the plan")
        done += 1
    return Check("files", "ok", f"{done} of {store.plan.shards} shards")


def _made_from(
    store: Store, model: nn.Module | Callable[[], nn.Module] | None, recompute: int, seed: int
) -> Iterator[Check]:
    """Checks of what a store was made from."""
    yield _images(store)
    module = found_model(store.plan.model["name"], model)
    if module is None:
        yield Check("model", "not checked", f"no model was given: {store.plan.model['name']}")
        return
    names = [one["method"] for one in store.plan.methods]
    yield library_check(store.plan.library, library_versions(module, names))
    known = described_model(module, store.plan.explained)
    same = known == store.plan.model
    found = f"{known['name']}, weights {known['weights']}"
    yield Check(
        "model", "ok" if same else "differs", found if same else changes(store.plan.model, known)
    )
    if recompute:
        yield _numbers(store, module, recompute, seed)


def _images(store: Store) -> Check:
    """Whether the images are those that were explained."""
    source = reopened(store.plan.source)
    if source is None:
        return Check("images", "ok", "inputs are kept in the store")
    changed, count = [], 0
    for item in store.items:
        if not item.sha256:
            continue
        count += 1
        try:
            now = source.read(item.id).sha256
        except ExplainkitError as error:
            now = str(error)
        if now != item.sha256:
            changed.append(item.id)
    if changed:
        return Check("images", "differs", f"changed or missing: {first_of(changed)}")
    return Check("images", "ok", f"{count} images")


def _numbers(store: Store, module: nn.Module, count: int, seed: int) -> Check:
    """The largest difference between stored and recomputed maps."""
    plan = store.plan
    if plan.explained:
        return Check("numbers", "not checked", "a store has no inputs that are held fixed")
    kept = [item for item in store.items if item.status == "ok"]
    if not kept:
        return Check("numbers", "not checked", "no item has a map")
    if "$tensor" in json.dumps(list(plan.methods)):
        return Check("numbers", "not checked", "the plan has parameters that are tensors as hashes")
    methods = [method_from(one["method"], one["params"]) for one in plan.methods]
    chosen = random.Random(seed).sample(kept, min(count, len(kept)))  # noqa: S311 - not a secret
    worker = Worker(Job(store.path, plan, Memory({}), module, methods, plan.device))
    allowed = TOLERANCE + (HALF if plan.dtype == "float16" else 0)
    worst, where, again = 0.0, "", 0
    with computing(plan.threads):
        for item in chosen:
            try:
                stored = store.explanations(item.id)
            except ExplainkitError:
                continue  # a changed image is another line of the table
            again += 1
            found = worker.explained([stored[0].inputs[0]])
            for one, full in zip(stored, found, strict=True):
                other = full if plan.map_size is None else reduced(full, plan.map_size)
                apart = difference(one.attribution, other.attribution.cpu())
                if apart >= worst:
                    worst, where = apart, f"{item.id}, {other.method}"
    return numbers_check(worst, where, again, allowed)
