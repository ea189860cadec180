"""The terms of expressions: functions of logits, inner layers and the image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions.algebra import Expression, operand
from explainkit.expressions.leaves import (
    Family,
    LayerTerm,
    Term,
    check_index,
    check_label,
    classes_of,
)
from explainkit.expressions.scope import Scope, has_tokens


@dataclass(frozen=True)
class Logit(Term):
    """The logit of a class, given by name or index."""

    name: str | int
    call = "logit"
    reads_logits = True

    def __post_init__(self) -> None:
        check_label(self, "name", self.name)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``S_c(x)``."""
        if scope.logits is None:
            raise TargetError(f"{self}: expected the model's logits, got none")
        chosen = classes_of([node.name for node in nodes], scope.logits.shape[1], scope)
        return scope.logits.gather(1, chosen[:, None])[:, 0]


@dataclass(frozen=True)
class Channel(LayerTerm):
    """The spatial mean of one channel; in a token layer, the mean over tokens."""

    index: int
    call = "channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_index(self, "index", self.index)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``mean_{y,x} a[k, y, x]``."""
        chosen = scope.channels(self.layer, [node.index for node in nodes])
        return chosen.flatten(1).mean(1) if chosen.dim() > 1 else chosen


@dataclass(frozen=True)
class Neuron(LayerTerm):
    """One channel at one position, by default the center; in a token layer, at one token."""

    index: int
    y: int | None = None
    x: int | None = None
    call = "neuron"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_index(self, "index", self.index)
        for name, value in (("y", self.y), ("x", self.x)):
            if value is not None:
                check_index(self, name, value)
        if self.y is None and self.x is not None:
            raise TargetError("neuron: expected y with x, got x alone")

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``a[k, y, x]``."""
        chosen = scope.channels(self.layer, [node.index for node in nodes])
        sizes = chosen.shape[1:]
        if len(sizes) > 2:
            raise TargetError(
                f"{nodes[0]}: expected a layer with height and width, or tokens, got {list(sizes)} "
                f"in layer {self.layer!r} of a volume: use channel"
            )
        positions = []
        for node in nodes:
            given = (node.y, node.x)
            if any(p is not None for p in given[len(sizes) :]):
                raise TargetError(
                    f"{node}: layer {self.layer!r} has {len(sizes)} spatial axes: "
                    "give no more coordinates"
                )
            position = [s // 2 if p is None else p for p, s in zip(given, sizes, strict=False)]
            if any(p >= s for p, s in zip(position, sizes, strict=True)):
                raise TargetError(
                    f"{node}: expected a position within {list(sizes)}, got {position}"
                )
            positions.append(position)
        rows = torch.arange(len(nodes), device=chosen.device)
        columns = torch.tensor(positions, device=chosen.device, dtype=torch.int64).unbind(1)
        return chosen[(rows, *columns)]


@dataclass(frozen=True)
class Direction(LayerTerm):
    """The spatial mean of a weighted sum of channels: a direction in activation space."""

    vector: tuple[float, ...]
    call = "direction"

    def __post_init__(self) -> None:
        super().__post_init__()
        values: Any = self.vector
        values = values.tolist() if isinstance(values, Tensor) else values
        if not isinstance(values, list | tuple) or not values or None in map(operand, values):
            raise TargetError(f"direction: expected a list of numbers, got {values!r:.60}")
        object.__setattr__(self, "vector", tuple(float(value) for value in values))

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``mean_{y,x} Σ_k v_k a[k, y, x]``."""
        mean = channel_means(scope.layer(self.layer))
        wrong = [len(node.vector) for node in nodes if len(node.vector) != mean.shape[1]]
        if wrong:
            raise TargetError(
                f"direction: layer {self.layer!r} has {mean.shape[1]} channels, got a vector of "
                f"{wrong[0]}"
            )
        return (mean * mean.new_tensor([node.vector for node in nodes])).sum(1)


def channel_means(found: Tensor) -> Tensor:
    """The mean over spatial positions or tokens, ``[batch, channel]``."""
    if has_tokens(found):
        return found.mean(1)
    return found.flatten(2).mean(2) if found.dim() > 3 else found


def z_scored(means: Tensor, channel_statistics: tuple[Tensor, Tensor]) -> Tensor:
    """``(m − μ) / σ``, with σ = 1 for a channel that is constant on the data set.

    Args:
        means: m, the channels' means, ``[batch, channel]``.
        channel_statistics: μ and σ over a data set, ``[channel]`` each.
    """
    mean, deviation = (values.to(means) for values in channel_statistics)
    return (means - mean) / torch.where(deviation > 0, deviation, 1)


@dataclass(frozen=True)
class LogOdds(LayerTerm):
    """The log odds of a channel among its layer's channels: what activates it, but not the others.

    ``z_k − log Σ_{j≠k} exp z_j``, the log odds of channel k in a softmax over z. The z are the
    channels' means over spatial positions (or tokens), z-scored on the data set given to
    `maximize`.
    """

    index: int
    call = "log_odds"
    reads_statistics = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_index(self, "index", self.index)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``z_k − log Σ_{j≠k} exp z_j``."""
        if scope.channel_statistics is None or self.layer not in scope.channel_statistics:
            raise TargetError(
                f"{self}: expected a data set for the layer's channel statistics: give maximize "
                "a dataset"
            )
        found = z_scored(
            channel_means(scope.layer(self.layer)), scope.channel_statistics[self.layer]
        )
        indices = [node.index for node in nodes]
        if found.shape[1] < 2 or max(indices) >= found.shape[1]:
            raise TargetError(
                f"log_odds: expected one of several channels of layer {self.layer!r}, which has "
                f"{found.shape[1]}, got {max(indices)}"
            )
        own = torch.tensor(indices, device=found.device)[:, None]
        others = found.scatter(1, own, -math.inf).logsumexp(1)
        return found.gather(1, own)[:, 0] - others


@dataclass(frozen=True)
class Layer(LayerTerm):
    """The mean square of a whole layer, which DeepDream maximizes."""

    call = "layer"

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """``mean a²``."""
        return scope.layer(self.layer).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Caricature(LayerTerm):
    """Exaggerates a layer's activations of the start image, the ``start`` of `maximize`.

    ``<a, a₀> / |a₀| · max(cos(a, a₀), 0.1)^p``: the projection onto the start image's activations,
    times a power of the cosine that preserves their direction.
    """

    power: float = 1.0
    call = "caricature"
    shared = ("layer", "power")

    def __post_init__(self) -> None:
        super().__post_init__()
        if operand(self.power) is None or self.power < 0:
            raise TargetError(f"caricature: expected a power from 0, got {self.power!r}")
        object.__setattr__(self, "power", float(self.power))

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """The projection, in units of the layer."""
        if scope.reference is None:
            raise TargetError(f"{self}: expected an image to exaggerate: give maximize a start")
        found = scope.layer(self.layer).flatten(1)
        wanted = scope.reference[self.layer].flatten(1).expand_as(found)
        length: Tensor = torch.linalg.vector_norm(wanted, dim=1).clamp_min(1e-12)
        cosine = torch.cosine_similarity(found, wanted, dim=1)
        return (found * wanted).sum(1) / length * cosine.clamp_min(0.1) ** self.power


@dataclass(frozen=True)
class Diversity(LayerTerm):
    """How much a unit's images differ in a layer: 1 − mean cosine of their Gram matrices.

    It compares the images of a batch, so `maximize` runs the restarts of each unit as a batch of
    their own. 0 for a single image.
    """

    call = "diversity"

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``1 − mean_{j≠i} cos(G_i, G_j)``."""
        found = scope.layer(self.layer)
        maps = found.transpose(1, 2) if has_tokens(found) else found.flatten(2)
        maps = maps if maps.dim() == 3 else maps[:, :, None]
        gram = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        similarity = gram @ gram.T
        others = similarity.sum(1) - similarity.diagonal()
        return 1 - others / (len(nodes) - 1) if len(nodes) > 1 else 0 * others


@dataclass(frozen=True)
class Tv(Term):
    """Total variation: the mean absolute difference to the next pixel below and to the right."""

    call = "tv"
    reads_images = True

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """``Σ(|Δ_y x| + |Δ_x x|) / n``."""
        images = _images(self, scope)
        down, right = images.diff(dim=2).abs(), images.diff(dim=3).abs()
        return (down.flatten(1).sum(1) + right.flatten(1).sum(1)) / images[0].numel()


@dataclass(frozen=True)
class Norm(Term):
    """The image's p-norm per pixel: ``(Σ|x|^p / n)^(1/p)``, in model-input space."""

    p: float = 2.0
    call = "norm"
    shared = ("p",)
    reads_images = True

    def __post_init__(self) -> None:
        if operand(self.p) is None or not self.p >= 1:
            raise TargetError(f"norm: expected p from 1, got {self.p!r}")
        object.__setattr__(self, "p", float(self.p))

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """``(Σ|x|^p / n)^(1/p)``."""
        flat = _images(self, scope).flatten(1)
        length: Tensor = torch.linalg.vector_norm(flat, self.p, dim=1)
        return length / math.pow(flat.shape[1], 1 / self.p)


@dataclass(frozen=True)
class Alpha(Term):
    """Mean opacity of the image, 0 to 1, which `maximize` then optimizes as an alpha channel.

    Subtracted from an objective, it makes transparent what the unit does not need; transparent
    pixels show a new random background in every step. 1 for an image without an alpha channel.
    """

    call = "alpha"

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``Σ o / n``."""
        if scope.opacity is None:
            return scope.example.new_ones(len(nodes))
        return scope.opacity.flatten(1).mean(1)


def _images(term: Term, scope: Scope) -> Tensor:
    if scope.images is None:
        raise TargetError(
            f"{term}: expected the image itself, got none: use this penalty in maximize"
        )
    return scope.images


@dataclass(frozen=True)
class _OfLayer(Family, LayerTerm):
    indices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.indices
        if given is not None:
            if not isinstance(given, list | tuple | range):
                raise TargetError(f"{self.call}: expected a list of channels, got {given!r:.60}")
            for index in given:
                check_index(self, "indices", index)
            object.__setattr__(self, "indices", tuple(given))

    def _chosen(self, channels: Mapping[str, int]) -> Sequence[int]:
        return range(channels[self.layer]) if self.indices is None else self.indices


class Channels(_OfLayer):
    """A family: `channel` for all channels of a layer, or for those listed."""

    call = "channels"

    def members(self, channels: Mapping[str, int], classes: int | None) -> list[Expression]:  # noqa: ARG002
        """One term per channel."""
        return [Channel(self.layer, index) for index in self._chosen(channels)]


class AllLogOdds(_OfLayer):
    """A family: `log_odds` for all channels of a layer, or for those listed."""

    call = "all_log_odds"
    reads_statistics = True

    def members(self, channels: Mapping[str, int], classes: int | None) -> list[Expression]:  # noqa: ARG002
        """One term per channel."""
        return [LogOdds(self.layer, index) for index in self._chosen(channels)]


@dataclass(frozen=True)
class Classes(Family):
    """A family: `logit` for all classes."""

    call = "classes"
    reads_logits = True

    def members(self, channels: Mapping[str, int], classes: int | None) -> list[Expression]:  # noqa: ARG002
        """One term per class."""
        return [Logit(index) for index in range(classes or 0)]
