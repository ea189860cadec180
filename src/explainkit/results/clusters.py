"""What `Store.clusters` returns: groups of similar maps, and what their images have in common."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from explainkit.errors import InputError
from explainkit.results.statistics import adjusted_rand, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from explainkit.results.explanation import Explanation

Grouping = Literal["predicted classes", "true classes", "mistakes"]
"""What clusters are compared with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Groups of images whose maps are similar, the largest first.

    Attributes:
        model: Name of the model.
        method: Qualified name of the method whose maps were clustered.
        ids: Of the images, in the order of the store.
        cluster: That of each image, int64 ``[image]``, from 0.
        means: Mean map of each cluster in cells, ``[cluster, cells, cells]``; each map was divided
            by its Euclidean norm before.
        eigenvalues: The smallest of the graph's Laplacian, ascending; a gap after the k-th speaks
            for k clusters.
        closest: For each cluster the ids of the images whose maps are closest to its mean map.
        predicted: Predicted class of each image, int64 ``[image]``; −1 if there is none.
        label: True class, likewise; −1 where it is unknown.
        class_names: In the order of the classes; empty if they have no names.
        neighbors: Edges from each map in the graph.
        seed: Random seed.
        chosen: Whether the number of clusters was given; otherwise the eigengap determined it.
        left_out: Number of images of the store without a map.
        plan: Hash of the store's plan.
        load: Reads the explanation of an image from the store.

    Examples:
        >>> import tempfile, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images = {f"image {i}": torch.rand(1, 4, 4) for i in range(40)}
        >>> store = ek.batch(images, net, "input_x_gradient", tempfile.mkdtemp())
        >>> found = store.clusters(2)
        >>> len(found), sum(found.sizes), len(found.members(0)) == found.sizes[0]
        (2, 40, True)
    """

    model: str
    method: str
    ids: tuple[str, ...]
    cluster: Tensor
    means: Tensor
    eigenvalues: Tensor
    closest: tuple[tuple[str, ...], ...]
    predicted: Tensor
    label: Tensor
    class_names: tuple[str, ...]
    neighbors: int
    seed: int
    chosen: bool
    left_out: int
    plan: str
    load: "Callable[[str], Explanation]"

    def __len__(self) -> int:
        return len(self.means)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return f"<Clusters of {self.method} on {self.model}: {sizes} images>"

    @property
    def sizes(self) -> list[int]:
        """The number of images of each cluster."""
        found: list[int] = self.cluster.bincount(minlength=len(self)).tolist()
        return found

    @property
    def wrong(self) -> Tensor:
        """1 where the prediction of an image is wrong, 0 where it is correct, −1 if unknown."""
        known = (self.predicted >= 0) & (self.label >= 0)
        return torch.where(known, (self.predicted != self.label).long(), -1)

    def members(self, k: int) -> list[str]:
        """The ids of the images of a cluster.

        Raises:
            InputError: There is no such cluster.
        """
        k = self._known(k)
        return [one for one, of in zip(self.ids, self.cluster.tolist(), strict=True) if of == k]

    def exemplars(self, k: int) -> "list[Explanation]":
        """The explanations that are closest to the mean map of a cluster, read from the store.

        Raises:
            InputError: There is no such cluster.
            StorageError: The file of an image is missing, or was changed.
        """
        return [self.load(one) for one in self.closest[self._known(k)]]

    def class_name(self, index: int) -> str:
        """The name of a class, or its index as text."""
        return self.class_names[index] if self.class_names else f"class {index}"

    def agreement(self) -> dict[Grouping, float]:
        """The adjusted Rand index of the clusters with what is known about the images.

        Each is over the images for which it is known. 1: the same groups; about 0: unrelated.
        """
        groups: dict[Grouping, Tensor] = {
            "predicted classes": self.predicted, "true classes": self.label, "mistakes": self.wrong,
        }  # fmt: skip
        return {
            name: adjusted_rand(self.cluster[known], group[known])
            for name, group in groups.items()
            if int((known := group >= 0).sum()) > 1
        }

    def adjusted_rand(self, groups: Mapping[str, Hashable], k: int | None = None) -> float:
        """The adjusted Rand index of the clusters with other groups, such as where images are from.

        Args:
            groups: The group of each image by its id; images that it lacks are left out.
            k: Compare this cluster against all others together: a shortcut may be one cluster of
                many. None: all clusters.

        Raises:
            InputError: It has fewer than two of the images, or there is no such cluster.
        """
        rows = [row for row, one in enumerate(self.ids) if one in groups]
        if len(rows) < 2:
            raise InputError(
                f"expected groups of at least 2 of the clustered images, got {len(rows)}: use ids "
                f"such as {self.ids[0]!r}"
            )
        numbers: dict[Hashable, int] = {}
        other = [numbers.setdefault(groups[self.ids[row]], len(numbers)) for row in rows]
        mine = self.cluster if k is None else (self.cluster == self._known(k)).long()
        return adjusted_rand(mine[rows], torch.tensor(other))

    def shares(self, of: Literal["predicted", "label"] = "predicted") -> Tensor:
        """The share of each class in each cluster, ``[cluster, class]``.

        Images without that class are left out; a cluster that has no others is NaN.

        Args:
            of: The predicted or the true classes.
        """
        values = self.predicted if of == "predicted" else self.label
        classes = len(self.class_names) or int(torch.cat([self.predicted, self.label]).max()) + 1
        known = values >= 0
        flat = self.cluster[known] * classes + values[known]
        counts = flat.bincount(minlength=len(self) * classes).view(len(self), classes).double()
        return counts / counts.sum(1, keepdim=True)

    def table(self) -> list[dict[str, Any]]:
        """One row per cluster: its size, its most frequent classes, and how often it is wrong.

        ``predicted_share`` and ``label_share`` are the shares of these classes among the images of
        the cluster for which they are known; ``wrong`` is the share of mistakes, with the ends of
        Wilson's 95 % interval. What is not known is None.
        """
        rows = []
        for k, size in enumerate(self.sizes):
            inside = self.cluster == k
            row: dict[str, Any] = {"cluster": k, "images": size, "share": size / len(self.ids)}
            for name, values in (("predicted", self.predicted), ("label", self.label)):
                known = values[inside & (values >= 0)]
                row |= {name: None, f"{name}_share": None}
                if len(known):
                    best = int(known.bincount().argmax())
                    share = float((known == best).double().mean())
                    row |= {name: self.class_name(best), f"{name}_share": share}
            found = self.wrong[inside & (self.wrong >= 0)]
            ends = wilson(int(found.sum()), len(found)) if len(found) else (None,) * 3
            rows.append(row | dict(zip(("wrong", "wrong_low", "wrong_high"), ends, strict=True)))
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before reading the numbers, one sentence each."""
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        if not self.chosen:
            yield (
                "The number of clusters is that of the eigenvalues before the largest gap."
                if len(self) > 1
                else "The eigenvalues have no gap that suggests more than one cluster."
            )
        for name, value in self.agreement().items():
            yield f"The adjusted Rand index of clusters and {name} is {value:.2f}."
        known = int((self.label >= 0).sum())
        if 0 < known < len(self.ids):
            yield f"The true classes of {known} of {len(self.ids)} images are known."
        if self.left_out:
            some = "1 image has no map and is" if self.left_out == 1 else None
            yield f"{some or f'{self.left_out} images have no map and are'} left out."
        yield (
            "Similar maps have a cause in common, which may be a shortcut or the object itself: "
            "look at the images."
        )

    def plot(self) -> "Figure":
        """Draws each cluster: its mean map, and the maps that are closest to it over their images.

        Raises:
            StorageError: The file of an image is missing, or was changed.
        """
        from explainkit.render.clusters import clusters_figure

        return clusters_figure(self)

    def report(self, path: str | Path) -> Path:
        """Writes clusters with their numbers and images as one HTML file; returns its path.

        Args:
            path: The file; it works offline.

        Raises:
            RenderError: It can't be written.
            StorageError: The file of an image is missing, or was changed.
        """
        from explainkit.render.clusters import clusters_report

        return clusters_report(self, Path(path))

    def _known(self, k: int) -> int:
        if not isinstance(k, int) or not 0 <= k < len(self):
            raise InputError(f"expected a cluster from 0 to {len(self) - 1}, got {k!r}")
        return k
