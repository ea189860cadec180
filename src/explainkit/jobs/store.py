"""Reading a store: lazily, by position, id or filter, also while its job runs."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image
from torch import Tensor

from explainkit.adapters.decoding import flat
from explainkit.adapters.geometry import Geometry
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.catalog.synonyms import bare_name
from explainkit.concept_discovery.spectral import NEIGHBORS
from explainkit.engine.arguments import seed_number, whole_number
from explainkit.errors import InputError, StorageError
from explainkit.hashes import plain_params
from explainkit.jobs.clusters import CELLS, clusters_of
from explainkit.jobs.counts import Progress, progress_of
from explainkit.jobs.items import read_items
from explainkit.jobs.labels import Labels
from explainkit.jobs.opening import reopened
from explainkit.jobs.outcomes import Item, Status
from explainkit.jobs.plan import ITEMS, Plan
from explainkit.jobs.shards import Stored, check_tensors, read_shard
from explainkit.results.clusters import Clusters
from explainkit.results.explanation import Explanation, Explanations
from explainkit.results.scorecard import is_verdict

OPEN = 4
"""Records of shards that are kept in memory."""


class Store:
    """The results of a job, or a part of them; nothing is read until it is needed.

    ``store[i]`` is the `Explanation` of an item by its position in the sorted ids, ``store["id"]``
    by its id, and with several methods their `Explanations`. A slice and `where` give a part of the
    store. Iterating yields what was explained, without refused and failed items.

    Tensors are memory-mapped, and each shard is hashed when it is first read. Images in files are
    read from where they were; one that was changed since is an error.

    Args:
        path: The folder of the store.

    Raises:
        StorageError: There is no store, or its plan was changed.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images = {f"image {i}": torch.rand(1, 4, 4) for i in range(10)}
        >>> store = ek.batch(images, net, "saliency", tempfile.mkdtemp())
        >>> len(store), store["image 3"].attribution.shape, len(store[2:5])
        (10, torch.Size([1, 1, 4, 4]), 3)
        >>> len(store.where(status="ok")), len(store.where(confidence=(0.99, 1)))
        (10, 0)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan = Plan.load(self.path)
        self._rows: Sequence[int] = range(self.plan.items.count)
        self._read: OrderedDict[int, Stored] = OrderedDict()
        self._source = reopened(self.plan.source)
        self._preprocessing = Preprocessing.from_dict(self.plan.preprocessing)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        names = ", ".join(self.methods)
        return f"<Store {self.path}: {len(self)} items, {names} of {self.plan.model['name']}>"

    @overload
    def __getitem__(self, key: int | str) -> Any: ...  # by the number of methods

    @overload
    def __getitem__(self, key: slice) -> "Store": ...

    def __getitem__(self, key: int | str | slice) -> "Explanation | Explanations | Store":
        """One item's explanation, or several methods' explanations of it; or a part of the store.

        Raises:
            StorageError: The item is not explained, or its files were changed.
            IndexError: There is no such item.
        """
        if isinstance(key, slice):
            return self._part(self._rows[key])
        found = self.explanations(key)
        return found[0] if len(self.methods) == 1 else found

    def explanations(self, key: int | str) -> Explanations:
        """One item's explanations, also if there is one method only.

        Raises:
            StorageError: The item is not explained, or its files were changed.
            IndexError: There is no such item.
        """
        return self._explanations(self._position(key) if isinstance(key, str) else self._rows[key])

    def __iter__(self) -> Iterator[Explanation]:
        for row in self._rows:
            item = self._item(row)
            if item is not None and item.status == "ok":
                found = self._explanations(row)
                yield found[0] if len(self.methods) == 1 else found  # type: ignore[misc]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods; of several inputs, one for the map of each.

        Such as ``"explainkit/saliency"``, or ``"explainkit/saliency depth"``.
        """
        return self.plan.maps

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in their order; empty if they have none, or nothing is done yet."""
        for number in range(self.plan.shards):
            if (shard := self.shard(number)) is not None:
                for group in shard.record["groups"]:
                    return tuple(group["methods"][0]["class_names"])
        return ()

    @property
    def items(self) -> Iterator[Item]:
        """Ids, statuses and facts of all items that have a status."""
        for row in self._rows:
            if (item := self._item(row)) is not None:
                yield item

    def item(self, position: int) -> Item | None:
        """Id, status and facts of the item at a position; None if it has no status yet.

        Raises:
            StorageError: Its files were changed.
            IndexError: There is no such item.
        """
        return self._item(self._rows[position])

    def image(self, position: int) -> Image.Image | Tensor:
        """The image of an item that was explained, as its source has it.

        Returns:
            A Pillow image; or what the model took, ``[channel, height, width]``, of images that
            were in memory or in a data set.

        Raises:
            StorageError: The item is not explained, has several inputs, or its file was changed.
            IndexError: There is no such item.
        """
        shard, inner = self._explained(self._rows[position])
        item = shard.items[inner]
        if shard.record["groups"][item.group]["methods"][0]["input"] is not None:
            raise StorageError(f"{item.id}: expected an image, got one of several inputs")
        stored = shard.input(inner)
        return self._loaded(item) if stored is None else stored[0]

    def where(
        self,
        *,
        status: Status | None = None,
        target: int | None = None,
        predicted: int | None = None,
        confidence: tuple[float, float] | None = None,
        verdict: str | None = None,
        method: str | None = None,
    ) -> "Store":
        """The items that meet all given conditions.

        Args:
            status: ``"ok"``, ``"refused"`` or ``"failed"``.
            target: The explained class.
            predicted: The predicted class.
            confidence: Least and greatest probability of the explained class.
            verdict: That of the scorecard, such as ``"supported"``; ``"not supported"`` stands for
                all that begin with it.
            method: The method whose map has the verdict; None: any.

        Raises:
            InputError: The store has no scorecards, or no such method.
        """
        if verdict is not None and not self.plan.scorecard:
            raise InputError("verdict: expected a store with scorecards: batch(…, scorecard=True)")
        known = self.methods
        chosen = [i for i, name in enumerate(known) if method in (None, name, bare_name(name))]
        if not chosen:
            raise InputError(f"method: expected {', '.join(known)}, got {method!r}")

        def meets(item: Item | None) -> bool:
            if item is None:
                return False
            asked = ((status, item.status), (target, item.target), (predicted, item.predicted))
            if any(wanted is not None and wanted != own for wanted, own in asked):
                return False
            if confidence is not None:
                low, high = confidence
                if item.confidence is None or not low <= item.confidence <= high:
                    return False
            return verdict is None or any(
                is_verdict(item.judged[i].verdict, verdict) for i in chosen if item.judged
            )

        return self._part([row for row in self._rows if meets(self._item(row))])

    def maps(self, method: str | None = None) -> Iterator[tuple[int, Tensor]]:
        """The maps of a method, a shard at a time; images are not read.

        Args:
            method: Its name; None: the only method.

        Yields:
            The position of each item that has a map, in order, and the map
            ``[channel, height, width]``.

        Raises:
            InputError: The store has no such method, or several and none is named.
            StorageError: Its files were changed.
        """
        name = self.methods[self._method(method)]
        size = self.plan.shard_size
        for number, group in groupby(enumerate(self._rows), lambda one: one[1] // size):
            if (shard := self._checked(number)) is None:
                continue
            asked = {shard.items[row % size].id: place for place, row in group}
            found = {
                asked[item.id]: one
                for items, maps in shard.groups()
                for item, one in zip(items, maps[name]["attribution"], strict=True)
                if item.id in asked
            }
            yield from sorted(found.items(), key=itemgetter(0))

    def clusters(
        self,
        n: int | None = None,
        *,
        labels: Labels = None,
        method: str | None = None,
        cells: int = CELLS,
        neighbors: int = NEIGHBORS,
        seed: int = 0,
    ) -> Clusters:
        """Groups images whose maps are similar, to find what a model uses in many of them.

        A shortcut, such as a watermark in one corner, makes the maps of its images similar. The
        channels of each map are added, the means over ``cells × cells`` areas are divided by their
        Euclidean norm, and the graph of nearest neighbors is clustered by the eigenvectors of its
        Laplacian. Maps that fit no cluster well are put into one, too: look at
        `Clusters.exemplars`.

        Clusters of one class at a time are easier to read:
        ``store.where(predicted=3).clusters()``.

        Args:
            n: Number of clusters; None: the number of eigenvalues before their largest gap.
            labels: The true classes, as indices or names: one per item of the store, None or −1
                where unknown; a mapping from ids; or ``"folder"``, where the folder of a file has
                the name of its class. The result then says how clusters and mistakes agree.
            method: Whose maps; None: those of the only method.
            cells: Rows and columns to which maps are reduced.
            neighbors: Edges from each map to the nearest ones.
            seed: Random seed, which matters for more than 2048 maps: the graph then has a random
                sample of 2048, and each other map joins the cluster of the closest of them.

        Raises:
            InputError: There are fewer maps than neighbors, no such method, or another number of
                labels than of items.
            TargetError: The model has no such true class.
            StorageError: Files of the store were changed.

        References:
            Lapuschkin, Wäldchen, Binder, Montavon, Samek and Müller (2019), "Unmasking Clever Hans
            predictors and assessing what machines really learn", DOI 10.1038/s41467-019-08987-4.

        Examples:
            >>> import tempfile, torch, explainkit as ek
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
            >>> images = {f"{i:02}": torch.rand(1, 8, 8) for i in range(40)}
            >>> for i in range(15):
            ...     images[f"{i:02}"][0, :2, :2] = 9.0  # a stamp in one corner
            >>> store = ek.batch(images, net, "input_x_gradient", tempfile.mkdtemp(), target=0)
            >>> found = store.clusters()
            >>> found.sizes, found.members(1) == [f"{i:02}" for i in range(15)]
            ([25, 15], True)
        """
        n = None if n is None else whole_number("n", n, 1, 2**20)
        cells = whole_number("cells", cells, 1, 2**10)
        neighbors = whole_number("neighbors", neighbors, 1, 2**20)
        chosen = self._method(method)
        return clusters_of(self, n, labels, chosen, cells, neighbors, seed_number(seed))

    def progress(self, *, check: bool = False) -> Progress:
        """How far the job is.

        Args:
            check: Whether to hash all tensors, too.
        """
        return progress_of(self, check)

    def shard(self, number: int) -> Stored | None:
        """A shard, or None if it is not done; its tensors are not hashed."""
        return read_shard(self.path, number, self.plan.hash, self.plan.size_of(number))

    def _method(self, name: str | None) -> int:
        """The index of a method by its name, which may be left out if there is one only."""
        known = self.methods
        found = [i for i, one in enumerate(known) if name in (None, one, bare_name(one))]
        if len(found) != 1:
            raise InputError(f"method: expected one of {', '.join(known)}, got {name!r}")
        return found[0]

    def _part(self, rows: Sequence[int]) -> "Store":
        found = object.__new__(Store)
        vars(found).update(vars(self), _rows=rows, _read=OrderedDict())
        return found

    def _position(self, item: str) -> int:
        offsets = self.plan.items.offsets
        # ids are sorted: search for the shard, then in it
        low, high = 0, self.plan.shards
        while high - low > 1:
            middle = (low + high) // 2
            first = read_items(self.path / ITEMS, offsets[middle], offsets[middle + 1])[0]
            low, high = (middle, high) if first <= item else (low, middle)
        ids = read_items(self.path / ITEMS, offsets[low], offsets[low + 1])
        if item in ids:
            row = low * self.plan.shard_size + ids.index(item)
            if row in self._rows:
                return row
        raise IndexError(f"{self.path} has no item {item!r}")

    def _checked(self, number: int) -> Stored | None:
        """A shard whose tensors were hashed; the last ones are remembered."""
        if number in self._read:
            self._read.move_to_end(number)
            return self._read[number]
        shard = self.shard(number)
        if shard is None:
            return None
        check_tensors(shard)
        self._read[number] = shard
        if len(self._read) > OPEN:
            self._read.popitem(last=False)
        return shard

    def _item(self, row: int) -> Item | None:
        shard = self._checked(row // self.plan.shard_size)
        return None if shard is None else shard.items[row % self.plan.shard_size]

    def _explained(self, row: int) -> tuple[Stored, int]:
        """The shard of an item that has maps, and the item's position in it."""
        number, inner = divmod(row, self.plan.shard_size)
        shard = self._checked(number)
        if shard is None:
            raise StorageError(f"item {row} of {self.path} is not explained yet (shard {number})")
        item = shard.items[inner]
        if item.status != "ok":
            raise StorageError(
                f"item {row} of {self.path}, {item.id}, has no map: {item.status}: {item.reason}"
            )
        return shard, inner

    def _explanations(self, row: int) -> Explanations:
        shard, inner = self._explained(row)
        item, facts = shard.items[inner], shard.record["facts"]
        known = {"python": facts["python"], **self.plan.library}
        receipt = self._receipt(item, facts["device"])
        return Explanations(
            dataclasses.replace(one, versions=known, receipt=receipt)
            for one in shard.explanations(inner, self._images)
        )

    def image_path(self, item: Item) -> str | None:
        """Where the file of an image was; None if it had none of its own."""
        return None if self._source is None else self._source.path_of(item.id)

    def _receipt(self, item: Item, device: str) -> dict[str, Any]:
        """What an explanation that is taken out of the store was made from."""
        return {
            "weights": self.plan.model["weights"],
            "preprocessing": plain_params(self.plan.preprocessing),
            "images": [{"path": self.image_path(item), "sha256": item.sha256}],
            "device": device,
            "dtype": self.plan.dtype,
            "command": self.plan.command or None,
        }

    def _images(self, item: Item, stored: Tensor | None) -> dict[str, Any]:
        """The fields of an explanation that are not stored with its maps."""
        mean, std = self._preprocessing.normalization if self._preprocessing.known else (None, None)
        fields: dict[str, Any] = {"names": (item.id,), "mean": mean, "std": std}
        if stored is not None:
            if mean is not None and len(mean) != stored.shape[1]:  # one of several inputs
                fields |= {"mean": None, "std": None}
            return fields | {"inputs": stored}
        image = self._loaded(item)
        if isinstance(image, Tensor):
            return fields | {"inputs": image[None]}
        values, geometry = self._preprocessing(image)
        if geometry.to_dict() != item.geometry:
            raise StorageError(f"{item.id}: its size differs from that when it was explained")
        return fields | {
            "inputs": values[None],
            "originals": (np.array(flat(image, "RGB")),),
            "geometries": (Geometry.from_dict(geometry.to_dict()),),
        }

    def _loaded(self, item: Item) -> Image.Image | Tensor:
        assert self._source is not None  # the store keeps the inputs of images in memory
        loaded = self._source.read(item.id)
        if loaded.sha256 != item.sha256:
            raise StorageError(f"{item.id} was changed since it was explained: its sha256 differs")
        assert isinstance(loaded.value, Image.Image | Tensor)  # several inputs are in memory, too
        return loaded.value
