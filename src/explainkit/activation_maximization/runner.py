"""Runs a maximizer on a model: units, restarts, batches, and the recorded result."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from explainkit.activation_maximization.activations import (
    ActivationReader,
    ChannelStatistics,
    channel_statistics_of,
)
from explainkit.activation_maximization.problem import OptimizedImages, Problem
from explainkit.activation_maximization.request import Request, Setting, as_objectives
from explainkit.engine.batching import chunk_size
from explainkit.engine.failures import failing_as_model_error, naming_missing_memory
from explainkit.errors import MethodError, ModelError
from explainkit.expressions import Expression, alpha, diversity, evaluate_each
from explainkit.interfaces import Maximizer, ModelSpec
from explainkit.isolation import preserve_model, preserve_process, without_autocast_warning
from explainkit.progress import progress
from explainkit.results.visualization import Visualization, has_converged, ranked
from explainkit.scores import Outputs

WIDEST = 8
"""Maximum batch size on a CPU. Batches are padded to full size, so a small one keeps a single unit
cheap; it also keeps a layer's activations in the cache."""

WIDEST_ON_DEVICE = 64
"""Maximum batch size on an accelerator."""


def visualize(
    module: nn.Module,
    maximizer: Maximizer,
    request: Request,
    spec: ModelSpec | None,
    outputs: Outputs,
) -> Visualization:
    """Validates a request, and runs the maximizer on the preserved model."""
    objectives = as_objectives(request.objective)
    with (
        preserve_process(request.seed),
        preserve_model(module, keep_mode=request.keep_mode, seed=request.seed) as (_, training),
        naming_missing_memory(module, "use a smaller batch_size= or shape="),
    ):
        setting = Setting.of(request, module, spec, outputs)
        found = maximize_all(maximizer, objectives, setting)
    warnings = without_autocast_warning(setting.device, setting.dtype)
    if training and not request.keep_mode:
        warnings.append(
            "the model was in train mode: it ran in eval mode and was restored "
            "(keep_mode=True keeps dropout and batch statistics active)"
        )
    if dead := int(found.dead.sum()):
        warnings.append(
            f"{dead} of {len(found.dead)} units are dead: no image was found that activates them; "
            "see .dead"
        )
    told = {"warnings": warnings} if warnings else {}
    return replace(found, diagnostics={**found.diagnostics, **told})


def maximize_all(
    maximizer: Maximizer, objectives: Sequence[Expression], setting: Setting
) -> Visualization:
    """Runs a maximizer for every unit of every objective.

    Units are optimized in batches of fixed size, the last padded with copies, so that a unit's
    image is bit-identical whichever other units are requested. Each unit has a generator seeded
    from the seed, the objective's text and the number of the restart.

    Units whose best run scores below the best uniform image (black, mid-gray or white) are
    optimized once more, starting from that image.
    """
    request, spec = setting.request, setting.spec
    setting = replace(setting, channel_statistics=_channel_statistics(objectives, setting))
    units = _units(objectives, setting)
    runs = [(unit, start) for unit in range(len(units)) for start in range(request.restarts)]
    steps, frames = getattr(maximizer, "steps", 1), request.frames
    keep = sorted({round(i * steps / max(frames - 1, 1)) for i in range(frames)})
    best: dict[int, tuple[float, tuple[Tensor, ...]]] = {}
    _optimize(maximizer, units, runs, setting, keep, best)
    if setting.start is None and not any(map(_is_diverse, units)):
        uniform = _best_uniform(units, setting)
        below = {
            unit: flat
            for unit, (score, flat) in enumerate(uniform)
            if best[unit][0] == -math.inf or score > float(best[unit][1][2])
        }
        again = [(unit, request.restarts) for unit in below]
        _optimize(maximizer, units, again, setting, keep, best, below)
    columns = [best[unit][1] for unit in range(len(units))]
    images, opacities, scores, traces, stills = map(list, zip(*columns, strict=True))
    dead = torch.tensor([best[unit][0] == -math.inf for unit in range(len(units))])
    hidden, blank = dead.to(setting.device), _blank(setting)
    score, trace = torch.stack(scores).masked_fill(hidden, math.nan), torch.stack(traces, 1)
    layers = sorted({layer for unit in units for layer in unit.layers})
    whole = any(unit.uses_logits or unit.uses_output for unit in units)
    single = len(layers) == 1 and not whole
    return Visualization(
        images=torch.stack([blank if d else i for d, i in zip(dead, images, strict=True)]),
        opacity=torch.stack(opacities).masked_fill(hidden[:, None, None, None], 0.0),
        objective=tuple(map(str, units)),
        score=score,
        trace=trace,
        rank=ranked(score, dead),
        dead=dead,
        converged=has_converged(trace) & ~dead,
        maximizer="",
        params={f.name: getattr(maximizer, f.name) for f in fields(maximizer)}
        | {"restarts": request.restarts, "negative": request.negative},
        model="",
        layer=layers[0] if single else None,
        seed=request.seed,
        task=setting.outputs.task,
        output=setting.outputs.output,
        class_names=setting.outputs.class_names,
        mean=spec.mean if spec else None,
        std=spec.std if spec else None,
        frames=torch.stack(stills, 1),
        diagnostics={"frame_steps": keep},
    )


def _optimize(
    maximizer: Maximizer,
    units: Sequence[Expression],
    runs: Sequence[tuple[int, int]],
    setting: Setting,
    keep: Sequence[int],
    best: dict[int, tuple[float, tuple[Tensor, ...]]],
    uniform: Mapping[int, Tensor] | None = None,
) -> None:
    """Optimizes each run, a unit and the number of its restart, and updates each unit's best."""
    chunks = list(_chunks(units, runs, setting))
    what = "maximize" if uniform is None else "maximize from uniform images"
    with progress(what, len(chunks) * getattr(maximizer, "steps", 1)) as advance:
        for members, size, reader in chunks:
            rows = [runs[i] for i in members]
            rows += [rows[-1]] * (size - len(rows))
            flat = None if uniform is None else torch.stack([uniform[unit] for unit, _ in rows])
            chosen, restarts = [units[unit] for unit, _ in rows], [start for _, start in rows]
            result, score = _run(
                maximizer, reader, chosen, restarts, setting, keep, flat, lambda: advance(1, "")
            )
            opacity = result.opacity
            if opacity is None:
                opacity = torch.ones_like(result.images[:, :1])
            # the mean over the last tenth of the steps, under transforms
            final = result.trace[-max(1, len(result.trace) // 10) :].double()
            for row, (unit, _) in enumerate(rows[: len(members)]):
                objective = float(final[:, row].mean()) if bool(result.moved[row]) else -math.inf
                if unit not in best or objective > best[unit][0]:
                    traced = result.trace[:, row], result.frames[:, row]
                    best[unit] = objective, (result.images[row], opacity[row], score[row], *traced)


def _best_uniform(units: Sequence[Expression], setting: Setting) -> list[tuple[float, Tensor]]:
    """The uniform image with the highest score for each unit: the score and the image.

    The candidates are the darkest, the middle and the brightest valid image, or −1, 0 and 1.
    """
    middle = _blank(setting)[:, :1, :1]
    contrast = torch.ones_like(middle) if setting.low is None else setting.low - middle
    shades = torch.stack([middle, middle + contrast, middle - contrast])
    images = shades.expand(-1, *setting.shape).to(setting.dtype)
    found = []
    with torch.no_grad():
        scopes = {}
        for unit in units:
            if unit.form not in scopes:
                scopes[unit.form] = _reader(unit, setting).scope(
                    images, images, None,
                    channel_statistics=setting.channel_statistics,
                )  # fmt: skip
            scores = evaluate_each([unit] * len(images), scopes[unit.form])
            scores = scores.to(setting.precision).nan_to_num(-math.inf)
            found.append((float(scores.max()), shades[int(scores.argmax())]))
    return found


def _blank(setting: Setting) -> Tensor:
    """The image of a dead unit: the middle of the valid range, or zero."""
    blank = torch.zeros(setting.shape, dtype=setting.precision, device=setting.device)
    if setting.low is not None and setting.high is not None:
        blank = blank + (setting.low + setting.high) / 2
    return blank


def _channel_statistics(
    objectives: Sequence[Expression], setting: Setting
) -> ChannelStatistics | None:
    """Channel statistics of the layers that the objectives z-score, if there is a data set."""
    layers = sorted({layer for one in objectives for layer in one.z_scored})
    if setting.images is None or not layers:
        return None
    images = setting.images.to(setting.device, setting.dtype)
    with failing_as_model_error(setting.module, images[:1]):
        return channel_statistics_of(setting.module, layers, images)


def _units(objectives: Sequence[Expression], setting: Setting) -> list[Expression]:
    """All objectives, with families expanded, each evaluated on one image to validate it."""
    reader = ActivationReader.of(objectives, setting.module, setting.outputs)
    example = torch.zeros((1, *setting.shape), dtype=setting.dtype, device=setting.device)
    with failing_as_model_error(setting.module, example):
        classes, channels = reader.probe(example)
    units = [unit for one in objectives for unit in one.expand(channels, classes)]
    if setting.request.negative:
        units = [signed for unit in units for signed in (unit, -unit)]
    with torch.no_grad():
        scope = reader.scope(
            example, example, _reference(reader, setting),
            channel_statistics=setting.channel_statistics,
        )  # fmt: skip
        for unit in units:
            evaluate_each([unit], scope)
    return units


def _chunks(
    units: Sequence[Expression], runs: Sequence[tuple[int, int]], setting: Setting
) -> Iterator[tuple[list[int], int, ActivationReader]]:
    """The batches: indices of runs, the size to which they are padded, and the reader.

    Only expressions of the same form share a batch. A unit with `diversity` has a batch of its own.
    """
    forms: dict[tuple[Expression | None, object], list[int]] = {}
    for i, (unit, _) in enumerate(runs):
        alone = units[unit] if _is_diverse(units[unit]) else None
        forms.setdefault((alone, units[unit].form), []).append(i)
    for (alone, _), members in forms.items():
        reader = _reader(units[runs[members[0]][0]], setting)
        size = setting.request.restarts if alone is not None else _size(reader, setting)
        noise = torch.randn(setting.shape, generator=torch.Generator().manual_seed(0))
        reader = reader.narrowed(noise.to(setting.device, setting.dtype))
        for i in range(0, len(members), size):
            yield members[i : i + size], size, reader


def _is_diverse(unit: Expression) -> bool:
    """Whether the objective makes a unit's images differ from each other."""
    return any(isinstance(node, diversity) for node in unit.walk())


def _reader(unit: Expression, setting: Setting) -> ActivationReader:
    return ActivationReader.of([unit], setting.module, setting.outputs)


def _size(reader: ActivationReader, setting: Setting) -> int:
    """Images per batch; unless given, it depends only on model, layer and shape."""
    if setting.request.batch_size is not None:
        return setting.request.batch_size
    example = torch.zeros(setting.shape, dtype=setting.dtype, device=setting.device)
    widest = WIDEST if setting.device.type == "cpu" else WIDEST_ON_DEVICE
    return min(chunk_size(reader, example), widest)


def _reference(reader: ActivationReader, setting: Setting) -> Mapping[str, Tensor] | None:
    """The layers' outputs for the initial image, or None."""
    if setting.start is None:
        return None
    with torch.no_grad():
        _, activations = reader(setting.start[None].to(setting.dtype))
    return activations  # type: ignore[no-any-return]


def _run(
    maximizer: Maximizer,
    reader: ActivationReader,
    units: Sequence[Expression],
    restarts: Sequence[int],
    setting: Setting,
    keep: Sequence[int],
    flat: Tensor | None,
    done: Callable[[], None],
) -> tuple[OptimizedImages, Tensor]:
    """Runs one batch: the maximizer's result, and the objective at its images ``[unit]``."""
    reference = _reference(reader, setting)
    transparent = any(isinstance(node, alpha) for node in units[0].walk())

    def score(shown: Tensor, images: Tensor, opacity: Tensor | None = None) -> Tensor:
        with failing_as_model_error(setting.module, shown):
            scope = reader.scope(
                shown.to(setting.dtype), images, reference, opacity,
                setting.channel_statistics, defer=True,
            )  # fmt: skip
        found = evaluate_each(units, scope).to(setting.precision)
        if not bool(torch.isfinite(found).all()):
            raise ModelError(
                f"expected a finite objective, got {found[~found.isfinite()][0].item()} for "
                f"{units[int((~found.isfinite()).nonzero()[0])]}: the model overflows, or the "
                "objective divides by zero"
            )
        return found

    result = maximizer(
        Problem(
            score=score,
            shape=setting.shape,
            generators=[
                _generator(setting.request.seed, unit, start)
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
    if not isinstance(result, OptimizedImages) or tuple(result.images.shape) != wanted:
        right = isinstance(result, OptimizedImages)
        got = list(result.images.shape) if right else type(result).__name__
        raise MethodError(f"expected images {list(wanted)} from the maximizer, got {got}")
    if transparent and result.opacity is None:
        raise MethodError(
            f"{units[0]}: {type(maximizer).__name__} doesn't support opacity: leave out alpha() "
            "or use another maximizer"
        )
    if not bool(torch.isfinite(result.images).all()):
        raise MethodError("expected finite images from the maximizer: try a smaller lr")
    with torch.no_grad():
        return result, score(result.images, result.images, result.opacity)


def _generator(seed: int, unit: Expression, start: int) -> torch.Generator:
    """A unit's own random generator, independent of the rest of the batch."""
    digest = hashlib.sha256(f"{seed} {start} {unit}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
