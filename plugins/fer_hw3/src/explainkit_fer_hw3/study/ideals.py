"""What an ideal face of each class is to each network, and what the other makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import explainkit as ek
from explainkit.render.heatmap import to_pixels
from explainkit.render.sheet import FAINT, INK, RIGHT, WRONG, fit, house_style, page, show
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.models import MEAN, STD


@dataclass(frozen=True, eq=False)
class Ideal:
    """One network's ideal faces.

    Attributes:
        name: The network.
        found: One image per class.
        read: Network to its probabilities for these images, ``[image, class]``.
    """

    name: str
    found: Visualization
    read: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Ideals:
    """The ideal faces of several networks.

    Attributes:
        classes: The classes, in order.
        by_network: One per network.
        start: The face that all of them are made from, ``[1, 48, 48]``, or None.
        read_start: Network to its probabilities for it, ``[class]``; empty without one.
    """

    classes: Sequence[str]
    by_network: Sequence[Ideal]
    start: Tensor | None
    read_start: Mapping[str, Tensor]

    def rows(self) -> list[dict[str, Any]]:
        """A row per network and class, for a machine."""
        return [
            {
                "model": one.name,
                "class": name,
                "score": float(one.found.score[i]),
                "converged": bool(one.found.converged[i]),
                "trace": one.found.trace[:, i].tolist(),
                "probabilities": {
                    net: dict(zip(CLASS_NAMES, values[i].tolist(), strict=True))
                    for net, values in one.read.items()
                },
            }
            for one in self.by_network
            for i, name in enumerate(self.classes)
        ]


def find_ideals(
    networks: Mapping[str, nn.Module],
    classes: Sequence[str] = CLASS_NAMES,
    *,
    maximizer: str = "explainkit/fourier",
    start: Tensor | None = None,
    dataset: Tensor | None = None,
    frames: int = 0,
    seed: int = 0,
    **params: Any,
) -> Ideals:
    """Maximizes the logit of each class in each network, and lets all networks read the images.

    Args:
        networks: By name.
        classes: Which.
        maximizer: How.
        start: A face ``[1, 48, 48]`` to begin with instead of noise.
        dataset: Faces ``[n, 1, 48, 48]``, for maximizers that keep their spectrum.
        frames: Images on the way to keep.
        seed: Of the noise.
        **params: The maximizer's fields.
    """
    objectives: Any = [f'logit("{name}")' for name in classes]
    found = {
        name: ek.maximize(
            network, objectives, maximizer=maximizer, start=start, dataset=dataset,
            frames=frames, seed=seed, **params,
        )
        for name, network in networks.items()
    }  # fmt: skip
    return Ideals(
        classes,
        [Ideal(name, one, _read(networks, one.images)) for name, one in found.items()],
        start,
        {} if start is None else {n: p[0] for n, p in _read(networks, start[None]).items()},
    )


def _read(networks: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {
            name: network(images.to(next(network.parameters()))).softmax(1).cpu()
            for name, network in networks.items()
        }


@house_style()
def ideals_figure(ideals: Ideals) -> Figure:
    """A row per network, a column per class; under each image what every network makes of it."""
    side, gap, margin, left, head = 1.15, 0.14, 0.25, 0.62, 0.86
    lines = len(ideals.by_network)
    step = side + 0.14 * lines + 0.2
    columns = len(ideals.classes) + (ideals.start is not None)
    width = max(margin + left + columns * (side + gap) - gap + margin, 4.6)
    height = head + step * lines + 0.1
    figure = page(width, height)
    first = ideals.by_network[0].found
    title = "the ideal face of each class, to each network"
    if ideals.start is not None:
        title = "one face, made more of each class for each network"
    about = (
        f"{first.maximizer.rpartition('/')[2]}, {len(first.trace)} steps; under each image how "
        "sure each network is that it shows the class"
    )
    _write(figure, margin, 0.22, fit(title, (width - 0.5) / 1.25, 10.5), size=10.5, weight="bold")
    _write(figure, margin, 0.4, fit(about, width - 0.5, 7), size=7, color=FAINT)
    for row, one in enumerate(ideals.by_network):
        top = head + row * step
        _write(figure, margin, top + side / 2, one.name.upper(), size=8, weight="bold", va="center")
        shown = list(one.found.images)
        if ideals.start is not None:
            shown.insert(0, ideals.start)
        for column, image in enumerate(shown):
            x = margin + left + column * (side + gap)
            axes = figure.add_axes(
                (x / width, 1 - (top + side) / height, side / width, side / height)
            )
            show(axes, to_pixels(image, (MEAN,), (STD,))[0])
            place = column - (ideals.start is not None)
            if row == 0:
                name = "the face" if place < 0 else ideals.classes[place]
                _write(figure, x, top - 0.06, name, size=7.5, weight="bold")
            for line, (text, ink) in enumerate(_readings(ideals, one, place)):
                _write(figure, x, top + side + 0.13 * (line + 1), text, size=6.5, color=ink)
    return figure


def _readings(ideals: Ideals, one: Ideal, place: int) -> list[tuple[str, str]]:
    """What each network says of an image, and in which ink; the face itself has place −1."""
    found = []
    for name in one.read:
        values = ideals.read_start[name] if place < 0 else one.read[name][place]
        best = CLASS_NAMES[int(values.argmax())]
        wanted = best if place < 0 else ideals.classes[place]
        share = float(values[CLASS_NAMES.index(wanted)])
        text = f"{name}: {share:.0%}"
        if place < 0 or best != wanted:
            text += f" {best}" if place < 0 else f" (says {best})"
        ink = INK if place < 0 else RIGHT if best == wanted else WRONG
        found.append((text, ink))
    return found


def _write(figure: Figure, left: float, top: float, text: str, **how: Any) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **{"color": INK, **how})
