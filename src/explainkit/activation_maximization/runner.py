"""Running one maximizer on one model: the units, the restarts, the chunks, the record."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from explainkit.activation_maximization.activations import (
    ActivationReader,
    ChannelStatistics,
    channel_statistics_of,
)
from explainkit.activation_maximization.problem import OptimizedImages, Problem
from explainkit.activation_maximization.request import (
    Request,
    Setting,
    as_objectives,
    check_image,
    check_shape,
)
from explainkit.engine.batching import chunk_size
from explainkit.engine.runner import failing_as_model_error
from explainkit.errors import MethodError, ModelError
from explainkit.expressions import Expression, alpha, diversity, evaluate_each
from explainkit.interfaces import Maximizer, ModelSpec
from explainkit.isolation import preserve_model, preserve_process
from explainkit.progress import progress
from explainkit.results.visualization import Visualization, has_converged, ranked

WIDEST = 8
"""Images optimized at once on a CPU: few enough that a layer stays in the cache, and that
one unit alone, which is padded to it, stays cheap."""

WIDEST_ON_DEVICE = 64
"""Images optimized at once on an accelerator."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a maximizer gave for some units, the best start of each.

    Attributes:
        objectives: One expression per unit.
        images: ``[unit, channel, height, width]``.
        opacity: ``[unit, 1, height, width]``; 0 where dead.
        score: Of each image without transforms, ``[unit]``; NaN where dead.
        trace: ``[step, unit]``.
        dead: bool ``[unit]``.
        frames: ``[frame, unit, channel, height, width]``.
        frame_steps: The steps at which they were kept.
        layer: The inner layer, where there is exactly one and no logit.
    """

    objectives: list[Expression]
    images: Tensor
    opacity: Tensor
    score: Tensor
    trace: Tensor
    dead: Tensor
    frames: Tensor
    frame_steps: list[int]
    layer: str | None


def visualize(
    module: nn.Module,
    maximizer: Maximizer,
    request: Request,
    spec: ModelSpec | None,
    class_names: tuple[str, ...],
) -> Visualization:
    """Checks a request, guards the model, maximizes, and records what came.

    Raises:
        InputError: The shape can't be told, or images of another shape.
        ModelError: The model fails on images of that shape, or its output isn't finite.
        TargetError: An objective names nothing that the model has.
        MethodError: The maximizer refuses the problem, or returns something that isn't images.
    """
    objectives = as_objectives(request.objective)
    start = check_image("start", request.start, 3)
    images = check_image("dataset", request.dataset, 4)
    weights = [p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()]
    like = weights[0].detach() if weights else torch.zeros(())
    setting = Setting(
        module=module,
        shape=check_shape(request.shape, spec, start, images),
        class_names=class_names,
        seed=request.seed,
        restarts=request.restarts,
        frames=request.frames,
        batch_size=request.batch_size,
        dtype=like.dtype,
        device=like.device,
    )
    remarks = []
    with (
        preserve_process(request.seed),
        preserve_model(module, keep_mode=request.keep_mode) as training,
    ):
        if training and not request.keep_mode:
            remarks.append(
                "the model was in train mode: maximized in eval mode and put back "
                "(keep_mode=True leaves dropout and batch statistics on)"
            )
        found = maximize_all(
            maximizer, objectives, setting.ready(start, images, spec), negative=request.negative
        )
    dead = int(found.dead.sum())
    if dead:
        remarks.append(
            f"{dead} of {len(found.dead)} units answer to no image at all: they are listed in "
            ".dead and not drawn"
        )
    return Visualization(
        images=found.images,
        opacity=found.opacity,
        objective=tuple(map(str, found.objectives)),
        score=found.score,
        trace=found.trace,
        rank=ranked(found.score, found.dead),
        dead=found.dead,
        converged=has_converged(found.trace) & ~found.dead,
        maximizer="",
        params={f.name: getattr(maximizer, f.name) for f in fields(maximizer)}
        | {"restarts": request.restarts, "negative": request.negative},
        model="",
        layer=found.layer,
        seed=request.seed,
        class_names=class_names,
        mean=spec.mean if spec else None,
        std=spec.std if spec else None,
        frames=found.frames,
        diagnostics={"frame_steps": found.frame_steps} | ({"warnings": remarks} if remarks else {}),
    )


def maximize_all(
    maximizer: Maximizer,
    objectives: Sequence[Expression],
    setting: Setting,
    *,
    negative: bool,
) -> Found:
    """Runs a maximizer for every unit of every objective.

    Units are optimized in chunks of one fixed size, the last padded with copies, so that a unit's
    image is the same to the bit whichever others are asked for. Each unit draws from a generator
    seeded with the seed, its objective's text and the number of the start.

    Args:
        maximizer: The way to maximize.
        objectives: Families are written out.
        setting: What all images share; the model is frozen and in eval mode.
        negative: Also minimize each, as an objective of its own.

    Raises:
        ModelError: The model fails on images of that shape, or its output isn't finite.
        TargetError: An objective names nothing that the model has.
        MethodError: The maximizer returns something that isn't images.
    """
    setting = replace(setting, channel_statistics=_moments(objectives, setting))
    units = _units(objectives, setting, negative=negative)
    tries = [(unit, start) for unit in range(len(units)) for start in range(setting.restarts)]
    steps = getattr(maximizer, "steps", 1)
    keep = sorted({round(i * steps / max(setting.frames - 1, 1)) for i in range(setting.frames)})
    best: dict[int, tuple[float, tuple[Tensor, ...]]] = {}
    _climb(maximizer, units, tries, setting, keep, best)
    if setting.start is None and not any(map(_differs, units)):
        flats = _flats(units, setting)
        behind = {
            unit: flat
            for unit, (score, flat) in enumerate(flats)
            if best[unit][0] == -math.inf or score > float(best[unit][1][2])
        }
        again = [(unit, setting.restarts) for unit in behind]
        _climb(maximizer, units, again, setting, keep, best, behind)
    kept = [best[unit][1] for unit in range(len(units))]
    images, opacities, scores, traces, ways = (list(column) for column in zip(*kept, strict=True))
    dead = torch.tensor([best[unit][0] == -math.inf for unit in range(len(units))])
    blank = _blank(setting)
    layers = sorted({layer for unit in units for layer in unit.layers})
    single = len(layers) == 1 and not any(unit.uses_logits for unit in units)
    return Found(
        objectives=units,
        images=torch.stack([blank if d else i for d, i in zip(dead, images, strict=True)]),
        opacity=torch.stack(opacities).masked_fill(
            dead.to(setting.device)[:, None, None, None], 0.0
        ),
        score=torch.stack(scores).masked_fill(dead.to(setting.device), math.nan),
        trace=torch.stack(traces, 1),
        dead=dead,
        frames=torch.stack(ways, 1),
        frame_steps=keep,
        layer=layers[0] if single else None,
    )


def _climb(
    maximizer: Maximizer,
    units: Sequence[Expression],
    tries: Sequence[tuple[int, int]],
    setting: Setting,
    keep: Sequence[int],
    best: dict[int, tuple[float, tuple[Tensor, ...]]],
    flats: Mapping[int, Tensor] | None = None,
) -> None:
    """Runs each try, a unit and the number of a start, and keeps what is the unit's best so far."""
    chunks = list(_chunks(units, tries, setting))
    what = "maximize" if flats is None else "maximize from flat images"
    with progress(what, len(chunks) * getattr(maximizer, "steps", 1)) as advance:
        for members, size, reading in chunks:
            rows = [tries[i] for i in members]
            rows += [rows[-1]] * (size - len(rows))
            flat = None if flats is None else torch.stack([flats[unit] for unit, _ in rows])
            chosen, restarts = [units[unit] for unit, _ in rows], [start for _, start in rows]
            ascent, score = _run(
                maximizer, reading, chosen, restarts, setting, keep, flat, lambda: advance(1, "")
            )
            opacity = ascent.opacity
            if opacity is None:
                opacity = torch.ones_like(ascent.images[:, :1])
            for row, (unit, _) in enumerate(rows[: len(members)]):
                merit = _merit(ascent.trace[:, row]) if bool(ascent.moved[row]) else -math.inf
                if unit not in best or merit > best[unit][0]:
                    traced = ascent.trace[:, row], ascent.frames[:, row]
                    best[unit] = merit, (ascent.images[row], opacity[row], score[row], *traced)


def _flats(units: Sequence[Expression], setting: Setting) -> list[tuple[float, Tensor]]:
    """Per unit, the score of the flat image that it answers to most, and that image.

    The candidates are the darkest, the middle and the brightest valid one, or −1, 0 and 1.
    """
    middle = _blank(setting)[:, :1, :1]
    init_std = torch.ones_like(middle) if setting.low is None else setting.low - middle
    shades = torch.stack([middle, middle + init_std, middle - init_std])
    images = shades.expand(-1, *setting.shape).to(setting.dtype)
    found = []
    with torch.no_grad():
        scopes = {}
        for unit in units:
            if unit.form not in scopes:
                scopes[unit.form] = _reading(unit, setting).scope(
                    images,
                    images,
                    setting.class_names,
                    None,
                    channel_statistics=setting.channel_statistics,
                )
            scores = evaluate_each([unit] * len(images), scopes[unit.form])
            scores = scores.to(setting.precision).nan_to_num(-math.inf)
            found.append((float(scores.max()), shades[int(scores.argmax())]))
    return found


def _blank(setting: Setting) -> Tensor:
    """What stands for a dead unit: the middle of the valid range, or zero."""
    blank = torch.zeros(setting.shape, dtype=setting.precision, device=setting.device)
    if setting.low is not None and setting.high is not None:
        blank = blank + (setting.low + setting.high) / 2
    return blank


def _merit(trace: Tensor) -> float:
    """The mean objective over the last tenth of the steps, under their transforms."""
    return float(trace[-max(1, len(trace) // 10) :].double().mean())


def _moments(objectives: Sequence[Expression], setting: Setting) -> ChannelStatistics | None:
    """What the layers that the objectives standardize say of the data set, if there is one."""
    layers = sorted({layer for one in objectives for layer in one.z_scored})
    if setting.images is None or not layers:
        return None
    images = setting.images.to(setting.device, setting.dtype)
    with failing_as_model_error(setting.module, images[:1]):
        return channel_statistics_of(setting.module, layers, images)


def _units(
    objectives: Sequence[Expression], setting: Setting, *, negative: bool
) -> list[Expression]:
    """All objectives, families written out, each checked on one image."""
    layers = sorted({layer for one in objectives for layer in one.layers})
    logits = any(one.uses_logits for one in objectives)
    reading = ActivationReader(setting.module, layers, logits=logits)
    example = torch.zeros((1, *setting.shape), dtype=setting.dtype, device=setting.device)
    with failing_as_model_error(setting.module, example):
        classes, channels = reading.probe(example)
    units = [unit for one in objectives for unit in one.expand(channels, classes)]
    if negative:
        units = [signed for unit in units for signed in (unit, -unit)]
    with torch.no_grad():
        scope = reading.scope(
            example, example, setting.class_names, _reference(reading, setting),
            channel_statistics=setting.channel_statistics,
        )  # fmt: skip
        for unit in units:
            evaluate_each([unit], scope)
    return units


def _chunks(
    units: Sequence[Expression], tries: Sequence[tuple[int, int]], setting: Setting
) -> Iterator[tuple[list[int], int, ActivationReader]]:
    """Tries that run together, the size to which they are padded, and how their model is read.

    Only expressions of one form share a chunk; a unit whose images shall differ from each other
    shares it with nobody.
    """
    forms: dict[tuple[Expression | None, object], list[int]] = {}
    for i, (unit, _) in enumerate(tries):
        alone = units[unit] if _differs(units[unit]) else None
        forms.setdefault((alone, units[unit].form), []).append(i)
    for (alone, _), members in forms.items():
        reading = _reading(units[tries[members[0]][0]], setting)
        size = setting.restarts if alone is not None else _size(reading, setting)
        noise = torch.randn((2, *setting.shape), generator=torch.Generator().manual_seed(0))
        noise = noise.to(setting.device, setting.dtype)
        reading = reading.narrowed(noise[0]).in_channels_last(noise)
        for i in range(0, len(members), size):
            yield members[i : i + size], size, reading


def _differs(unit: Expression) -> bool:
    """Whether a unit's images shall differ from each other."""
    return any(isinstance(node, diversity) for node in unit.walk())


def _reading(unit: Expression, setting: Setting) -> ActivationReader:
    return ActivationReader(setting.module, sorted(unit.layers), logits=unit.uses_logits)


def _size(reading: ActivationReader, setting: Setting) -> int:
    """How many images to optimize at once; it depends on model, layer and shape alone."""
    if setting.batch_size is not None:
        return setting.batch_size
    example = torch.zeros(setting.shape, dtype=setting.dtype, device=setting.device)
    widest = WIDEST if setting.device.type == "cpu" else WIDEST_ON_DEVICE
    return min(chunk_size(reading, example), widest)


def _reference(reading: ActivationReader, setting: Setting) -> Mapping[str, Tensor] | None:
    """What the layers put out for the image to start from."""
    if setting.start is None:
        return None
    with torch.no_grad():
        _, activations = reading(setting.start[None].to(setting.dtype))
    return activations  # type: ignore[no-any-return]


def _run(
    maximizer: Maximizer,
    reading: ActivationReader,
    units: Sequence[Expression],
    restarts: Sequence[int],
    setting: Setting,
    keep: Sequence[int],
    flat: Tensor | None,
    done: Callable[[], None],
) -> tuple[OptimizedImages, Tensor]:
    """One chunk: what the maximizer found, and the objective at its images ``[unit]``."""
    reference = _reference(reading, setting)
    transparent = any(isinstance(node, alpha) for node in units[0].walk())

    def score(shown: Tensor, images: Tensor, opacity: Tensor | None = None) -> Tensor:
        with failing_as_model_error(setting.module, shown):
            scope = reading.scope(
                shown.to(setting.dtype), images, setting.class_names, reference, opacity,
                setting.channel_statistics, sparing=True,
            )  # fmt: skip
        found = evaluate_each(units, scope).to(setting.precision)
        if not bool(torch.isfinite(found).all()):
            raise ModelError(
                f"expected a finite objective, got {found[~found.isfinite()][0].item()} for "
                f"{units[int((~found.isfinite()).nonzero()[0])]}: the model overflows, or the "
                "objective divides by zero"
            )
        return found

    ascent = maximizer(
        Problem(
            score=score,
            shape=setting.shape,
            generators=[
                _generator(setting.seed, unit, start)
                for unit, start in zip(units, restarts, strict=True)
            ],
            start=setting.start,
            flat=flat,
            transparent=transparent,
            low=setting.low,
            high=setting.high,
            statistics=setting.statistics,
            keep=frozenset(keep),
            progress=done,
            dtype=setting.precision,
            device=setting.device,
        )
    )
    wanted = (len(units), *setting.shape)
    if not isinstance(ascent, OptimizedImages) or tuple(ascent.images.shape) != wanted:
        shape = (
            list(ascent.images.shape)
            if isinstance(ascent, OptimizedImages)
            else type(ascent).__name__
        )
        raise MethodError(f"expected from the maximizer images {list(wanted)}, got {shape}")
    if transparent and ascent.opacity is None:
        raise MethodError(
            f"{units[0]}: {type(maximizer).__name__} finds no opacity: leave alpha() out, or take "
            "another maximizer"
        )
    if not bool(torch.isfinite(ascent.images).all()):
        raise MethodError("expected finite images from the maximizer: a smaller lr may help")
    with torch.no_grad():
        return ascent, score(ascent.images, ascent.images, ascent.opacity)


def _generator(seed: int, unit: Expression, start: int) -> torch.Generator:
    """A unit's own source of random numbers, whatever stands beside it."""
    digest = hashlib.sha256(f"{seed} {start} {unit}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
