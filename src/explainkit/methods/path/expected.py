"""Expected gradients: straight paths from many baselines, one gradient on each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.interfaces import Attribution
from explainkit.methods.gradient import check_noise, deviation_of, input_gradient, normal_noise
from explainkit.methods.path.straight_line import completeness_gap, several_baselines, spread


@dataclass(frozen=True)
class ExpectedGradients(Typed):
    """Integrated gradients averaged over baselines, estimated with one gradient per path.

    ``a = E[(x + ε − b) · ∂S_c(b + α (x + ε − b)) / ∂x]``, where b is one of the baselines,
    ``α ~ U(0, 1)`` and ``ε ~ N(0, σ²)``. This is GradientSHAP, also registered as
    ``gradient_shap``.

    Without noise the expectation sums to ``S_c(x) − mean_b S_c(b)``. ``completeness_gap`` reports
    the deviation of the estimate, relative to that difference (at least 0.05), ``sum_error`` is the
    standard error of the sum, and ``standard_error`` that of every value.

    Every image has its own random generator, seeded with ``seed``, so its map does not depend on
    the batch. With stratification the n samples have one α from each of n equal parts of [0, 1]:
    the mean is the same, the error is never larger, and with one baseline it is smaller by up to
    the factor n. The standard errors are computed from second differences of neighboring samples,
    ``s² = Σ (a_{k−1} − 2 a_k + a_{k+1})² / (6 (n − 2) n)``, which the trend along the path does not
    inflate.

    Attributes:
        baselines: Reference images in model-input space, such as images of the training data,
            ``[n, channel, height, width]``; or one value.
        samples: Gradients per image.
        noise: Standard deviation σ of noise on the image, as a share of the image's own range; one
            for all channels, or one for each.
        relative: If false, ``noise`` is in units of the input instead.
        stratified: If false, every α is drawn from all of [0, 1], as in Captum.
        multiply_by_inputs: If false, the map is the mean gradient, without the factor
            ``x + ε − b``. The completeness gap is that of the product in any case.
        seed: Random seed; ``explain(seed=…)`` sets it.

    Raises:
        MethodError: A field is out of range, or the baselines do not fit the images.

    References:
        Lundberg and Lee (2017), "A Unified Approach to Interpreting Model Predictions",
        arXiv:1705.07874. Erion, Janizek, Sturmfels, Lundberg and Lee (2021), "Improving
        performance of deep learning models with axiomatic attribution priors and expected
        gradients", arXiv:1906.10670. Von Neumann (1941), "Distribution of the ratio of the mean
        square successive difference to the variance", doi:10.1214/aoms/1177731677.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x = torch.rand(1, 1, 2, 2)
        >>> a = ExpectedGradients(0.5)(net, x, torch.tensor([1])).values
        >>> torch.allclose(a.flatten(), (x - 0.5).flatten() * net[1].weight[1])
        True
    """

    volumes: ClassVar[bool] = True

    baselines: float | Tensor = 0.0
    samples: int = field(default=25, metadata={"least": 1})
    noise: float | tuple[float, ...] = 0.0
    relative: bool = True
    stratified: bool = True
    multiply_by_inputs: bool = True
    seed: int = field(default=0, metadata={"seed": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score.

        Without ``multiply_by_inputs``, in score per unit of input.
        """
        with torch.no_grad():
            scores = model(inputs).gather(1, target[:, None])[:, 0].double()
        references = several_baselines(model, self.baselines, inputs)
        change = scores - self._mean_scores(model, references)[target]
        found = [
            self._statistics(model, image, label, references)
            for image, label in zip(inputs.detach(), target, strict=True)
        ]
        mean, error = map(torch.stack, zip(*found, strict=True))
        values = mean[:, :-1].reshape(inputs.shape).to(inputs.dtype)
        sums = values.double().flatten(1).sum(1) if self.multiply_by_inputs else mean[:, -1]
        gap = {"completeness_gap": completeness_gap(sums[:, None], change)}
        if self.samples < 3:
            return Attribution(values, diagnostics=gap)
        standard_error = error[:, :-1].reshape(inputs.shape).to(inputs.dtype)
        return Attribution(values, standard_error, diagnostics=gap | {"sum_error": error[:, -1]})

    @staticmethod
    def _mean_scores(model: nn.Module, references: Tensor) -> Tensor:
        size = chunk_size(model, references[0])
        with torch.no_grad():
            scores = in_chunks(lambda part: model(references[part]), len(references), size)
        return scores.double().mean(0)

    def _statistics(
        self, model: nn.Module, image: Tensor, label: Tensor, references: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard error of the samples, whose last column is the contributions' sum."""
        count = self.samples
        squares = total = before = None
        for vectors in self._samples(model, image, label, references):
            total = vectors.sum(0) if total is None else total + vectors.sum(0)
            vectors = vectors if before is None else torch.cat([before, vectors])
            differences = vectors.diff(n=2, dim=0).square().sum(0)
            squares = differences if squares is None else squares + differences
            before = vectors[-2:]
        assert total is not None
        assert squares is not None
        return total / count, (squares / (6 * max(count - 2, 1) * count)).sqrt()

    def _samples(
        self, model: nn.Module, image: Tensor, label: Tensor, references: Tensor
    ) -> Iterator[Tensor]:
        """Flattened single estimates in the order of their draws, and their sums, ``[chunk, …]``.

        The sums are those of the contributions, also where the estimates are gradients.
        """
        precise = torch.promote_types(image.dtype, torch.float32)
        generator = torch.Generator().manual_seed(self.seed)
        count = self.samples
        alpha = torch.rand(count, generator=generator, dtype=torch.float64)
        if self.stratified:
            alpha = (torch.arange(count) + alpha) / count
        chosen = torch.randint(len(references), (count,), generator=generator)
        deviation = deviation_of(self.noise, image, relative=self.relative)
        size = chunk_size(model, image)
        for start in range(0, count, size):
            baseline = references[chosen[start : start + size].to(references.device)]
            parts = spread(alpha[start : start + len(baseline)], image).to(image)
            away = image - baseline
            if self.noise:
                away = away + deviation * normal_noise(image, len(baseline), generator)
            gradient = input_gradient(model, baseline + parts * away, label.expand(len(parts)))
            gradient = gradient.to(precise)
            shares = away.to(precise) * gradient
            values = shares if self.multiply_by_inputs else gradient
            yield torch.cat([values.flatten(1), shares.flatten(1).sum(1, keepdim=True)], 1)
