"""The image that maximizes each class score, per network, and how the others classify it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import explainkit as ek
from explainkit.render.heatmap import to_pixels
from explainkit.render.sheet import FAINT, INK, RIGHT, WRONG, Page, house_style, show
from explainkit.results.visualization import Visualization
from explainkit_fer_hw3.faces import CLASS_NAMES
from explainkit_fer_hw3.models import MEAN, STD


@dataclass(frozen=True, eq=False)
class Ideal:
    """One network's images, and per network the probabilities ``[image, class]`` for them."""

    name: str
    found: Visualization
    probabilities: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Ideals:
    """The images of several networks.

    Attributes:
        classes: The classes, in order.
        by_network: One per network.
        start: The face that the optimization started from, ``[1, 48, 48]``; None for noise.
        start_probabilities: Per network, its probabilities for that face, ``[class]``.
    """

    classes: Sequence[str]
    by_network: Sequence[Ideal]
    start: Tensor | None
    start_probabilities: Mapping[str, Tensor]

    def rows(self) -> list[dict[str, Any]]:
        """One row per network and class, for JSON."""
        return [
            {
                "model": one.name,
                "class": name,
                "score": float(one.found.score[i]),
                "converged": bool(one.found.converged[i]),
                "trace": one.found.trace[:, i].tolist(),
                "probabilities": {
                    net: dict(zip(CLASS_NAMES, values[i].tolist(), strict=True))
                    for net, values in one.probabilities.items()
                },
            }
            for one in self.by_network
            for i, name in enumerate(self.classes)
        ]


def find_ideals(
    networks: Mapping[str, nn.Module],
    classes: Sequence[str] = CLASS_NAMES,
    *,
    start: Tensor | None = None,
    **settings: Any,
) -> Ideals:
    """Maximizes each class logit in each network; all networks classify the resulting images.

    The settings are those of `explainkit.maximize`.
    """
    objectives: Any = [f'logit("{name}")' for name in classes]
    ideals = []
    for name, network in networks.items():
        found = ek.maximize(network, objectives, start=start, **settings)
        ideals.append(Ideal(name, found, _probabilities(networks, found.images)))
    before = {} if start is None else _probabilities(networks, start[None])
    return Ideals(classes, ideals, start, {name: found[0] for name, found in before.items()})


def _probabilities(networks: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {
            name: network(images.to(next(network.parameters()))).softmax(1).cpu()
            for name, network in networks.items()
        }


@house_style()
def ideals_figure(ideals: Ideals) -> Figure:
    """One row per network, one column per class; below each image, the networks' probabilities."""
    side, gap, margin, left, head = 1.15, 0.14, 0.25, 0.62, 0.86
    lines = len(ideals.by_network)
    step = side + 0.14 * lines + 0.2
    columns = len(ideals.classes) + (ideals.start is not None)
    width = max(margin + left + columns * (side + gap) - gap + margin, 4.6)
    page = Page(width, head + step * lines + 0.1)
    first = ideals.by_network[0].found
    title = "Maximizing each class score"
    if ideals.start is not None:
        title = "A face changed for each class"
    about = (
        f"{first.maximizer.rpartition('/')[2]}, {len(first.trace)} steps; below: probability of "
        "the class (other prediction)"
    )
    page.write_line(margin, 0.22, title, 10.5, weight="bold")
    page.write_line(margin, 0.4, about, 7, color=FAINT)
    for row, one in enumerate(ideals.by_network):
        top = head + row * step
        page.write(margin, top + side / 2, one.name.upper(), 8, weight="bold", va="center")
        shown = list(one.found.images)
        if ideals.start is not None:
            shown.insert(0, ideals.start)
        for column, image in enumerate(shown):
            x = margin + left + column * (side + gap)
            axes = page.box(x, top, side, side)
            show(axes, to_pixels(image, (MEAN,), (STD,))[0])
            index = column - (ideals.start is not None)
            if row == 0:
                name = "initial image" if index < 0 else ideals.classes[index]
                page.write(x, top - 0.06, name, 7.5, weight="bold")
            for line, (text, ink) in enumerate(_lines(ideals, one, index)):
                page.write(x, top + side + 0.13 * (line + 1), text, 6.5, color=ink)
    return page.figure


def _lines(ideals: Ideals, one: Ideal, index: int) -> list[tuple[str, str]]:
    """Each network's probability for an image, and its color; the initial image has index −1."""
    found = []
    for name, probabilities in one.probabilities.items():
        values = ideals.start_probabilities[name] if index < 0 else probabilities[index]
        best = CLASS_NAMES[int(values.argmax())]
        if index < 0:
            found.append((f"{name}: {float(values.max()):.0%} {best}", INK))
            continue
        wanted = ideals.classes[index]
        text = f"{name}: {float(values[CLASS_NAMES.index(wanted)]):.0%}"
        found.append((text, RIGHT) if best == wanted else (f"{text} ({best})", WRONG))
    return found
