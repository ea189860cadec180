"""Outcomes: checks what methods return, joins chunks, and collects warnings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.scores import Outputs

if TYPE_CHECKING:
    from explainkit.engine.model import Run

SATURATED = 1e-4
"""An output this close to 0 or 1 counts as saturated: its gradient is nearly zero."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method returned for some images, checked.

    Attributes:
        values: The map ``[batch, channel or 1, height, width]``.
        target: int64 ``[batch]``.
        score: ``[batch]``.
        logits: The model's own outputs, ``[batch, outputs]``.
        standard_error: Of each value, or None.
        layer: The layer that the method used, or None.
        at: The layer whose output the map explains, or None.
        coverage: The operators that the method's rules covered, or None.
        warnings: The method's own warnings.
        diagnostics: Further results of the method.
        partial: Whether the method stopped early.
        outputs: What the logits mean.
        has_logits: Whether the logits are the model's own, rather than the score again.
    """

    values: Tensor
    target: Tensor
    score: Tensor
    logits: Tensor
    standard_error: Tensor | None
    layer: str | None
    at: str | None
    coverage: Any
    warnings: tuple[str, ...]
    diagnostics: dict[str, Any]
    partial: bool
    outputs: Outputs
    has_logits: bool = True

    def all_warnings(
        self, module: nn.Module, names: Sequence[str] = (), expression: bool = False
    ) -> list[str]:
        """The method's warnings, and those about saturated outputs and flat maps.

        Args:
            module: The caller's model.
            names: Of the images, if they have any.
            expression: Whether an expression or a function was explained, not a class.
        """
        return [*self.warnings, *self._saturation(module, expression), *self._flatness(names)]

    def _saturation(self, module: nn.Module, expression: bool) -> Iterator[str]:
        logits, score = self.logits.float(), self.score.float()
        if not self.has_logits or not ((logits >= 0) & (logits <= 1)).all():
            return
        last = [m for m in module.modules() if isinstance(m, nn.Sigmoid | nn.Softmax)]
        layer = f"the final {type(last[-1]).__name__}" if last else "the final softmax or sigmoid"
        sums_to_one = logits.shape[1] > 1 and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
        # an exact zero means saturation after a squashing function, but not after a ReLU
        low = (score < SATURATED) & ((score > 0) | bool(last) | sums_to_one)
        saturated = int((low | (score > 1 - SATURATED)).sum())
        if expression and not (logits == score[:, None]).any(1).all():
            saturated = 0  # the score is no output, but perhaps that of a layer
        if saturated:
            yield (
                f"the target's output is saturated in {saturated} of {len(score)} images, so its "
                f"gradient nearly vanishes: explain the model without {layer}, on its "
                "pre-activation"
            )
        elif sums_to_one:
            yield (
                f"the model returns probabilities: explain it without {layer}, on its logits, "
                "since a probability also depends on the other classes"
            )

    def _flatness(self, names: Sequence[str]) -> Iterator[str]:
        flat = self.values.reshape(len(self.values), -1)
        constant = flat.amin(1) == flat.amax(1)
        if not constant.any():
            return
        zero = constant & (flat[:, 0] == 0)
        constant &= ~zero
        if zero.any():
            yield (
                f"the map is zero everywhere in {listed(zero, names)}: the score does not change "
                "with these images (a saturated output, dead units, or a baseline equal to the "
                "image); try another target, or integrated_gradients with another baseline"
            )
        if constant.any() and flat.shape[1] > 1:
            yield (
                f"the map is constant in {listed(constant, names)}: it locates nothing; try a "
                "method of finer resolution or an earlier layer"
            )


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass and without a tensor of flags.

    Examples:
        >>> all_finite(torch.tensor([0.0, 1.0])), all_finite(torch.tensor([0.0, torch.nan]))
        (True, False)
    """
    if not values.numel():
        return True
    return all(map(isfinite, map(Tensor.item, values.aminmax())))  # NaN is both


def listed(flags: Tensor, names: Sequence[str] = ()) -> str:
    """The flagged images, as text.

    Examples:
        >>> listed(torch.tensor([True, False, True]))
        'images 0, 2'
        >>> listed(torch.tensor([True, False, True]), ["cat.png", "dog.png", "owl.png"])
        'cat.png, owl.png'
    """
    found = flags.nonzero().flatten().tolist()
    chosen = [names[i] if names else str(i) for i in found[:5]]
    shown = ", ".join(chosen) + (", …" if len(found) > 5 else "")
    return shown if names else f"image{'s' if len(found) > 1 else ''} {shown}"


def outcome_of(
    result: Tensor | Attribution,
    inputs: Tensor,
    targets: Tensor,
    run: "Run",
    boxes: Tensor | None,
    count: int,
    outputs: Outputs,
) -> Outcome:
    """What a method returned for a chunk, checked and without the padding.

    Args:
        result: What the method returned.
        inputs: The padded chunk ``[batch, channel, height, width]``.
        targets: int64 ``[batch]``.
        run: The model's forward of the chunk.
        boxes: The boxes that an expression is about, ``[batch, boxes, 4]``.
        count: How many images are not padding.
        outputs: What the logits mean.

    Raises:
        MethodError: The map has the wrong type, shape or device, or is not finite.
    """
    found = Attribution.of(result)
    if boxes is not None:
        found = found.saying(boxes=boxes)

    def own(value: Any) -> Any:
        return value.detach()[:count] if isinstance(value, Tensor) else value

    return Outcome(
        values=_checked(found.values, inputs, found.at)[:count],
        target=targets[:count],
        score=own(run.scores.detach().gather(1, targets[:, None])[:, 0]),
        logits=own(run.logits),
        standard_error=own(found.standard_error),
        layer=found.layer,
        at=found.at,
        coverage=found.coverage,
        warnings=tuple(found.warnings),
        diagnostics={name: own(value) for name, value in found.diagnostics.items()},
        partial=found.partial,
        outputs=outputs,
        has_logits=run.has_logits,
    )


def _checked(values: object, inputs: Tensor, at: str | None) -> Tensor:
    """A method's map, detached, in the dtype of the inputs.

    Args:
        values: What the method returned.
        inputs: ``[batch, channel, height, width]``.
        at: The layer whose output the map explains; None if it explains the image.

    Raises:
        MethodError: It is not a finite map of the inputs.
    """
    batch, channels, *sizes = inputs.shape
    wanted = f"[{batch}, 1 or {channels}, {', '.join(map(str, sizes))}]"
    if not isinstance(values, Tensor):
        raise MethodError(f"expected a map {wanted} from the method, got {type(values).__name__}")
    shapes = {(batch, channels, *sizes), (batch, 1, *sizes)}
    if tuple(values.shape) not in shapes and (at is None or len(values) != batch):
        raise MethodError(f"expected a map {wanted} from the method, got {list(values.shape)}")
    if values.device != inputs.device:
        raise MethodError(f"expected a map on {inputs.device} from the method, got {values.device}")
    if not all_finite(values):
        wrong = ~torch.isfinite(values)
        raise MethodError(
            f"expected a finite map, got {int(wrong.sum())} values that are NaN or infinite in "
            f"{listed(wrong.flatten(1).any(1))}: a gradient overflows in this dtype, or the model "
            "divides by zero or takes a root of zero there; try float64"
        )
    return values.detach().to(inputs.dtype)


def joined(parts: list[Outcome]) -> Outcome:
    """Concatenates the outcomes of consecutive chunks."""
    if len(parts) == 1:
        return parts[0]

    def join(values: list[Any]) -> Any:
        if all(isinstance(value, Tensor) for value in values):
            return torch.cat(values)
        return values[0] if all(value == values[0] for value in values) else values

    names = dict.fromkeys(name for part in parts for name in part.diagnostics)
    own = ("values", "target", "score", "logits", "standard_error", "coverage")
    return replace(
        parts[0],
        warnings=tuple(dict.fromkeys(text for part in parts for text in part.warnings)),
        diagnostics={name: join([p.diagnostics.get(name) for p in parts]) for name in names},
        partial=any(part.partial for part in parts),
        **{name: join([getattr(part, name) for part in parts]) for name in own},
    )
