"""What `explainkit.concepts` returns: the concepts of a layer, and how far to trust them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from explainkit.errors import InputError
from explainkit.expressions.terms import Direction
from explainkit.scores import Task, class_index

SIGNIFICANT = 0.05
"""p-value above which a concept's effect is no larger than that of random directions."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """An image in which a concept is active.

    Attributes:
        index: Place of the image among those given.
        name: Of the image.
        image: ``[channel, height, width]`` as the model takes it.
        map: The concept's weights, ``[height, width]`` at the layer's resolution.
    """

    index: int
    name: str
    image: Tensor
    map: Tensor


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts of a layer: directions whose non-negative combinations make up its activations.

    ``concepts[k]`` is concept k as a target of every method, and as an objective of `maximize`:
    the mean over positions of the activations' projection onto its direction.

    Attributes:
        directions: ``[n, channel]``, of length 1, the one that carries most of the activations
            first.
        importance: What the score of each class loses when a concept is removed from the layer:
            mean over images, ``[n, class]``, in units of the score.
        standard_error: Of `importance`, over images.
        stability: Matched cosine between concepts of two random halves of the images,
            ``[split, n]``.
        random_stability: Its mean in the same network with random weights; NaN if that has no
            concepts.
        p: Share of random directions whose effect is at least as large, ``[n]``: the root mean
            square over images and classes.
        unexplained: Share of the layer's effect on the scores that is lost when the concepts take
            the place of its output; 0 if nothing is lost.
        random_unexplained: The same with random directions.
        images: The exemplars of all concepts, ``[image, channel, height, width]``.
        names: Of these images.
        exemplar: Those of each concept in `images`, the most active first, int64 ``[n, k]``.
        index: Their places among the given images, int64 ``[n, k]``.
        maps: The concept's weights in them, ``[n, k, height, width]``.
        kind: ``"nmf"``, or ``"semi-nmf"`` for a layer with negative values.
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

    def __len__(self) -> int:
        return len(self.directions)

    def __getitem__(self, k: int) -> Direction:
        return Direction(self.layer, tuple(self.directions[self._known(k)].tolist()))

    def class_name(self, index: int) -> str:
        """The name of a class, or its index as text."""
        return self.class_names[index] if self.class_names else str(index)

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
        return [
            Exemplar(index, self.names[image], self.images[image], found)
            for index, image, found in zip(
                self.index[k].tolist(), self.exemplar[k].tolist(), self.maps[k], strict=True
            )
        ]

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
            found.append("no more stable than in a network with random weights")
        return found

    def caption(self, k: int) -> str:
        """A concept in one line: the class that loses most without it, stability, what fails.

        Raises:
            InputError: There is no such concept.
        """
        k = self._known(k)
        best = int(self.importance[k].abs().argmax())
        loss, error = float(self.importance[k, best]), float(self.standard_error[k, best])
        parts = [
            f"{self.class_name(best)} {loss:+.3g} ± {error:.1g}",
            f"stability {float(self.stability[:, k].mean()):.2f}",
            *self.failures(k),
        ]
        return f"concept {k}: {'; '.join(parts)}"

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
