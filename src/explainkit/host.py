"""Running one method on one model: the checks before, the chunks, the checks after."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.adapter import Adapter, Forward
from explainkit.batching import chunk_size, out_of_memory
from explainkit.errors import InputError, MethodError, ModelError, TargetError
from explainkit.expressions import Expression, parse
from explainkit.graph.tail import Tail, tail
from explainkit.graph.tape import recording, refuse_scripted
from explainkit.layers import capture, single
from explainkit.outputs import as_targets
from explainkit.passes import Needs, needs_of, twice_differentiable
from explainkit.types import Attribution, Method, ModelSpec, Target

_PLAIN = {RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError}

SATURATED = 1e-4
"""An output this close to 0 or 1 hardly has a gradient left."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method gave for some images, checked.

    Attributes:
        values: The map ``[batch, channel or 1, height, width]``.
        target: int64 ``[batch]``.
        score: ``[batch]``.
        logits: ``[batch, classes]``.
        diagnostics: What the method reports.
        warnings: The method's own remarks.
    """

    values: Tensor
    target: Tensor
    score: Tensor
    logits: Tensor
    diagnostics: dict[str, Any]
    warnings: list[str]

    def remarks(self, module: nn.Module) -> list[str]:
        """What a reader of the maps must know, each with its remedy."""
        return [*self.warnings, *self._saturation(module), *self._flatness()]

    def _saturation(self, module: nn.Module) -> Iterator[str]:
        logits, score = self.logits.float(), self.score.float()
        if not ((logits >= 0) & (logits <= 1)).all():
            return
        last = [m for m in module.modules() if isinstance(m, nn.Sigmoid | nn.Softmax)]
        layer = f"the final {type(last[-1]).__name__}" if last else "the final softmax or sigmoid"
        sums_to_one = logits.shape[1] > 1 and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
        # a rectifier's exact zero is no saturation, a squashed output's is
        low = (score < SATURATED) & ((score > 0) | bool(last) | sums_to_one)
        saturated = int((low | (score > 1 - SATURATED)).sum())
        if saturated:
            yield (
                f"the target's output is saturated in {saturated} of {len(score)} images, so its "
                f"gradient all but vanishes: explain the model without {layer}, on its "
                "pre-activation"
            )
        elif sums_to_one:
            yield (
                f"the model returns probabilities: explain it without {layer}, on its logits, "
                "since a probability also moves with the other classes"
            )

    def _flatness(self) -> Iterator[str]:
        flat = self.values.flatten(1)
        zero = ~(flat != 0).any(1)
        constant = (flat == flat[:, :1]).all(1) & ~zero
        if zero.any():
            yield (
                f"the map is zero everywhere in {_listed(zero)}: the score does not change with "
                "these images (a saturated output, dead units, or a baseline equal to the image); "
                "try another target, or integrated_gradients with another baseline"
            )
        if constant.any() and flat.shape[1] > 1:
            yield (
                f"the map is the same everywhere in {_listed(constant)}: it shows no place; try a "
                "method of finer resolution or an earlier layer"
            )


def _listed(flags: Tensor) -> str:
    """Which images, in words."""
    found = flags.nonzero().flatten().tolist()
    shown = ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")
    return f"image{'s' if len(found) > 1 else ''} {shown}"


def check_inputs(module: nn.Module, inputs: object, spec: ModelSpec | None) -> None:
    """Refuses what a model can't be asked about.

    Raises:
        InputError: One line that says what was expected, what came, and what to do.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"expected a model's name or a torch.nn.Module, got {type(module).__name__}"
        )
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"expected a torch.Tensor [batch, channel, height, width], got "
            f"{type(inputs).__name__}: torch.as_tensor makes one"
        )
    shape = list(inputs.shape)
    if inputs.dim() != 4:
        hint = "; inputs[None] adds the batch axis" if inputs.dim() == 3 else ""
        raise InputError(f"expected images [batch, channel, height, width], got {shape}{hint}")
    if not inputs.numel():
        raise InputError(f"expected at least one image with at least one pixel, got {shape}")
    if not inputs.is_floating_point():
        raise InputError(
            f"expected floating images, got {str(inputs.dtype).removeprefix('torch.')}: convert "
            "and normalise them as the model was trained, e.g. (inputs.float() / 255 - mean) / std"
        )
    if spec and tuple(shape[1:]) != spec.image_shape:
        raise InputError(
            f"expected images [batch, {', '.join(map(str, spec.image_shape))}] for this model, "
            f"got {shape}"
        )
    first = next(
        (p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), None
    )
    if first is not None and first.device != inputs.device:
        raise InputError(
            f"expected inputs on the model's device {first.device}, got {inputs.device}: "
            f"inputs.to({str(first.device)!r})"
        )
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(dtypes) == 1 and inputs.dtype not in dtypes and not torch.is_autocast_enabled():
        (dtype,) = dtypes
        raise InputError(
            f"expected inputs in the model's dtype {dtype}, got {inputs.dtype}: inputs.to({dtype})"
        )
    if inputs.device.type == "meta":
        raise InputError("expected images with values, got a tensor on the meta device")
    wrong = ~torch.isfinite(inputs)
    if wrong.any():
        image, channel, row, column = wrong.nonzero()[0].tolist()
        raise InputError(
            f"expected finite pixels, got {int(wrong.sum())} that are NaN or infinite (first in "
            f"image {image}, channel {channel}, row {row}, column {column}): "
            "torch.nan_to_num replaces them"
        )


def check_target(target: object, count: int) -> None:
    """Refuses a tensor of targets that doesn't have one for each image.

    Raises:
        TargetError: The shape doesn't fit.
    """
    if isinstance(target, Tensor) and target.dim() and target.shape != (count,):
        raise TargetError(f"expected one target per image, [{count}], got {list(target.shape)}")


def as_target(target: Target, class_names: Sequence[str]) -> Target:
    """A target with the text of an expression read; a class of that very name comes first.

    Raises:
        TargetError: A text that is no expression.

    Examples:
        >>> as_target('logit(1) - logit(0)', ())
        Subtract(left=Logit(target=1), right=Logit(target=0))
        >>> as_target("sad", ("happy", "sad"))
        'sad'
    """
    text = isinstance(target, str) and target != "all"
    known = {name.casefold() for name in class_names}
    if isinstance(target, str) and text and target.casefold() not in known and "(" in target:
        return parse(target)
    return target


def run_all(
    methods: Sequence[Method],
    module: nn.Module,
    images: Tensor,
    targets: Sequence[Target],
    class_names: Sequence[str],
    batch_size: int | None,
    at: str | None = None,
) -> list[list[tuple[Outcome, str | None]]]:
    """Runs methods on targets of every kind, sharing passes between all that can share them.

    Classes share a forward with each other; an expression or a function has one of its own.

    Args:
        methods: Ready to be called.
        module: The caller's model.
        images: ``[batch, channel, height, width]``.
        targets: Of any kind, ``"all"`` among them.
        class_names: In the order of the logits.
        batch_size: Images run at once, or None.
        at: The layer whose output is explained instead of the images.

    Returns:
        For each method each target's outcome, with the text of the expression that it explains.
    """
    groups: list[tuple[Any, list[Target]]] = []
    for target in targets:
        if callable(target) or isinstance(target, Expression):
            groups.append((target, [None]))
        elif groups and groups[-1][0] is None:
            groups[-1][1].append(target)
        else:
            groups.append((None, [target]))
    found: list[list[tuple[Outcome, str | None]]] = [[] for _ in methods]
    for score, members in groups:
        adapter = Adapter(module, score, batch_size, class_names)
        every: list[Target] = []
        for target in members:
            if isinstance(target, str) and target == "all":
                with failing_as_model_error(module, images), torch.no_grad():
                    every += range(adapter(images[:1]).shape[1])
            else:
                every.append(target)
        if at is None:
            per_method = run(methods, adapter, images, every, class_names)
        else:
            per_method = run_at(at, methods, module, score, images, every, class_names)
        text = str(score) if isinstance(score, Expression) else None
        for place in range(len(methods)):
            block = per_method[place * len(every) : (place + 1) * len(every)]
            found[place] += [(outcome, text) for outcome in block]
    return found


class _After(nn.Module):
    """What a model does after a layer, for variants of the layer's output on one image.

    The output is presented as an image ``[n, channel, height, width]``, whatever its axes.
    """

    def __init__(self, part: Tail, shape: torch.Size) -> None:
        super().__init__()
        self.part = part
        self.shape = shape

    def forward(self, values: Tensor) -> Any:
        """The model's own output."""
        count = len(values)
        of = torch.zeros(count, dtype=torch.int64, device=values.device)
        return self.part.run(values.reshape(count, *self.shape), of)


def run_at(
    layer: str,
    methods: Sequence[Method],
    module: nn.Module,
    score: Any,
    images: Tensor,
    targets: Sequence[Target],
    class_names: Sequence[str],
) -> list[Outcome]:
    """Runs methods on a layer's output: the rest of the model is theirs, the output their image.

    One image after the other, so that whatever a method runs belongs to the image at hand, also
    where the rest of the model uses more of the image than the layer's output.

    Returns:
        As `run`; the maps have the layer's shape.

    Raises:
        ModelError: No such layer, or its output has no batch axis.
    """
    with failing_as_model_error(module, images):
        part = tail(module, layer, images)
    parts = []
    for i in range(len(images)):
        with failing_as_model_error(module, images), torch.no_grad():
            value = part.value(images[i : i + 1])
        shape = value.shape[1:]
        after = _After(part, shape)
        adapter = Adapter(after, score, None, class_names, owner=module)
        chosen = [t[i : i + 1] if isinstance(t, Tensor) and t.dim() else t for t in targets]
        image = value.reshape(1, *[1] * (3 - len(shape)), *shape) if len(shape) <= 3 else value
        outcomes = run(methods, adapter, image, chosen, class_names)
        parts.append([replace(o, values=o.values.reshape(1, -1, *shape[1:])) for o in outcomes])
    return [_joined(list(found)) for found in zip(*parts, strict=True)]


def run(
    methods: Sequence[Method],
    adapter: Adapter,
    images: Tensor,
    targets: Sequence[Target],
    class_names: Sequence[str],
) -> list[Outcome]:
    """Runs methods over chunks of one size, the last padded, halving it when memory runs out.

    All of them share one forward per chunk, and what else they declare that they need.

    Returns:
        For each method, one after the other, the outcome of each target.

    Raises:
        ModelError: The model fails on the images, or its output is not finite.
        TargetError: A target names nothing that the output has.
        MethodError: A method's map has the wrong shape or is not finite.
    """
    count = len(images)
    size = adapter.batch_size or _balanced(adapter, images)
    while True:
        try:
            chunks = [
                _run_chunk(methods, adapter, images, targets, class_names, start, size)
                for start in range(0, count, size)
            ]
            return [_joined(list(parts)) for parts in zip(*chunks, strict=True)]
        except RuntimeError as error:
            if size == 1 or not out_of_memory(error):
                raise
        finally:
            adapter.hold(None)
        size = size // 2
        adapter.batch_size = size


def _balanced(adapter: Adapter, images: Tensor) -> int:
    """The smallest chunk that needs no more chunks than the largest that fits the budget."""
    count = len(images)
    if count == 1:
        return 1
    with failing_as_model_error(adapter.module, images):
        most = chunk_size(adapter, images[0])
    return -(-count // -(-count // most))


def _run_chunk(
    methods: Sequence[Method],
    adapter: Adapter,
    images: Tensor,
    targets: Sequence[Target],
    class_names: Sequence[str],
    start: int,
    size: int,
) -> list[Outcome]:
    count = min(size, len(images) - start)
    inputs = _padded(images, start, size).requires_grad_()
    adapter.shared = len(methods) * len(targets) > 1
    with failing_as_model_error(adapter.module, images):
        needs = reduce(or_, (needs_of(m, adapter.owner, inputs) for m in methods), Needs())
        forward, logits = _forward(adapter, inputs, needs)
    scores = forward.scores
    if not torch.isfinite(logits).all():
        raise ModelError(
            "expected finite outputs from the model, got NaN or infinity for "
            f"{_listed(~torch.isfinite(logits[:count]).all(1))} on finite inputs: check its "
            "weights and its dtype"
        )
    resolved = []
    for target in targets:
        if isinstance(target, Tensor) and target.dim():
            target = _padded(target, start, size)
        resolved.append(as_targets(target, scores, class_names))
    outcomes = []
    for method in methods:
        method = _for_rows(method, len(images), start, size)
        for chosen in resolved:
            adapter.hold(forward)
            result = method(adapter, inputs, chosen)
            outcomes.append(_outcome(result, inputs, chosen, scores, logits, count))
    return outcomes


_PER_IMAGE = {"baseline": 4, "segments": 3}
"""Fields that may hold one value per image, and how many axes they have then."""


def _for_rows(method: Method, count: int, start: int, size: int) -> Method:
    """A method, and those inside it, with what they hold per image cut to a chunk's images."""
    changes: dict[str, Any] = {}
    for field in fields(method):
        value = getattr(method, field.name)
        if is_dataclass(value) and not isinstance(value, type) and callable(value):
            changes[field.name] = _for_rows(value, count, start, size)
        elif isinstance(value, Tensor) and value.dim() == _PER_IMAGE.get(field.name):
            if len(value) != count:
                raise MethodError(
                    f"{field.name}: expected one for all images or one per image, "
                    f"{list(value.shape[1:])} or {[count, *value.shape[1:]]}, got "
                    f"{list(value.shape)}"
                )
            changes[field.name] = _padded(value, start, size)
    return replace(method, **changes) if changes else method


def _forward(adapter: Adapter, inputs: Tensor, needs: Needs) -> tuple[Forward, Tensor]:
    """The one forward of a chunk, with everything gathered that the methods read of it."""
    with ExitStack() as stack:
        calls = stack.enter_context(capture(adapter.owner, needs.layers))
        if needs.twice:
            stack.enter_context(twice_differentiable())
        tape = None
        if needs.values is not None:
            refuse_scripted(adapter.owner)
            tape = stack.enter_context(recording(needs.values))
        scores, logits = adapter.run(inputs)
    activations = {path: single(calls[path], path) for path in needs.layers}
    records = tape.records if tape else None
    return Forward(inputs, scores, needs, activations, records), logits


def _outcome(
    result: Tensor | Attribution,
    inputs: Tensor,
    targets: Tensor,
    scores: Tensor,
    logits: Tensor,
    count: int,
) -> Outcome:
    """What a method gave for a chunk, checked, without the padding."""
    attribution = result if isinstance(result, Attribution) else Attribution(result)
    diagnostics = dict(attribution.diagnostics)
    if attribution.standard_error is not None:
        diagnostics["standard_error"] = attribution.standard_error
    if attribution.partial:
        diagnostics["partial"] = True
    return Outcome(
        values=_checked(attribution.values, inputs, diagnostics.get("at"))[:count],
        target=targets[:count],
        score=scores.detach().gather(1, targets[:, None])[:count, 0],
        logits=logits.detach()[:count],
        warnings=list(diagnostics.pop("warnings", [])),
        diagnostics={
            name: value.detach()[:count] if isinstance(value, Tensor) else value
            for name, value in diagnostics.items()
        },
    )


def _padded(tensor: Tensor, start: int, size: int) -> Tensor:
    """A private copy of ``size`` rows; past the end the last is repeated."""
    rows = tensor[start : start + size]
    missing = size - len(rows)
    if missing:
        rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
    return rows.clone()


def _checked(values: object, inputs: Tensor, at: str | None) -> Tensor:
    """A method's map, detached, in the dtype of the inputs.

    Args:
        values: What the method gave.
        inputs: ``[batch, channel, height, width]``.
        at: The layer that the map is of, where it is not of the image.

    Raises:
        MethodError: It is not a finite map of the inputs.
    """
    batch, channels, height, width = inputs.shape
    wanted = f"[{batch}, 1 or {channels}, {height}, {width}]"
    if not isinstance(values, Tensor):
        raise MethodError(f"expected from the method a map {wanted}, got {type(values).__name__}")
    shapes = {(batch, channels, height, width), (batch, 1, height, width)}
    if values.shape not in shapes and (at is None or len(values) != batch):
        raise MethodError(f"expected from the method a map {wanted}, got {list(values.shape)}")
    if values.device != inputs.device:
        raise MethodError(f"expected from the method a map on {inputs.device}, got {values.device}")
    wrong = ~torch.isfinite(values)
    if wrong.any():
        raise MethodError(
            f"expected a finite map, got {int(wrong.sum())} values that are NaN or infinite in "
            f"{_listed(wrong.flatten(1).any(1))}: a gradient overflows in this dtype, or the model "
            "divides by zero or takes a root of zero there; try float64"
        )
    return values.detach().to(inputs.dtype)


def _joined(parts: list[Outcome]) -> Outcome:
    if len(parts) == 1:
        return parts[0]

    def join(name: str) -> Any:
        values = [part.diagnostics.get(name) for part in parts]
        if all(isinstance(value, Tensor) for value in values):
            return torch.cat(values)  # type: ignore[arg-type]
        return values[0] if all(value == values[0] for value in values) else values

    names = dict.fromkeys(name for part in parts for name in part.diagnostics)
    return Outcome(
        values=torch.cat([part.values for part in parts]),
        target=torch.cat([part.target for part in parts]),
        score=torch.cat([part.score for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        diagnostics={name: join(name) for name in names},
        warnings=list(dict.fromkeys(remark for part in parts for remark in part.warnings)),
    )


@contextmanager
def failing_as_model_error(module: nn.Module, images: Tensor) -> Iterator[None]:
    """Turns what torch raises about shapes and types into one line about model and images."""
    try:
        yield
    except Exception as error:
        # a subclass is somebody's own error and says what it means
        if type(error) not in _PLAIN or out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(module).__name__} failed on images {list(images.shape)} "
            f"{str(images.dtype).removeprefix('torch.')}: {reason}"
        ) from error
