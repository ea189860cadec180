"""Accuracy and loss of a run, drawn as the study drew them."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from explainkit.render.sheet import FAINT, INK, fit, house_style, page

_WIDTH, _HEIGHT = 7.4, 3.0
_TRAINING, _VALIDATION = "#4a6fa5", "#c8553d"


@house_style()
def curves_figure(
    history: Sequence[Mapping[str, float]], title: str = "training", note: str = ""
) -> Figure:
    """Two plots against the epochs: accuracy and loss, in training and validation.

    Args:
        history: One row per epoch with ``epoch``, ``accuracy``, ``loss``, ``validation_accuracy``
            and ``validation_loss``; at least one.
        title: What it is.
        note: A remark under it.
    """
    figure = page(_WIDTH, _HEIGHT)
    inner = _WIDTH - 0.4
    # bold letters are wider
    head = fit(title, inner / 1.25, 9.5)
    figure.text(
        0.2 / _WIDTH, 1 - 0.2 / _HEIGHT, head, size=9.5, weight="bold", color=INK, va="center"
    )
    figure.text(
        0.2 / _WIDTH, 1 - 0.36 / _HEIGHT, fit(note, inner, 7, 2), size=7, color=FAINT, va="top"
    )
    wide, high = 2.95, 1.75
    for place, name in enumerate(("accuracy", "loss")):
        left = 0.5 + place * (wide + 0.7)
        axes = figure.add_axes((left / _WIDTH, 0.42 / _HEIGHT, wide / _WIDTH, high / _HEIGHT))
        _draw(axes, history, name)
    return figure


def _draw(axes: Axes, history: Sequence[Mapping[str, float]], name: str) -> None:
    epochs = [row["epoch"] for row in history]
    dot = "o" if len(epochs) < 20 else None
    for key, label, colour in (
        (name, "training", _TRAINING),
        (f"validation_{name}", "validation", _VALIDATION),
    ):
        values = [row[key] for row in history]
        axes.plot(
            epochs, values, color=colour, label=label, linewidth=1.4, marker=dot, markersize=2.5
        )
    axes.set_title(name, size=8, color=INK, loc="left", pad=4)
    axes.set_xlabel("epoch", size=7, color=FAINT, labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlim(0, max(epochs[-1], 2))
    axes.set_ylim(0, 1 if name == "accuracy" else 1.08 * axes.dataLim.y1)
    axes.grid(visible=True, color="#e6e7ee", linewidth=0.6)
    axes.tick_params(labelsize=7, length=0, labelcolor=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="best")
