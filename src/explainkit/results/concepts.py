"""What `explainkit.concepts` returns: the concepts of a layer, and how far to trust them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from explainkit.catalog.builtin import CONCEPT_MAP
from explainkit.catalog.registry import resolve
from explainkit.errors import InputError
from explainkit.expressions.terms import Direction
from explainkit.results.exemplar import Exemplar
from explainkit.results.plain import plain
from explainkit.scores import NOUNS, Task, class_index

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from explainkit.results.explanation import Explanation
    from explainkit.results.visualization import Visualization

Measure = Literal["removal", "sobol"]
"""What importance is: the score's loss without a concept, or a total Sobol index."""

SIGNIFICANT = 0.05
"""p-value above which a concept's effect is no larger than that of random directions."""


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts of a layer: directions whose non-negative combinations make up its activations.

    ``concepts[k]`` is concept k as a target of every method, and as an objective of `maximize`:
    the mean over positions of the activations' projection onto its direction.

    Attributes:
        directions: ``[n, channel]``, of length 1, the one that carries most of the activations
            first; given directions in their own order.
        importance: What the score of each class loses when a concept is removed from the layer, in
            units of the score; or total Sobol indices. Mean over images, ``[n, class]``.
        standard_error: Of `importance`, over images.
        stability: Matched cosine between concepts of two random halves of the images,
            ``[split, n]``; no splits for given directions.
        random_stability: Its mean in the same network with random weights; NaN if that has no
            concepts, or for given directions.
        p: Share of random directions whose effect is at least as large, ``[n]``: the root mean
            square over images and classes.
        unexplained: Share of the layer's effect on the scores that is lost when the concepts take
            the place of its output; 0 if nothing is lost.
        random_unexplained: The same with random directions.
        images: The exemplars of all concepts, ``[image, channel, height, width]``.
        names: Of these images.
        exemplar: Those of each concept in `images`, the most active first, int64 ``[n, k]``.
        index: Their places among the given images, int64 ``[n, k]``.
        maps: The concept's weights in them, ``[n, k, height, width]`` at the layer's resolution.
        upsampled: The same over the images, as class activation maps,
            ``[n, k, image height, image width]``.
        measure: ``"removal"`` or ``"sobol"``: what `importance` is.
        kind: ``"nmf"``, ``"semi-nmf"`` for a layer with negative values, or ``"given"``.
        layer: Dotted path.
        model: Registered name, or module and class.
        count: Number of images.
        seed: Random seed.
        task: What the scores decide.
        output: Which of several outputs of the model holds the scores.
        class_names: In the order of the classes; empty if they have no names.
        mean: Of the normalization of the images, per channel; None if unknown.
        std: Likewise.
        versions: Of the packages involved.
        warnings: What to keep in mind.
    """

    directions: Tensor
    importance: Tensor
    standard_error: Tensor
    stability: Tensor
    random_stability: float
    p: Tensor
    unexplained: float
    random_unexplained: float
    images: Tensor
    names: tuple[str, ...]
    exemplar: Tensor
    index: Tensor
    maps: Tensor
    upsampled: Tensor
    measure: Measure
    kind: str
    layer: str
    model: str
    count: int
    seed: int
    task: Task
    output: int | str | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    versions: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    _model: ClassVar[Any] = None

    def __len__(self) -> int:
        return len(self.directions)

    def __iter__(self) -> Iterator[Direction]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> Direction:
        return Direction(self.layer, tuple(self.directions[self._known(k)].tolist()))

    def __repr__(self) -> str:
        return f"<Concepts: {len(self)} of layer {self.layer} of {self.model}, {self.count} images>"

    def coming_from(self, model: "Callable[[], nn.Module | None]") -> "Concepts":
        """These concepts, with what gives `map` their model."""
        object.__setattr__(self, "_model", model)  # not a field: it is neither saved nor compared
        return self

    def class_name(self, index: int) -> str:
        """Name of a class, or its kind and number: "class 2", "label 2", "output 2"."""
        return self.class_names[index] if self.class_names else f"{NOUNS[self.task]} {index}"

    def ranked(self, target: int | str) -> list[int]:
        """The concepts by their importance for a class, the most important first.

        Raises:
            TargetError: The model has no such class.
        """
        column = class_index(target, self.importance.shape[1], self.class_names)
        order: list[int] = self.importance[:, column].argsort(descending=True, stable=True).tolist()
        return order

    def exemplars(self, k: int) -> list[Exemplar]:
        """The images in which a concept is most active, and where.

        Raises:
            InputError: There is no such concept.
        """
        k = self._known(k)
        places = zip(
            self.index[k].tolist(), self.exemplar[k].tolist(), self.maps[k], self.upsampled[k],
            strict=True,
        )  # fmt: skip
        return [
            Exemplar(index, self.names[image], self.images[image], small, large)
            for index, image, small, large in places
        ]

    def map(
        self, k: int, images: Any, *, model: "str | Path | nn.Module | None" = None
    ) -> "Explanation":
        """A concept's weights at every position of the layer, over any images.

        They are the non-negative weights with which the concepts best make up the layer's output,
        as in the factorization, upsampled as class activation maps are.

        Args:
            k: The concept.
            images: As `explain` takes them.
            model: The model of these concepts. It is needed for loaded concepts, and if the model
                no longer exists.

        Raises:
            InputError: There is no such concept.
            ModelError: The model is needed.
            TargetError: Another model: its layer has another number of channels.

        Examples:
            >>> import torch, explainkit as ek
            >>> net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            ...                     nn.Flatten(), nn.Linear(6, 2)).eval()
            >>> found = ek.concepts(net, torch.rand(200, 1, 8, 8), n=3)
            >>> found.map(0, torch.rand(2, 1, 8, 8)).attribution.shape
            torch.Size([2, 1, 8, 8])
        """
        make: Any = resolve(CONCEPT_MAP, "explainkit offers maps of concepts")
        found: Explanation = make(self, self._known(k), images, model, self._model)
        return found

    def failures(self, k: int) -> list[str]:
        """What speaks against a concept; empty if it passes.

        Raises:
            InputError: There is no such concept.
        """
        k = self._known(k)
        found = []
        if self.p[k] > SIGNIFICANT:
            found.append("no more important than random directions")
        if self.stability[:, k].mean() <= self.random_stability:
            found.append("no more stable than with random weights")
        return found

    def strongest(self, k: int) -> int:
        """The class whose score a concept changes most.

        Raises:
            InputError: There is no such concept.
        """
        return int(self.importance[self._known(k)].abs().argmax())

    def caption(self, k: int) -> str:
        """A concept in one line: its strongest class, stability, chance, and what fails.

        Raises:
            InputError: There is no such concept.
        """
        from explainkit.render.concept_captions import caption

        return caption(self, self._known(k))

    @property
    def notes(self) -> tuple[str, ...]:
        """How far to trust the concepts, one sentence each."""
        from explainkit.render.concept_captions import notes

        return tuple(notes(self))

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON; NaN is None."""
        found: dict[str, Any] = plain(
            {
                "schema_version": 1,
                "model": self.model,
                "layer": self.layer,
                "kind": self.kind,
                "measure": self.measure,
                "images": self.count,
                "seed": int(self.seed),
                "versions": self.versions,
                "class_names": self.class_names,
                "unexplained": self.unexplained,
                "random_unexplained": self.random_unexplained,
                "random_stability": self.random_stability,
                "notes": self.notes,
                "concepts": list(map(self._facts, range(len(self)))),
            }
        )
        return found

    def _facts(self, k: int) -> dict[str, Any]:
        return {
            "concept": k,
            "importance": self.importance[k],
            "standard_error": self.standard_error[k],
            "stability": self.stability[:, k],
            "p": float(self.p[k]),
            "failures": self.failures(k),
            "exemplars": [
                {"image": one.name, "index": one.index, "box": one.box} for one in self.exemplars(k)
            ],
        }

    def plot(self, names: Sequence[str] | None = None, *, most: int | None = 10) -> "Figure":
        """Draws each concept: its exemplars, where it is active in them, and its importance.

        Args:
            names: What to call the concepts, one each, once they have been looked at.
            most: Draw only this many, the first ones; None: all.

        Raises:
            RenderError: Another number of names than of concepts.
        """
        from explainkit.render.concepts import concepts_figure

        return concepts_figure(self, names, most)

    def report(
        self,
        path: str | Path,
        *,
        names: Sequence[str] | None = None,
        maximized: "Visualization | None" = None,
        command: str | None = None,
    ) -> Path:
        """Writes a card for each concept into one HTML file, which works offline; returns its path.

        Args:
            path: The file.
            names: What to call the concepts, one each, once they have been looked at.
            maximized: The images that maximize the concepts, to be shown beside the exemplars:
                ``ek.maximize(model, list(concepts))``.
            command: The command line that reproduces the concepts.

        Raises:
            RenderError: Names or maximized images of other concepts, or a file that can't be
                written.
        """
        from explainkit.render.concepts_page import concepts_report

        return concepts_report(self, Path(path), names, maximized, command)

    def _repr_html_(self) -> str:
        from explainkit.render.concepts_page import to_html

        return to_html(self)

    def save(self, directory: str | Path) -> Path:
        """Writes tensors as safetensors and the rest as JSON, atomically; returns the folder."""
        from explainkit.results.storage import save

        return save(self, Path(directory))

    @staticmethod
    def load(directory: str | Path) -> "Concepts":
        """Loads what `save` wrote; an incomplete or changed folder is an error."""
        from explainkit.results.storage import load

        return load(Concepts, Path(directory))

    def _known(self, k: int) -> int:
        if not isinstance(k, int) or not 0 <= k < len(self):
            raise InputError(f"expected a concept from 0 to {len(self) - 1}, got {k!r}")
        return k
