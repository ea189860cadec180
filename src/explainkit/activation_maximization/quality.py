"""Quality measures of synthetic images, per unit, against a data set of real images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.activation_maximization.activations import (
    ActivationReader,
    ChannelStatistics,
    channel_statistics_of,
)
from explainkit.activation_maximization.parameterization import frequencies
from explainkit.activation_maximization.problem import Problem
from explainkit.activation_maximization.transforms import Transforms
from explainkit.engine.batching import chunk_size
from explainkit.engine.record import outputs_of
from explainkit.errors import InputError
from explainkit.expressions import Expression, Scope, evaluate_each, parse
from explainkit.expressions.terms import Channel, Logit, LogOdds, channel_means, z_scored
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layers import capture
from explainkit.progress import progress
from explainkit.results.visualization import Visualization
from explainkit.scores import Outputs, class_index

HELD_OUT = Transforms(scale=0.1, rotate=5.0, noise=0.05)
"""Transforms for measuring robustness, stronger than any maximizer's by default."""

Features = Callable[[Tensor], Tensor]


def measure(
    visualization: Visualization,
    model: nn.Module,
    images: Tensor,
    *,
    other: nn.Module | None = None,
    features: Features | None = None,
    copies: int = 64,
    k: int = 9,
    seed: int = 0,
) -> Visualization:
    """Compares each synthetic image with a data set; the results are in ``quality``.

    With a(x) the unit's objective and ā its mean over the data set, the keys of ``quality`` are:

    - ``gain``: ``(a(v) − ā) / (max a − ā)``; above 1, the image exceeds every real one.
    - ``robust_gain``: ``(mean a(T(v)) − ā) / (a(v) − ā)`` over ``copies`` held-out transforms T.
    - ``selectivity``: rank of the unit among the units of its layer, each z-scored on the data set;
      1 is best. Only for objectives with exactly one `channel`, `log_odds` or `logit`.
    - ``transfer``: probability that ``other`` assigns to the class. Only for objectives with
      exactly one `logit`.
    - ``spectrum_error``: absolute difference between the slope of the log power spectrum over log
      frequency and the data set's mean slope.
    - ``path_similarity``: correlation of activations between v and the k top real images, minus
      that between the top images and arbitrary ones, averaged over all convolutions and linear
      layers. Below 0, the network processes v unlike real images.
    - ``choice_synthetic``, ``choice_exemplars``: how often, of two real images, the one nearer to v
      (to the k top images) by the cosine of ``features`` is the one that activates the unit more.

    Values are NaN for dead units and where a measure doesn't apply.

    Args:
        visualization: Result of `explainkit.maximize`; its objectives must not need ``start=``.
        model: The model it was computed on.
        images: The data set, ``[n, channel, height, width]``, at least ``3 k`` images.
        other: Another model with the same classes, for ``transfer``.
        features: Maps ``[n, channel, height, width]`` to ``[n, …]``, for the two-choice test.
        copies: Transformed copies per image.
        k: Top images per unit.
        seed: Random seed of the held-out transforms.

    Raises:
        InputError: Fewer than ``3 k`` images, or images of another shape.

    References:
        Geirhos, Zimmermann, Bilodeau, Brendel and Kim (2024), "Don't trust your eyes: on the
        (un)reliability of feature visualizations", arXiv:2306.04719. Borowski et al. (2021),
        "Exemplary Natural Images Explain CNN Activations Better than State-of-the-Art Feature
        Visualization", arXiv:2010.12606. Zimmermann, Klindt and Brendel (2024), "Measuring
        Per-Unit Interpretability at Scale Without Humans".
    """
    if len(images) < 3 * k or images.shape[1:] != visualization.images.shape[1:]:
        raise InputError(
            f"expected at least {3 * k} images {list(visualization.images.shape[1:])}, got "
            f"{list(images.shape)}"
        )
    optimized = visualization.images.to(images)
    with (
        preserve_process(seed),
        preserve_model(model),
        torch.no_grad(),
        progress("quality", 2 * len(optimized)) as advance,
    ):

        def done() -> None:
            advance(1, "")

        bench = _Bench.of(visualization, model, images)
        activations, tables = bench.read(images)
        own, tables_here = bench.read(optimized)
        score = own.diagonal()
        mean, best = activations.mean(0), activations.amax(0)
        moved = bench.transformed(optimized, copies, seed, done)
        order = activations.argsort(dim=0, descending=True, stable=True)
        found = {
            "gain": (score - mean) / (best - mean),
            "robust_gain": (moved - mean) / (score - mean),
            "selectivity": bench.selectivity(tables, tables_here),
            "spectrum_error": (spectral_slope(optimized) - spectral_slope(images).mean()).abs(),
            "path_similarity": _path_similarity(model, optimized, images, order, k, done),
        }
        if features is not None:
            found |= _two_choice(optimized, images, order, k, features)
    if other is not None:
        with preserve_process(seed), preserve_model(other), torch.no_grad():
            found["transfer"] = bench.transfer(other, optimized)
    dead = visualization.dead.to(images.device)
    quality = {
        name: values.to(torch.float32).masked_fill(dead, math.nan)
        for name, values in found.items()
        if not bool(values.isnan().all())
    }
    return replace(visualization, quality=quality)


@dataclass(frozen=True, eq=False)
class _Bench:
    """A visualization's objectives, evaluated on any images."""

    reader: ActivationReader
    units: Sequence[Expression]
    size: int
    channel_statistics: ChannelStatistics

    @classmethod
    def of(cls, visualization: Visualization, model: nn.Module, images: Tensor) -> "_Bench":
        units = [parse(text) for text in visualization.objective]
        outputs = Outputs(visualization.output, visualization.task, visualization.class_names)
        reader = ActivationReader.of(units, model, outputs)
        size = chunk_size(reader, images[0])
        compared = sorted({layer for unit in units for layer in unit.z_scored})
        channel_statistics = channel_statistics_of(model, compared, images)
        return cls(reader, units, size, channel_statistics)

    def scope(self, part: Tensor) -> Scope:
        """The values that the objectives are computed from."""
        return self.reader.scope(part, part, None, channel_statistics=self.channel_statistics)

    def read(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Objectives ``[n, unit]``, and each layer's channel means ``[n, channel]``."""
        activations, tables = [], []
        for part in torch.split(images, self.size):
            scope = self.scope(part)
            columns = [evaluate_each([unit] * len(part), scope) for unit in self.units]
            activations.append(torch.stack(columns, 1))
            tables.append(_means(scope))
        return torch.cat(activations), {
            name: torch.cat([table[name] for table in tables]) for name in tables[0]
        }

    def transformed(
        self, optimized: Tensor, copies: int, seed: int, done: Callable[[], None]
    ) -> Tensor:
        """Each unit's mean objective over transformed copies of its own image, ``[unit]``."""
        found = []
        for unit, image in zip(self.units, optimized, strict=True):
            generators = [torch.Generator().manual_seed(seed * copies + i) for i in range(copies)]
            problem = Problem(
                score=lambda shown, _: shown, shape=image.shape, generators=generators,
                dtype=image.dtype, device=image.device,
            )  # fmt: skip
            shown = HELD_OUT.transform(image.expand(copies, *image.shape), problem)
            values = []
            for part in torch.split(shown, self.size):
                scope = self.scope(part)
                values.append(evaluate_each([unit] * len(part), scope))
            found.append(torch.cat(values).mean())
            done()
        return torch.stack(found)

    def selectivity(self, real: dict[str, Tensor], here: dict[str, Tensor]) -> Tensor:
        """Rank of each unit in its layer, ``[unit]``; NaN for objectives of several units."""
        found = []
        for row, unit in enumerate(self.units):
            terms = [node for node in unit.walk() if isinstance(node, Channel | LogOdds | Logit)]
            if len(terms) != 1:
                found.append(math.nan)
                continue
            (term,) = terms
            name = "" if isinstance(term, Logit) else term.layer
            index = self._class(term, real[""]) if isinstance(term, Logit) else term.index
            channel_statistics = real[name].mean(0), real[name].std(0, correction=0)
            standard = z_scored(here[name][row], channel_statistics)
            found.append(1.0 + int((standard > standard[index]).sum()))
        return torch.tensor(found)

    def _class(self, term: Logit, logits: Tensor) -> int:
        return class_index(term.name, logits.shape[1], self.reader.outputs.class_names)

    def transfer(self, other: nn.Module, optimized: Tensor) -> Tensor:
        """Probability that another model assigns to each unit's class, ``[unit]``."""
        outputs = outputs_of(other)
        logits = outputs.logits(other(optimized.clone()), len(optimized))
        probabilities = outputs.resolved(logits).probabilities(logits)
        found = []
        for row, unit in enumerate(self.units):
            terms = [node for node in unit.walk() if isinstance(node, Logit)]
            found.append(
                math.nan
                if probabilities is None or len(terms) != 1
                else float(probabilities[row, self._class(terms[0], probabilities)])
            )
        return torch.tensor(found)


def _means(scope: Scope) -> dict[str, Tensor]:
    found = {name: channel_means(scope.layer(name)) for name in scope.activations}
    return found | ({} if scope.logits is None else {"": scope.logits})


def spectral_slope(images: Tensor) -> Tensor:
    """Slope of the log power spectrum over log frequency, ``[n]``.

    About −2 for natural images, 0 for white noise.
    """
    height, width = images.shape[2:]
    radius = frequencies(height, width).to(images)
    inside = (radius > 0) & (radius <= 0.5)
    if int(inside.sum()) < 3:
        return images.new_full((len(images),), math.nan)
    power = torch.fft.rfft2(images).abs().square().mean(1)[:, inside].clamp_min(1e-20).log()
    x = radius[inside].log()
    x = x - x.mean()
    slope: Tensor = (power * x).sum(1) / x.square().sum()
    return slope


def _path_similarity(
    model: nn.Module,
    optimized: Tensor,
    images: Tensor,
    order: Tensor,
    k: int,
    done: Callable[[], None],
) -> Tensor:
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n]
    size = chunk_size(model, images[0])
    arbitrary = images[:: max(1, len(images) // k)][:k]

    def paths(shown: Tensor) -> list[Tensor]:
        parts = []
        for part in torch.split(shown, size):
            with capture(model, layers) as outputs:
                model(part.clone())
            # attention uses the weights of its output projection without calling the module
            parts.append([calls[0] for calls in outputs.values() if calls])
        return [_standard(torch.cat(column)) for column in zip(*parts, strict=True)]

    here, common = paths(optimized), paths(arbitrary)
    found = []
    for unit in range(len(optimized)):
        top = paths(images[order[:k, unit]])
        gaps = [
            (t @ v[unit]).mean() - (t @ a.T).mean()
            for v, t, a in zip(here, top, common, strict=True)
        ]
        found.append(torch.stack(gaps).mean() if gaps else optimized.new_tensor(math.nan))
        done()
    return torch.stack(found)


def _standard(values: Tensor) -> Tensor:
    """Centered and normalized rows: their inner products are correlations."""
    flat = values.flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def _two_choice(
    optimized: Tensor, images: Tensor, order: Tensor, k: int, features: Features
) -> dict[str, Tensor]:
    """How often the nearer of two real images is the one that activates the unit more.

    The pairs: each of the k images after the top k with each of the k lowest.
    """

    def directions(shown: Tensor) -> Tensor:
        return F.normalize(features(shown).flatten(1), dim=1)

    synthetic: list[Tensor] = []
    exemplars: list[Tensor] = []
    for unit, mine in enumerate(directions(optimized)):
        ranks = order[:, unit]
        rows = ranks[:k], ranks[k : 2 * k], ranks[-k:]
        top, high, low = (directions(images[row]) for row in rows)
        for references, rates in ((mine[None], synthetic), (top, exemplars)):
            near, far = ((side @ references.T).mean(1) for side in (high, low))
            won = (near[:, None] > far).double() + 0.5 * (near[:, None] == far)
            rates.append(won.mean())
    return {"choice_synthetic": torch.stack(synthetic), "choice_exemplars": torch.stack(exemplars)}
