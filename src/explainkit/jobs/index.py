"""The index of a store: which images are shown, and their cards, read one at a time."""

from collections.abc import Iterator
from pathlib import Path

from explainkit.errors import ExplainkitError, InputError
from explainkit.jobs.outcomes import Item
from explainkit.jobs.store import Store
from explainkit.render.index import Card, Summary, thumbnails, write_index

LIMIT = 500
"""Images with maps in an index by default, and as many without."""


def report(store: Store, path: str | Path, *, limit: int = LIMIT) -> Path:
    """Writes the index of many images as one HTML file: thumbnails with filters.

    The page filters by status, predicted class and verdict, opens from disk and loads nothing. Of
    more images than the limit, evenly spaced ones are shown, and the page says so.

    Args:
        store: A store or a part of it, such as ``store.where(verdict="supported")``.
        path: The file; it is written atomically.
        limit: The most images with maps, and the most without.

    Returns:
        The path.

    Raises:
        InputError: The limit is not positive, or there are no images.
        StorageError: A shard is damaged.
        RenderError: The file can't be written.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images = {f"image {i}": torch.rand(1, 4, 4) for i in range(10)}
        >>> store = ek.batch(images, net, "saliency", tempfile.mkdtemp())
        >>> report(store, f"{tempfile.mkdtemp()}/index.html", limit=4).name
        'index.html'
    """
    if limit < 1:
        raise InputError(f"limit: expected at least 1, got {limit}")
    counts = {"ok": 0, "refused": 0, "failed": 0}
    mapped: list[int] = []
    others: list[int] = []
    predicted: set[int] = set()
    for row in range(len(store)):
        if (item := store.item(row)) is None:
            continue
        counts[item.status] += 1
        (mapped if item.status == "ok" else others).append(row)
        if item.predicted is not None:
            predicted.add(item.predicted)
    if not mapped and not others:
        raise InputError(f"expected images in {store.path}, got none")
    shown = [_spaced(rows, limit) for rows in (mapped, others)]
    notes = [
        f"{len(kept):,} of {len(rows):,} images {what} are shown, evenly spaced: --limit shows more"
        for kept, rows, what in zip(
            shown, (mapped, others), ("with maps", "without maps"), strict=True
        )
        if len(kept) < len(rows)
    ]
    weak = store.progress().low_power
    if weak:
        notes.append(
            f"low power on this network: the positive control of {', '.join(weak)} fails too often "
            "to tell maps apart"
        )
    names = store.class_names
    plan = store.plan
    summary = Summary(
        model=plan.model["name"], methods=store.methods, counts=counts, notes=notes,
        facts={name: str(value) for name, value in plan.question.items()} | {"plan": plan.hash},
        command=plan.command,
    )  # fmt: skip
    cards = _cards(store, sorted(shown[0] + shown[1]), names)
    return write_index(
        Path(path), summary, cards, [_class(label, names) for label in sorted(predicted)]
    )


def _spaced(rows: list[int], limit: int) -> list[int]:
    """At most so many of the rows, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _cards(store: Store, rows: list[int], names: tuple[str, ...]) -> Iterator[Card]:
    for row in rows:
        if (item := store.item(row)) is not None:
            yield _card(store, row, item, names)


def _card(store: Store, row: int, item: Item, names: tuple[str, ...]) -> Card:
    predicted = "" if item.predicted is None else _class(item.predicted, names)
    if item.status != "ok":
        return Card(item.id, item.status, item.reason, predicted=predicted)
    reason, target = "", ""
    images: list[str] = []
    try:
        found = store.explanations(row)
        target = found[0].expression or found[0].class_name(int(found[0].target[0]))
        images = thumbnails(found)
    except ExplainkitError as error:  # its image is gone, or was changed
        reason = str(error)
    return Card(
        item.id, item.status, reason, target, predicted, item.confidence,
        [card.verdict for card in item.judged], images,
    )  # fmt: skip


def _class(label: int, names: tuple[str, ...]) -> str:
    return names[label] if names else f"class {label}"
