"""How far an image can be trusted: measures per unit, against a data set."""

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
from explainkit.errors import InputError
from explainkit.expressions import Expression, Scope, evaluate_each, parse
from explainkit.expressions.terms import Channel, Logit, LogOdds, channel_means, z_scored
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layers import capture
from explainkit.progress import progress
from explainkit.results.visualization import Visualization
from explainkit.scores import as_scores, class_index

HELD_OUT = Transforms(scale=0.1, rotate=5.0, noise=0.05)
"""Shifts, scales, turns and noise that no maximizer trains on by default."""

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
    """Measures each image against a data set; see the keys of the result's ``quality``.

    With a(x) the unit's objective, ā its mean over the data set:

    - ``gain``: ``(a(v) − ā) / (max a − ā)``; above 1 the image beats every real one.
    - ``robust_gain``: ``(mean a(T(v)) − ā) / (a(v) − ā)`` over ``copies`` held-out transforms T.
    - ``selectivity``: place of the unit among its layer's units, each z_scored on the data set;
      1 is best. For objectives with one `channel`, `log_odds` or `logit`.
    - ``transfer``: probability that ``other`` gives the class. For objectives with one `logit`.
    - ``spectrum_error``: how far the slope of the log radial power spectrum over log frequency is
      from the data set's mean slope.
    - ``path_similarity``: mean over the convolutions and linear layers of the correlation of
      activations between v and the k top optimized, minus that between the top images and
      arbitrary ones. Below 0 the network processes v unlike anything real.
    - ``choice_synthetic``, ``choice_exemplars``: how often the nearer of two real optimized, by the
      cosine of ``features`` to v (to the k top optimized), is the one that the unit answers to.

    Values are NaN where a measure doesn't apply, and for dead units.

    Args:
        visualization: Its objectives must not need a start image.
        model: The model that it is of.
        images: The data set, ``[n, channel, height, width]``, at least ``3 k`` optimized.
        other: Another network of the same classes.
        features: ``[n, channel, height, width]`` to ``[n, …]``, for the two-choice test.
        copies: Transformed copies per image.
        k: Top images per unit.
        seed: Of the held-out transforms.

    Raises:
        InputError: Fewer than ``3 k`` optimized, or of another shape.

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
        answers, tables = bench.read(images)
        own, tables_here = bench.read(optimized)
        score = own.diagonal()
        mean, best = answers.mean(0), answers.amax(0)
        moved = bench.transformed(optimized, copies, seed, done)
        order = answers.argsort(dim=0, descending=True, stable=True)
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
    """A model's units, read on any optimized."""

    reading: ActivationReader
    units: Sequence[Expression]
    class_names: tuple[str, ...]
    size: int
    channel_statistics: ChannelStatistics

    @classmethod
    def of(cls, visualization: Visualization, model: nn.Module, images: Tensor) -> "_Bench":
        units = [parse(text) for text in visualization.objective]
        layers = sorted({layer for unit in units for layer in unit.layers})
        reading = ActivationReader(model, layers, logits=any(unit.uses_logits for unit in units))
        size = chunk_size(reading, images[0])
        compared = sorted({layer for unit in units for layer in unit.z_scored})
        channel_statistics = channel_statistics_of(model, compared, images)
        return cls(reading, units, visualization.class_names, size, channel_statistics)

    def scope(self, part: Tensor) -> Scope:
        """What the objectives read of optimized."""
        return self.reading.scope(
            part, part, self.class_names, None, channel_statistics=self.channel_statistics
        )

    def read(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Objectives ``[n, unit]``, and each layer's channel means ``[n, channel]``."""
        answers, tables = [], []
        for part in torch.split(images, self.size):
            scope = self.scope(part)
            columns = [evaluate_each([unit] * len(part), scope) for unit in self.units]
            answers.append(torch.stack(columns, 1))
            tables.append(_means(scope))
        return torch.cat(answers), {
            name: torch.cat([table[name] for table in tables]) for name in tables[0]
        }

    def transformed(
        self, optimized: Tensor, copies: int, seed: int, done: Callable[[], None]
    ) -> Tensor:
        """Each unit's mean answer to transformed copies of its own image, ``[unit]``."""
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
        """Place of each unit among its layer's, ``[unit]``; NaN where it isn't one unit's."""
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
        return class_index(term.name, logits.shape[1], self.class_names)

    def transfer(self, other: nn.Module, optimized: Tensor) -> Tensor:
        """Probability that another network gives each unit's class, ``[unit]``."""
        logits = as_scores(other(optimized.clone()), len(optimized))
        found = []
        for row, unit in enumerate(self.units):
            terms = [node for node in unit.walk() if isinstance(node, Logit)]
            single = len(terms) == 1 and logits.shape[1] > 1
            found.append(
                float(logits[row].softmax(0)[self._class(terms[0], logits)]) if single else math.nan
            )
        return torch.tensor(found)


def _means(scope: Scope) -> dict[str, Tensor]:
    found = {name: channel_means(scope.layer(name)) for name in scope.activations}
    return found | ({} if scope.logits is None else {"": scope.logits})


def spectral_slope(images: Tensor) -> Tensor:
    """Slope of the log radial power spectrum over the log of frequency, ``[n]``.

    About −2 for natural optimized, 0 for white noise.

    Args:
        images: ``[n, channel, height, width]``.
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
            # attention reads the weights of its last layer without calling it
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
    """Rows whose inner products are correlations."""
    flat = values.flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def _two_choice(
    optimized: Tensor, images: Tensor, order: Tensor, k: int, features: Features
) -> dict[str, Tensor]:
    """How often the nearer of two real images is the one that the unit answers to.

    The pairs are the k images after the top k, each with each of the k lowest.
    """

    def directions(shown: Tensor) -> Tensor:
        return F.normalize(features(shown).flatten(1), dim=1)

    synthetic: list[Tensor] = []
    exemplars: list[Tensor] = []
    for unit, mine in enumerate(directions(optimized)):
        ranks = order[:, unit]
        top, high, low = (directions(images[ranks[s]]) for s in _thirds(k))
        for references, rates in ((mine[None], synthetic), (top, exemplars)):
            near, far = ((side @ references.T).mean(1) for side in (high, low))
            won = (near[:, None] > far).double() + 0.5 * (near[:, None] == far)
            rates.append(won.mean())
    return {"choice_synthetic": torch.stack(synthetic), "choice_exemplars": torch.stack(exemplars)}


def _thirds(k: int) -> tuple[slice, slice, slice]:
    return slice(k), slice(k, 2 * k), slice(-k, None)


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Unbiased kernel inception distance between two sets of features, valid for small sets.

    The squared maximum mean discrepancy under ``(x·y / d + 1)³``; may be slightly negative.

    Args:
        first: ``[n, d]``, n at least 2.
        second: ``[m, d]``, m at least 2.

    References:
        Bińkowski, Sutherland, Arbel and Gretton (2018), "Demystifying MMD GANs",
        arXiv:1801.01401.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())
