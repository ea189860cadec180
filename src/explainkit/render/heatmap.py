"""From a map's values to colors: scaling is explicit, named, and never hidden."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from torch import Tensor

from explainkit.errors import RenderError

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation

ScalingKind = Literal["max", "percentile", "cumulative"]
Sign = Literal["signed", "positive", "absolute"]
Reduce = Literal["sum", "abs_sum", "abs_max", "norm"]

DIVERGING, SEQUENTIAL = "RdBu_r", "inferno"
"""Red speaks for the class, blue against it; both maps are fit for color-blind readers."""

_FADED = (0.26, 0.33, 0.47)

_DEFAULTS: dict[str, float] = {"max": 0.0, "percentile": 99.0, "cumulative": 2.0}


@dataclass(frozen=True)
class Scaling:
    """How values become colors: what full color stands for, and what happens to the sign.

    Attributes:
        kind: ``max``: the largest size |a| in the image. ``percentile``: that percentile of
            the sizes. ``cumulative``: the size at which the sorted sizes have added up to
            100 − amount per cent of their sum, which is Captum's outlier rule.
        amount: The percentile, or the per cent of the sum that is cut; not used by ``max``.
        sign: ``signed``: a diverging scale symmetric about zero. ``positive``: values below zero
            count as zero. ``absolute``: sizes.
    """

    kind: ScalingKind = "percentile"
    amount: float = 99.0
    sign: Sign = "signed"

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScalingKind):
            raise RenderError(f"scaling: expected {_list(ScalingKind)}, got {self.kind!r}")
        if self.sign not in get_args(Sign):
            raise RenderError(f"scaling's sign: expected {_list(Sign)}, got {self.sign!r}")
        if not 0 <= self.amount <= 100:
            raise RenderError(f"scaling's amount: expected 0 to 100, got {self.amount}")
        # one value for one meaning: equal scalings compare equal
        object.__setattr__(self, "amount", 0.0 if self.kind == "max" else float(self.amount))

    @classmethod
    def parse(cls, text: "Scaling | str") -> "Scaling":
        """Reads ``max``, ``percentile:98``, ``cumulative:2:absolute``, ``max:positive``.

        Raises:
            RenderError: It is none of these.

        Examples:
            >>> str(Scaling.parse("percentile:positive"))
            'percentile:99:positive'
        """
        if isinstance(text, Scaling):
            return text
        if not isinstance(text, str):
            raise RenderError(f"scaling: expected text such as 'percentile:98', got {text!r:.40}")
        kind, *rest = text.split(":")
        amounts: list[float] = []
        signs: list[str] = []
        for part in rest:
            try:
                amounts.append(float(part))
            except ValueError:
                signs.append(part)
        if len(amounts) > (kind != "max") or len(signs) > 1:
            raise RenderError(
                f"scaling: expected kind:amount:sign, each once and no amount for max, got {text!r}"
            )
        amount = amounts[0] if amounts else _DEFAULTS.get(kind, 0.0)
        return cls(kind, amount, signs[0] if signs else "signed")  # type: ignore[arg-type]

    def __str__(self) -> str:
        amount = "" if self.kind == "max" else f":{self.amount!r}".removesuffix(".0")
        return f"{self.kind}{amount}" + ("" if self.sign == "signed" else f":{self.sign}")

    @property
    def title(self) -> str:
        """The scaling in words, for a figure."""
        words = {
            "max": "to the maximum",
            "percentile": f"to percentile {self.amount:g}",
            "cumulative": f"to {100 - self.amount:g} % of the sum",
        }[self.kind]
        return words if self.sign == "signed" else f"{words}, {self.sign}"

    @property
    def colors(self) -> str:
        """The name of the color map."""
        return DIVERGING if self.sign == "signed" else SEQUENTIAL


def _list(kind: Any) -> str:
    return ", ".join(get_args(kind))


@dataclass(frozen=True, eq=False)
class Scaled:
    """Maps ready to be colored.

    Attributes:
        values: ``[batch, height, width]`` in [−1, 1], or [0, 1] where there is no sign.
        limits: What full color stands for in each map, in the method's own unit, ``[batch]``; 0
            for a map without values.
        notes: A remark for each map, or "".
    """

    values: NDArray[np.float64]
    limits: NDArray[np.float64]
    notes: tuple[str, ...]


def scale(maps: Tensor, scaling: Scaling | str = "percentile", *, shared: bool = False) -> Scaled:
    """Scales maps so that full color stands for their limit; larger values are clipped.

    Args:
        maps: ``[batch, height, width]`` in the method's own unit.
        scaling: How, as an object or by name.
        shared: Give all maps the largest of their limits, so that their colors compare.

    Raises:
        RenderError: Values that are not finite, or a scaling that doesn't exist.

    Examples:
        >>> scale(torch.tensor([[[1.0, -4.0]]]), "max").values.tolist()
        [[[0.25, -1.0]]]
    """
    rule = Scaling.parse(scaling)
    values = maps.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise RenderError("expected a finite map to draw, got NaN or infinity")
    if rule.sign == "positive":
        values = values.clip(min=0)
    elif rule.sign == "absolute":
        values = np.abs(values)
    found = [_limit(np.abs(one), rule) for one in values]
    limits = np.array([limit for limit, _ in found])
    notes = tuple(note for _, note in found)
    if shared:
        limits = np.full_like(limits, limits.max(initial=0.0))
    divisor = np.where(limits > 0, limits, 1.0)[:, None, None]
    return Scaled((values / divisor).clip(-1, 1), limits, notes)


def _limit(sizes: NDArray[np.float64], rule: Scaling) -> tuple[float, str]:
    """What full color stands for, and a remark if it isn't what the rule says."""
    largest = float(sizes.max(initial=0.0))
    if not largest:
        return 0.0, "zero everywhere"
    # by a power of two, which is exact: sums of values near the largest float stay finite
    exponent = int(np.frexp(largest)[1])
    near_one = np.ldexp(sizes, -exponent)
    match rule.kind:
        case "percentile":
            found = float(np.percentile(near_one, rule.amount))
        case "cumulative":
            ordered = np.sort(near_one, axis=None)
            # the first place at which the sum reaches the share, as Captum counts it
            sums = np.cumsum(ordered)
            reached = sums >= sums[-1] * 0.01 * (100 - rule.amount)
            # rounding may put the whole sum just above itself
            found = float(ordered[int(reached.argmax()) if reached.any() else -1])
        case _:
            return largest, ""
    if not found:
        words = rule.title.split(",")[0].removeprefix("to ")
        return largest, f"scaled to the maximum, as {words} is zero"
    return float(np.ldexp(found, exponent)), ""


def color(values: NDArray[np.float64], colors: str = DIVERGING) -> NDArray[np.uint8]:
    """Colors scaled values: ``[height, width]`` to RGB ``[height, width, 3]``.

    Args:
        values: In [−1, 1] for a diverging color map, in [0, 1] otherwise.
        colors: Name of the color map.
    """
    place = (values + 1) / 2 if colors == DIVERGING else values
    rgb: NDArray[np.uint8] = colormaps[colors](place, bytes=True)[..., :3]
    return rgb


def to_pixels(
    image: Tensor, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> tuple[NDArray[np.float64], str]:
    """An input as it looks, and a remark if that took a guess.

    Args:
        image: ``[channel, height, width]`` in model-input space.
        mean: Per channel; pixel / 255 = input · std + mean. None: unknown.
        std: Per channel.

    Returns:
        Gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1]; and the remark, or "".

    Raises:
        RenderError: ``mean`` or ``std`` isn't one number per channel.
    """
    values = image.detach().to("cpu", torch.float64).numpy()
    notes = []
    if mean is not None and std is not None:
        if not len(mean) == len(std) == len(values):
            raise RenderError(
                f"expected a mean and a std for each of {len(values)} channels, got {len(mean)} "
                f"and {len(std)}"
            )
        values = values * np.array(std)[:, None, None] + np.array(mean)[:, None, None]
    elif values.min() < 0 or values.max() > 1:
        low, high = values.min() / 2, values.max() / 2  # halves: no difference overflows
        values = (values / 2 - low) / ((high - low) or 1.0)
        notes.append("normalization unknown: drawn from the least to the largest value")
    values = values.clip(0, 1)
    if len(values) == 3:
        return np.moveaxis(values, 0, -1), "; ".join(notes)
    if len(values) > 1:
        notes.append(f"mean of {len(values)} channels")
    return values.mean(0), "; ".join(notes)


def most_relevant(relevance: Tensor, keep: float = 0.2) -> NDArray[np.bool_]:
    """The most relevant pixels of a map, as a mask.

    Args:
        relevance: ``[height, width]``; the larger, the more relevant; from 0 down: not at all.
        keep: Share of the pixels: ``round(keep · height · width)``, the first in reading order
            where values are equal; fewer if fewer are larger than 0.

    Returns:
        ``[height, width]``.

    Raises:
        RenderError: ``keep`` is not in [0, 1].
    """
    if not 0 <= keep <= 1:
        raise RenderError(f"keep: expected a share from 0 to 1, got {keep}")
    flat = relevance.detach().to("cpu", torch.float64).flatten()
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[: round(keep * len(flat))]] = True
    mask: NDArray[np.bool_] = (kept & (flat > 0)).reshape(relevance.shape).numpy()
    return mask


def masked(image: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """An image in which only some pixels stay as they are; the others fade into a blue-gray.

    Args:
        image: Gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1].
        kept: The pixels that stay, ``[height, width]``.

    Returns:
        RGB ``[height, width, 3]`` in [0, 1].
    """
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    # a hue that dark gray pixels which stay don't have
    faded = np.array(_FADED) + 0.16 * rgb.mean(-1, keepdims=True)
    shown: NDArray[np.float64] = np.where(kept[..., None], rgb, faded)
    return shown


def over_images(explanation: "Explanation", reduce: Reduce = "sum") -> Tensor:
    """Maps with a value for every pixel: of a layer's output the value of the cell over it.

    Args:
        explanation: Whose maps.
        reduce: How channels become one.

    Returns:
        ``[batch, height, width]`` of the images, in the method's own unit.

    Raises:
        RenderError: The layer that was explained has no places.
    """
    if explanation.attribution.ndim != 4:
        raise RenderError(
            "expected maps [batch, channel, height, width], got "
            f"{list(explanation.attribution.shape)} at {explanation.at}: a layer without places "
            "can't be laid over images"
        )
    maps = explanation.heatmap(reduce).detach()
    height, width = explanation.inputs.shape[-2:]
    rows = torch.arange(height, device=maps.device) * maps.shape[1] // height
    columns = torch.arange(width, device=maps.device) * maps.shape[2] // width
    return maps[:, rows[:, None], columns]
