"""What `explainkit.tcav` returns: how often a concept raises a class's score, and by chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from explainkit.expressions.terms import Direction
from explainkit.results.concepts import SIGNIFICANT
from explainkit.results.statistics import student, student95


@dataclass(frozen=True, eq=False)
class TCAV:
    """The share of images whose score a concept raises, beside that of random concepts.

    Attributes:
        scores: The share in each run, with half of the concept's images, float64 ``[run]``.
        random_scores: Likewise with random images in the place of the concept's.
        accuracy: Share of the other images that each run's direction puts on the right side,
            ``[run]``; ½ by chance.
        direction: Mean direction of the concept over the runs, ``[channel]``, of length 1.
        layer: Dotted path.
        model: Registered name, or module and class.
        target: Name of the class, or its index as text.
        images: Number of images whose scores are asked for.
        concept_images: Number of images of the concept.
        random_images: Number of random images.
        seed: Random seed.
        versions: Of the packages involved.
    """

    scores: Tensor
    random_scores: Tensor
    accuracy: Tensor
    direction: Tensor
    layer: str
    model: str
    target: str
    images: int
    concept_images: int
    random_images: int
    seed: int
    versions: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<TCAV of {self.model}: {self.caption()}>"

    @property
    def score(self) -> float:
        """The share of images whose score rises along the concept, mean over the runs."""
        return float(self.scores.mean())

    @property
    def random_score(self) -> float:
        """The same along random concepts; about ½."""
        return float(self.random_scores.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `score`, for other images of the concept.

        Runs with random halves of the same images are not independent: the standard error of the
        whole is the deviation between halves (delete-half jackknife; Shao and Wu 1989, DOI
        10.1214/aos/1176347263), not that divided by the root of their number.
        """
        reach = student95(len(self.scores) - 1) * float(self.scores.std())
        return max(self.score - reach, 0.0), min(self.score + reach, 1.0)

    @property
    def p(self) -> float:
        """Two-sided p-value of the t-test that the concept's score is that of random concepts.

        Welch's test, with the standard error of `interval`.
        """
        own, random = float(self.scores.var()), float(self.random_scores.var()) / len(self.scores)
        apart = self.score - self.random_score
        if own + random == 0:
            return 0.0 if apart else 1.0
        freedom = (own + random) ** 2 / (own**2 + random**2) * (len(self.scores) - 1)
        return student(apart / sqrt(own + random), freedom)

    @property
    def significant(self) -> bool:
        """Whether `p` is at most 0.05; of several concepts, divide that by their number."""
        return self.p <= SIGNIFICANT

    @property
    def concept(self) -> Direction:
        """The concept as a target of every method, and as an objective of `maximize`."""
        return Direction(self.layer, tuple(self.direction.tolist()))

    def caption(self) -> str:
        """The result in one line, which says if it is not significant."""
        low, high = self.interval
        verdict = "" if self.significant else "not significant: "
        return (
            f"{verdict}{self.target} rises along the concept on {100 * self.score:.0f} % "
            f"[{100 * low:.0f}, {100 * high:.0f}] of {self.images} images, along random ones on "
            f"{100 * self.random_score:.0f} % (p = {self.p:.2g}); layer {self.layer}, held-out "
            f"accuracy {float(self.accuracy.mean()):.2f}"
        )
