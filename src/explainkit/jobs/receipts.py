"""Verifies results: are the files whole, are the images and the model the same, do maps recur?"""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from explainkit.catalog.factories import load_method
from explainkit.errors import ExplainkitError, StorageError
from explainkit.interfaces import Method
from explainkit.jobs.items import read_items
from explainkit.jobs.opening import reopened
from explainkit.jobs.plan import ITEMS, PLAN, described_model, library_versions
from explainkit.jobs.reduction import reduced
from explainkit.jobs.shards import check_tensors, sha256_of
from explainkit.jobs.sources import Memory
from explainkit.jobs.store import Store
from explainkit.jobs.worker import Job, Worker, computing
from explainkit.results.explanation import Explanation
from explainkit.results.storage import load

TOLERANCE = 1e-3
"""How far a recomputed value may be from the stored one, relative to the map's largest value.

The same versions on the same kind of machine give the same bits; other processors and other numbers
of threads add up in another order."""

HALF = 2**-11
"""What storing a map as float16 may change, relative to its largest value."""

Verdict = Literal["ok", "differs", "damaged", "not checked"]

EXIT = {"ok": 0, "not checked": 0, "differs": 1, "damaged": 4}
"""The exit code of each verdict; that of a table is the largest."""


@dataclass(frozen=True)
class Check:
    """One line of the table of `verify`.

    Attributes:
        name: What was checked: files, images, model, library, numbers.
        verdict: ``"ok"``; ``"differs"``: it changed since; ``"damaged"``: files are incomplete or
            were changed; ``"not checked"``.
        found: What was found.
    """

    name: str
    verdict: Verdict
    found: str


def verify(
    path: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    recompute: int = 0,
    seed: int = 0,
) -> list[Check]:
    """Hashes all that a result was made from, and computes some of it again.

    Args:
        path: The folder of a store, or of a saved explanation.
        model: The model of a store, or what loads it; None: the model is not checked, and nothing
            is recomputed.
        recompute: How many items of a store are recomputed.
        seed: Chooses which ones.

    Returns:
        The checks: those of an explanation are its files alone.

    Raises:
        StorageError: There is neither a store nor an explanation.

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
        return [_saved(path)]
    try:
        store = Store(path)
    except StorageError as error:
        return [Check("files", "damaged", str(error))]
    checks = [_files(store)]
    if checks[0].verdict == "damaged":
        return checks
    return [*checks, *_made_from(store, model, recompute, seed)]


def exit_code(checks: Sequence[Check]) -> int:
    """The exit code that a table of checks means: 0, 1 (something differs) or 4 (damaged)."""
    return max(EXIT[check.verdict] for check in checks)


def _saved(path: Path) -> Check:
    if not (path / "explanation.json").exists():
        raise StorageError(f"expected a store or a saved explanation in {path}")
    try:
        found = load(Explanation, path)
    except StorageError as error:
        return Check("files", "damaged", str(error))
    return Check("files", "ok", f"an explanation of {len(found)} images by {found.method}")


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
    if model is None:
        yield Check("model", "not checked", "no model was given")
        return
    module = model if isinstance(model, nn.Module) else model()
    names = [one["method"] for one in store.plan.methods]
    now, then = library_versions(module, names), store.plan.library
    yield Check(
        "library",
        "ok" if now == then else "differs",
        _changes(then, now) or ", ".join(f"{name} {version}" for name, version in now.items()),
    )
    known = described_model(module)
    same = known == store.plan.model
    found = f"{known['name']}, weights {known['weights']}"
    yield Check(
        "model", "ok" if same else "differs", found if same else _changes(store.plan.model, known)
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
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return Check("images", "differs", f"changed or missing: {', '.join(changed[:3])}{more}")
    return Check("images", "ok", f"{count} images")


def _numbers(store: Store, module: nn.Module, count: int, seed: int) -> Check:
    """The largest difference between stored and recomputed maps."""
    plan = store.plan
    kept = [item for item in store.items if item.status == "ok"]
    if not kept:
        return Check("numbers", "not checked", "no item has a map")
    methods = _methods(plan.methods)
    if methods is None:
        return Check("numbers", "not checked", "the plan has parameters that are tensors as hashes")
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
                difference = _difference(one.attribution, other.attribution.cpu())
                if difference >= worst:
                    worst, where = difference, f"{item.id}, {other.method}"
    verdict: Verdict = "ok" if worst <= allowed else "differs"
    return Check(
        "numbers", verdict,
        f"{again} images again: largest difference {worst:.1e} of the map's largest value, "
        f"allowed {allowed:.1e}" + (f" ({where})" if verdict == "differs" else ""),
    )  # fmt: skip


def _methods(records: Sequence[Mapping[str, Any]]) -> list[Method] | None:
    """The methods that a plan names; None if their parameters are not all in it."""
    if "$tensor" in json.dumps(list(records)):
        return None
    return [_method(record["method"], record["params"]) for record in records]


def _method(name: str, params: Mapping[str, Any]) -> Method:
    def value(given: Any) -> Any:
        if isinstance(given, Mapping) and "method" in given:
            inner = {name: one for name, one in given.items() if name != "method"}
            return _method(given["method"], inner)
        return tuple(map(value, given)) if isinstance(given, list) else given

    return load_method(name, **{field: value(given) for field, given in params.items()})


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value of the first."""
    if one.shape != other.shape:
        return math.inf
    difference, largest = float((one - other).abs().max()), float(one.abs().max())
    return difference / largest if largest else math.inf if difference else 0.0


def _changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    return "; ".join(
        f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    )
