"""From a map's values to colors: scaling is explicit and has a name."""

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
"""Color maps for signed values (red positive, blue negative) and for values without a sign.

Both are readable with color vision deficiency.
"""

_FADED = (0.26, 0.33, 0.47)

_DEFAULTS: dict[str, float] = {"max": 0.0, "percentile": 99.0, "cumulative": 2.0}


@dataclass(frozen=True)
class Scaling:
    """How values become colors: the value at full color (the limit), and what happens to the sign.

    Attributes:
        kind: ``max``: the limit is the largest |a| in the image. ``percentile``: that percentile
            of |a|. ``cumulative``: the |a| at which the sorted |a| add up to 100 − amount percent
            of their sum, as in Captum's outlier rule.
        amount: The percentile, or the percentage of the sum that is clipped; ignored by ``max``.
        sign: ``signed``: a diverging scale, symmetric about zero. ``positive``: negative values
            are set to zero. ``absolute``: |a|.
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
        # scalings that do the same compare equal
        object.__setattr__(self, "amount", 0.0 if self.kind == "max" else float(self.amount))

    @classmethod
    def parse(cls, text: "Scaling | str") -> "Scaling":
        """Parses ``max``, ``percentile:98``, ``cumulative:2:absolute``, ``max:positive``.

        Raises:
            RenderError: The text is not of this form.

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
    def limit(self) -> str:
        """The value at full color as text: "maximum", "99th percentile", "98% of the sum"."""
        match self.kind:
            case "percentile":
                return f"{_ordinal(self.amount)} percentile"
            case "cumulative":
                return f"{100 - self.amount:g}% of the sum"
        return "maximum"

    @property
    def title(self) -> str:
        """What follows "scaled": "to the 99th percentile", "to the maximum, absolute values"."""
        article = "" if self.kind == "cumulative" else "the "
        values = "" if self.sign == "signed" else f", {self.sign} values"
        return f"to {article}{self.limit}{values}"

    @property
    def colors(self) -> str:
        """Name of the default color map."""
        return DIVERGING if self.sign == "signed" else SEQUENTIAL


def _list(kind: Any) -> str:
    return ", ".join(get_args(kind))


def _ordinal(number: float) -> str:
    text = f"{number:g}"
    teen = text.endswith(("11", "12", "13")) or "." in text
    return text + ("th" if teen else {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th"))


@dataclass(frozen=True, eq=False)
class Scaled:
    """Maps ready to be colored.

    Attributes:
        values: ``[batch, height, width]`` in [−1, 1], or [0, 1] without a sign.
        limits: Each map's value at full color, in the method's own unit, ``[batch]``; 0 for a map
            that is zero everywhere.
        notes: What is unusual about each map's scale, or "".
    """

    values: NDArray[np.float64]
    limits: NDArray[np.float64]
    notes: tuple[str, ...]


def scale(maps: Tensor, scaling: Scaling | str = "percentile", *, shared: bool = False) -> Scaled:
    """Divides each map by its limit and clips what is larger.

    Args:
        maps: ``[batch, height, width]`` in the method's own unit.
        scaling: The rule for the limit, as an object or by name.
        shared: Use the largest limit for all maps, so that colors are comparable between them.

    Raises:
        RenderError: Values are not finite, or the scaling is unknown.

    Examples:
        >>> scale(torch.tensor([[[1.0, -4.0]]]), "max").values.tolist()
        [[[0.25, -1.0]]]
    """
    rule = Scaling.parse(scaling)
    values = maps.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise RenderError("expected finite values in the map, got NaN or infinity")
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
    """The value at full color, and a note where the rule could not be applied."""
    largest = float(sizes.max(initial=0.0))
    if not largest:
        return 0.0, "zero everywhere"
    # dividing by a power of two is exact, and sums of values near the largest float stay finite
    exponent = int(np.frexp(largest)[1])
    near_one = np.ldexp(sizes, -exponent)
    match rule.kind:
        case "percentile":
            found = float(np.percentile(near_one, rule.amount))
        case "cumulative":
            ordered = np.sort(near_one, axis=None)
            # the first index at which the sum reaches the share, as in Captum
            sums = np.cumsum(ordered)
            reached = sums >= sums[-1] * 0.01 * (100 - rule.amount)
            # rounding can leave the last sum just below the threshold
            found = float(ordered[int(reached.argmax()) if reached.any() else -1])
        case _:
            return largest, ""
    if not found:
        return largest, f"scaled to the maximum because the {rule.limit} is zero"
    return float(np.ldexp(found, exponent)), ""


def color(
    values: NDArray[np.float64], colors: str = DIVERGING, *, signed: bool | None = None
) -> NDArray[np.uint8]:
    """Colors scaled values: ``[height, width]`` to RGB ``[height, width, 3]``.

    Args:
        values: In [−1, 1] if signed, in [0, 1] otherwise.
        colors: Name of a matplotlib color map.
        signed: Whether the middle of the color map stands for zero; None: for the default
            diverging map only.

    Raises:
        RenderError: The color map is unknown.
    """
    if colors not in colormaps:
        raise RenderError(f"cmap: expected the name of a matplotlib color map, got {colors!r:.40}")
    if signed is None:
        signed = colors == DIVERGING
    position = (values + 1) / 2 if signed else values
    rgb: NDArray[np.uint8] = colormaps[colors](position, bytes=True)[..., :3]
    return rgb


def to_pixels(
    image: Tensor, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> tuple[NDArray[np.float64], str]:
    """A model input as a displayable image, and a note where this took a guess.

    Args:
        image: ``[channel, height, width]`` in model-input space.
        mean: Per channel; pixel / 255 = input · std + mean. None: unknown.
        std: Per channel.

    Returns:
        Gray ``[height, width]`` or RGB ``[height, width, 3]`` in [0, 1]; and the note, or "".

    Raises:
        RenderError: ``mean`` or ``std`` does not have one number per channel.
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
        # halves, so that the difference cannot overflow
        low, high = values.min() / 2, values.max() / 2
        values = (values / 2 - low) / ((high - low) or 1.0)
        notes.append("normalization unknown: shown from the smallest to the largest value")
    values = values.clip(0, 1)
    if len(values) == 3:
        return np.moveaxis(values, 0, -1), "; ".join(notes)
    if len(values) > 1:
        notes.append(f"shown as the mean of {len(values)} channels")
    return values.mean(0), "; ".join(notes)


def most_relevant(relevance: Tensor, keep: float = 0.2) -> NDArray[np.bool_]:
    """A mask of a map's most relevant pixels.

    Args:
        relevance: ``[height, width]``; larger is more relevant, 0 or less is not relevant.
        keep: Fraction of the pixels to keep: ``round(keep · height · width)``, or fewer if fewer
            are positive. Ties are broken in row-major order.

    Raises:
        RenderError: ``keep`` is outside [0, 1].
    """
    if not 0 <= keep <= 1:
        raise RenderError(f"keep: expected a fraction from 0 to 1, got {keep}")
    flat = relevance.detach().to("cpu", torch.float64).flatten()
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[: round(keep * len(flat))]] = True
    mask: NDArray[np.bool_] = (kept & (flat > 0)).reshape(relevance.shape).numpy()
    return mask


def masked(image: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """An image as RGB in [0, 1]; all pixels outside the mask ``kept`` fade to blue-gray."""
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    # a hue, so that faded pixels differ from dark gray ones inside the mask
    faded = np.array(_FADED) + 0.16 * rgb.mean(-1, keepdims=True)
    return np.where(kept[..., None], rgb, faded)


def over_images(explanation: "Explanation", reduce: Reduce = "sum") -> Tensor:
    """The maps at the images' resolution; maps of a layer's output are enlarged (nearest cell).

    Returns:
        ``[batch, height, width]`` of the images, in the method's own unit.
    """
    if explanation.inputs.ndim != 4:
        raise RenderError(
            f"expected maps of images, got maps of volumes {list(explanation.inputs.shape)}: "
            "explanation.plot() and explanation.report() show them as slices"
        )
    if explanation.attribution.ndim != 4:
        raise RenderError(
            "expected maps [batch, channel, height, width], got "
            f"{list(explanation.attribution.shape)} at {explanation.at}: a layer without spatial "
            "positions can't be shown over images"
        )
    maps = explanation.heatmap(reduce).detach()
    height, width = explanation.inputs.shape[-2:]
    rows = torch.arange(height, device=maps.device) * maps.shape[1] // height
    columns = torch.arange(width, device=maps.device) * maps.shape[2] // width
    return maps[:, rows[:, None], columns]
