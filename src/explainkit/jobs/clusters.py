"""Clusters of the maps of a store, which are read a shard at a time."""

from array import array
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from explainkit.concept_discovery.spectral import partition
from explainkit.errors import InputError
from explainkit.jobs.labels import Labels, by_label
from explainkit.jobs.reduction import area_means
from explainkit.results.clusters import Clusters
from explainkit.scores import class_index

if TYPE_CHECKING:
    from explainkit.jobs.store import Store

CELLS = 16
"""Rows and columns of a map that is clustered: the shift of an object by fewer pixels than a cell
has changes little."""

EXEMPLARS = 6


def clusters_of(
    store: "Store",
    n: int | None,
    labels: Labels,
    method: int,
    cells: int,
    neighbors: int,
    seed: int,
) -> Clusters:
    """Clusters the maps of a store by a method of this index; see `Store.clusters`."""
    rows, parts, names = array("q"), [], store.class_names
    for row, one in store.maps(store.methods[method]):
        rows.append(row)
        parts.append(area_means(one.double().sum(0), (cells, cells)).flatten().float())
    if not parts:
        raise InputError(f"expected maps in {store.path}, got none")
    maps = normalize(torch.stack(parts), dim=1)
    found = partition(maps, n, neighbors=neighbors, seed=seed)
    count = int(found.cluster.max()) + 1
    means = torch.stack([maps[found.cluster == k].mean(0) for k in range(count)])
    items = [store.item(row) for row in range(len(store))]
    ids = ["" if item is None else item.id for item in items]
    label = by_label(labels, ids)

    def true_class(row: int) -> int:
        value = label(row)
        if value is None or value == -1:
            return -1
        return class_index(value, len(names) or 2**31, names)

    chosen = [items[row] for row in rows]
    predicted = [-1 if one is None or one.predicted is None else one.predicted for one in chosen]
    return Clusters(
        model=store.plan.model["name"],
        method=store.methods[method],
        ids=tuple(ids[row] for row in rows),
        cluster=found.cluster,
        means=means.view(count, cells, cells),
        eigenvalues=found.eigenvalues,
        closest=tuple(
            tuple(ids[rows[i]] for i in _closest(maps, found.cluster == k, means[k]))
            for k in range(count)
        ),
        predicted=torch.tensor(predicted),
        label=torch.tensor([true_class(row) for row in rows]),
        class_names=names,
        neighbors=neighbors,
        seed=seed,
        chosen=n is not None,
        left_out=len(store) - len(rows),
        plan=store.plan.hash,
        load=lambda item: store.explanations(item)[method],
    )


def _closest(maps: Tensor, inside: Tensor, mean: Tensor) -> list[int]:
    """The rows of a cluster whose maps are most similar to its mean, by cosine."""
    rows = inside.nonzero().flatten()
    order = (maps[rows] @ mean).argsort(descending=True, stable=True)[:EXEMPLARS]
    found: list[int] = rows[order].tolist()
    return found
