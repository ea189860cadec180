"""The scorecard: whether each map predicts what hiding parts of its image does, in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from explainkit.results.plain import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW_POWER = "low power on this network"
"""The verdict where the positive control fails too often."""

SENTENCES = {
    "supported": "Hiding what this map marks changed the answer as the map predicts, better than "
    "an edge drawing or a spot in the middle would.",
    "partly supported": "The map predicts some of what hiding does; another test may disagree.",
    "not class-specific": "The map predicts what hiding does, but would do so for the next most "
    "likely class too.",
    "not supported: edges": "An edge drawing predicts this as well.",
    "not supported: center": "A spot in the middle predicts this as well.",
    "not supported: moved": "Put in the wrong place, this map would predict as well.",
    "cannot be judged": "This map can't be tested.",
    LOW_POWER: "On this network, the test also fails maps that are known to "
    "predict what hiding does.",
}
"""The verdicts, each with what it means."""

WITHHELD = ("cannot be judged", LOW_POWER)
"""Verdicts that do not follow from p-values."""

_COMPARED = ("supported", "not class-specific")
"""Verdicts that rest on the comparison with another class."""

CONSISTENT, STRICT = 0.05, 0.01
"""Largest p-values of a test that passes, and of the second test of a map that is supported."""

POWER_IMAGES, POWER_FAILURES = 10, 1 / 3
"""The positive control tells a network's power on at least so many images, and shows too little of
it if it fails in more than this share of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorecard:
    """The verdict on each map of a batch, with the numbers that it follows from.

    The three tests are *predicts*, *beyond the image* and *this class*: does the map predict what
    hiding parts of its image does to the score; still so, if edges and a spot in the center are
    regressed out; and does the difference from the map of the next most likely class predict the
    difference of the effects? `explainkit.metrics.evidence.weigh` has the formulas. Each p-value
    compares the map with shifted and flipped copies of itself.

    Attributes:
        caveat: What holds for every verdict.
        statistic: Of the three tests, float64 ``[batch, 3]``; NaN where there is none.
        p: Their p-values, ``[batch, 3]``.
        reason: For each image, why it can't be judged, or why a test is missing; or empty.
        control: For each image, which control predicts the effects best, "edges" or "center".
        effects: How much hiding each cell lowers the score, ``[batch, cells]``.
        sums: The map's sum in each cell, ``[batch, cells]``.
        band: 5 % and 95 % quantiles of the correlation of both for shifted copies, ``[batch, 2]``.
        grid: Rows and columns of cells.
        half_cell: Whether the grid is moved by half a cell, because the method itself hides parts
            of the image.
        power: P-values of the positive control, ``[batch]``: the effects on the grid half a cell
            away, tested like a map by the first test. None if it was not measured.
        swapped: P-values of the three tests for the map of another image, of another class, put on
            each image, ``[batch, 3]``; NaN without one. None if it was not tested, as by default.
        positive_control: On how many images the control passes, and of how many: of these if they
            are at least 10, else as the model's specification knows it; None: unknown.
        contrast: For each image, what the third test compares the target with; or empty.
        methods: Number of methods that were tested on these images; p-values of several are
            adjusted by Holm's procedure.
        method: Name of the method; None for a map from elsewhere.
        model: Name of the model.
        target: What was explained, for each image.
        seed: Random seed of what was hidden.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24 * 24, 3)).eval()
        >>> _ = torch.manual_seed(0)
        >>> found = ek.explain(net, torch.rand(1, 1, 24, 24), method="input_x_gradient")
        >>> found.scorecard().p.shape
        torch.Size([1, 3])
    """

    caveat: ClassVar[str] = (
        "A verdict is about what hiding does, not about causes. One image is a hint, and "
        "“not supported” is not “wrong”."
    )

    statistic: Tensor
    p: Tensor
    reason: tuple[str, ...]
    control: tuple[str, ...]
    effects: Tensor
    sums: Tensor
    band: Tensor
    grid: tuple[int, int]
    half_cell: bool = False
    power: Tensor | None = None
    swapped: Tensor | None = None
    positive_control: tuple[int, int] | None = None
    contrast: tuple[str, ...] = ()
    methods: int = 1
    method: str | None = None
    model: str = ""
    target: tuple[str, ...] = ()
    seed: int = 0

    def __len__(self) -> int:
        return len(self.p)

    def __repr__(self) -> str:
        shown = "; ".join(self.verdict[:4]) + ("; …" if len(self) > 4 else "")
        return f"<Scorecard of {self.method or 'a map'} on {self.model}: {shown}>"

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """One of `SENTENCES` for each image; withheld where the positive control fails too often.

        The p-values stand in any case.
        """
        found = map(verdict_of, self.p.tolist(), self.control)
        if not self.low_power:
            return tuple(found)
        return tuple(one if one in WITHHELD else LOW_POWER for one in found)

    def sentence(self, index: int) -> str:
        """What the verdict on one image means, and which class the map is compared with."""
        verdict = self.verdict[index]
        said = [SENTENCES[verdict], self.reason[index]]
        if verdict in _COMPARED and self.contrast and self.contrast[index]:
            said.append(f"Compared with {self.contrast[index]}.")
        return " ".join(filter(None, said))

    @property
    def meanings(self) -> tuple[tuple[str, str], ...]:
        """Each verdict that was given, and what it means."""
        return tuple((verdict, SENTENCES[verdict]) for verdict in dict.fromkeys(self.verdict))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about all of these verdicts, one sentence or two each."""
        found = [self.caveat]
        if self.methods > 1:
            found.append(f"P-values are adjusted for {self.methods} methods (Holm).")
        if self.positive_control is None:
            found.append(
                "The power of these tests on this network is unknown: measuring it takes at least "
                f"{POWER_IMAGES} images."
            )
        return tuple(found)

    @property
    def low_power(self) -> bool:
        """Whether the positive control fails too often on this network to tell maps apart."""
        return fails_often(self.positive_control)

    def controlled(self, control: tuple[int, int] | None) -> "Scorecard":
        """A copy for a network whose positive control passes on so many images, of so many.

        None: unknown, so that the verdict on an image depends on that image alone.
        """
        return replace(self, positive_control=control)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON; NaN is None."""
        found: dict[str, Any] = plain(
            vars(self)
            | {
                "verdict": self.verdict,
                "sentence": [self.sentence(i) for i in range(len(self))],
                "caveat": self.caveat,
                "low_power": self.low_power,
                "notes": self.notes,
            }
        )
        return found

    def facts(self, index: int) -> dict[str, Any]:
        """What it says about one image, as JSON."""
        found: dict[str, Any] = plain(
            {
                "verdict": self.verdict[index],
                "sentence": self.sentence(index),
                "statistic": self.statistic[index],
                "p": self.p[index],
                "methods": self.methods,
                "positive_control": self.positive_control,
            }
        )
        return found

    def plot(self, columns: int = 3) -> "Figure":
        """Draws the effect of hiding each cell against the map's sum in it, one panel per image.

        The band is where the line of best fit runs for 90 % of the map's shifted and flipped
        copies.

        Args:
            columns: Panels side by side.
        """
        from explainkit.render.scorecard import scorecard_figure

        return scorecard_figure(self, columns)

    def _repr_html_(self) -> str:
        from explainkit.render.scorecard import scorecard_html

        return scorecard_html(self)


def verdict_of(p: Sequence[float], control: str) -> str:
    """The verdict that follows from the p-values of the three tests of one map.

    Args:
        p: Of *predicts*, *beyond the image* and *this class*; NaN where there is no test.
        control: Which control predicts the effects best, ``"edges"`` or ``"center"``.

    Examples:
        >>> verdict_of((0.001, 0.01, 0.03), "edges"), verdict_of((0.2, 0.01, 0.03), "edges")
        ('supported', 'not supported: moved')
        >>> verdict_of((0.001, 0.2, 0.03), "center"), verdict_of((0.01, 0.01, 0.3), "edges")
        ('not supported: center', 'not class-specific')
        >>> verdict_of((0.001, 0.01, float("nan")), "edges")
        'partly supported'
    """
    predicts, beyond, specific = p
    if predicts != predicts:
        return "cannot be judged"
    if predicts > CONSISTENT:
        return "not supported: moved"
    if beyond > CONSISTENT:
        return f"not supported: {control}"
    if specific > CONSISTENT:
        return "not class-specific"
    if beyond <= STRICT and specific <= CONSISTENT:
        return "supported"
    return "partly supported"


def is_verdict(verdict: str, wanted: str) -> bool:
    """Whether a verdict is the wanted one, or one of those that the wanted one stands for.

    Examples:
        >>> is_verdict("not supported: edges", "not supported"), is_verdict("supported", "support")
        (True, False)
    """
    return verdict == wanted or verdict.startswith(f"{wanted}:")


def together(cards: Sequence[Scorecard]) -> list[Scorecard]:
    """The scorecards of several methods on the same images, with p-values adjusted by Holm.

    Otherwise the best of many maps would be supported by chance. Each test of each image is
    adjusted over the methods, and the verdicts follow from the adjusted p-values.

    References:
        Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
        Journal of Statistics 6.
    """
    adjusted = holm(torch.stack([card.p for card in cards]))
    return [replace(card, p=p, methods=len(cards)) for card, p in zip(cards, adjusted, strict=True)]


def holm(p: Tensor) -> Tensor:
    """P-values ``[tests, …]``, adjusted over the first axis; NaN is not a test.

    Examples:
        >>> holm(torch.tensor([0.25, 0.125, 0.5, float("nan")])).tolist()
        [0.5, 0.375, 0.5, nan]
    """
    missing = p.isnan()
    ordered, order = p.masked_fill(missing, torch.inf).sort(0)
    place = torch.arange(len(p)).view(-1, *[1] * (p.dim() - 1))
    steps = (ordered * ((~missing).sum(0) - place)).clamp(max=1)
    steps = steps.masked_fill(ordered.isinf(), torch.nan).cummax(0).values
    return torch.empty_like(p).scatter(0, order, steps)


def control_of(p: Tensor) -> tuple[int, int] | None:
    """On how many images the positive control passes, and of how many; None if they are too few.

    Images that can't be judged are not counted.

    Examples:
        >>> control_of(torch.tensor([0.01] * 8 + [0.2, 0.3, float("nan")]))
        (8, 10)
    """
    judged = p[~p.isnan()]
    passed = int((judged <= CONSISTENT).sum())
    return (passed, len(judged)) if len(judged) >= POWER_IMAGES else None


def fails_often(control: tuple[int, int] | None) -> bool:
    """Whether the positive control fails too often to tell maps apart; no, if it is unknown.

    Examples:
        >>> fails_often((6, 10)), fails_often((7, 10)), fails_often(None)
        (True, False, False)
    """
    if control is None:
        return False
    passed, images = control
    return images - passed > POWER_FAILURES * images
