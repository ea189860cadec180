"""The result of an evaluation: methods on many images, judged and compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from explainkit.errors import RenderError, StorageError, UnknownNameError, line
from explainkit.files import read_regular, reason, write_file
from explainkit.results.evaluated import (
    FAILED,
    VERDICTS,
    Comparison,
    EvaluatedImage,
    MethodResults,
)
from explainkit.results.plain import plain
from explainkit.results.scorecard import (
    POWER_IMAGES,
    Scorecard,
    fails_often,
    holm,
    verdict_of,
)
from explainkit.results.statistics import bootstrap, wilcoxon, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1

Group = Literal["all", "correct", "wrong"]
"""All images, or those that the model predicts correctly, or wrongly."""

_CORRECT: dict[Group, tuple[bool | None, ...]] = {
    "all": (True, False, None),
    "correct": (True,),
    "wrong": (False,),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Verdicts on several methods over many images, and how the methods compare.

    Attributes:
        model: Name of the model.
        images: The images, in order; those that could not be explained are among them.
        results: What was found about each method.
        positive_control: On how many images the positive control passes, and of how many: of these
            if at least 10 can be judged, else as the model's specification knows it; None: unknown.
        seed: Random seed.
        versions: Versions of Python, torch, explainkit and the plugins involved.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24 * 24, 3)).eval()
        >>> found = ek.evaluate(net, torch.rand(2, 1, 24, 24), ["input_x_gradient", "saliency"])
        >>> [row["method"] for row in found.table()], found.notes[0]
        (['input_x_gradient', 'saliency'], 'Rankings of methods need at least 10 judged images.')
    """

    model: str
    images: tuple[EvaluatedImage, ...]
    results: tuple[MethodResults, ...]
    positive_control: tuple[int, int] | None = None
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        names = ", ".join(one.method for one in self.results)
        return f"<Evaluation of {names} on {self.model}: {len(self)} images>"

    def of(self, method: str) -> MethodResults:
        """The results of one method, by its name in this evaluation or its qualified name.

        Raises:
            UnknownNameError: It was not evaluated.
        """
        for one in self.results:
            if method in (one.method, one.name):
                return one
        known = ", ".join(one.method for one in self.results)
        raise UnknownNameError(f"expected one of {known}, got {method!r}")

    @property
    def power(self) -> Tensor:
        """P-values of the positive control, float64 ``[images]``; NaN where there is none."""
        found = [float("nan") if one.control is None else one.control for one in self.images]
        return torch.tensor(found, dtype=torch.float64)

    @property
    def low_power(self) -> bool:
        """Whether the positive control fails too often on this network to tell maps apart."""
        return fails_often(self.positive_control)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the further metrics."""
        return tuple(dict.fromkeys(name for one in self.results for name in one.metrics))

    @property
    def groups(self) -> tuple[Group, ...]:
        """All images, and apart those of correct and of wrong predictions, if there are both."""
        both = self._rows("correct") and self._rows("wrong")
        return ("all", "correct", "wrong") if both else ("all",)

    def _rows(self, group: Group) -> list[int]:
        """The images of a group."""
        return [i for i, image in enumerate(self.images) if image.correct in _CORRECT[group]]

    def verdicts(self, group: Group = "all") -> list[dict[str, int]]:
        """For each method, the number of images with each verdict that occurs, the best first."""
        rows = self._rows(group)
        occurring = [name for name in VERDICTS if any(name in one.verdict for one in self.results)]
        return [
            {name: [one.verdict[i] for i in rows].count(name) for name in occurring}
            for one in self.results
        ]

    def table(self, group: Group = "all") -> list[dict[str, Any]]:
        """One row per method: shares of the verdicts, and means, each with a 95 % interval.

        Shares are of all images of the group, also those that could not be explained or judged,
        with Wilson's interval. ``swapped`` is the share of images on which the map of another
        image, of another class, is supported, of those where that was tested; NaN where verdicts
        are withheld. ``predicts`` is the mean statistic of the first test over the images that were
        judged; its interval and those of further metrics are percentiles of the bootstrap over
        images. ``NAME_low`` and ``NAME_high`` are the ends of the interval of ``NAME``.

        Args:
            group: Which images.
        """
        rows = torch.tensor(self._rows(group), dtype=torch.int64)
        found = []
        for one, verdicts in zip(self.results, self.verdicts(group), strict=True):
            row: dict[str, Any] = {"method": one.method, "images": len(rows)}
            row["judged"] = int((~one.statistic[rows, 0].isnan()).sum())
            for name, count in verdicts.items():
                row |= _with_ends(name, wilson(count, len(rows)))
            row |= _with_ends("swapped", wilson(*self._swaps(one, group)))
            for name, values in {"predicts": one.statistic[:, 0], **one.metrics}.items():
                row |= _with_ends(name, bootstrap(values[rows], self.seed))
            found.append(row)
        return found

    def _swaps(self, one: MethodResults, group: Group) -> tuple[int, int]:
        """On how many images the map of another is supported, and of how many where it is judged.

        None are, where verdicts are withheld.
        """
        rows = [] if self.low_power else self._rows(group)
        verdicts = [verdict_of(one.swapped[row].tolist(), "edges") for row in rows]
        return verdicts.count("supported"), len(verdicts) - verdicts.count("cannot be judged")

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every pair of methods, on the images where both are judged; none of fewer than 10."""
        pairs = []
        for one, two in combinations(self.results, 2):
            apart = one.statistic[:, 0] - two.statistic[:, 0]
            if (count := int((~apart.isnan()).sum())) >= POWER_IMAGES:
                interval = bootstrap(apart, self.seed)
                pairs.append((one.method, two.method, count, *interval, wilcoxon(apart)))
        adjusted = holm(torch.tensor([pair[-1] for pair in pairs], dtype=torch.float64)).tolist()
        return tuple(Comparison(*pair, p) for pair, p in zip(pairs, adjusted, strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before reading the numbers, one sentence each."""
        return (*self._notes(), Scorecard.caveat)

    def _notes(self) -> Iterator[str]:
        few = [
            one.method
            for one in self.results
            if int((~one.statistic[:, 0].isnan()).sum()) < POWER_IMAGES
        ]
        if few:
            without = f" Too few: {', '.join(few)}." if len(few) < len(self.results) else ""
            yield f"Rankings of methods need at least {POWER_IMAGES} judged images.{without}"
        correct, wrong = len(self._rows("correct")), len(self._rows("wrong"))
        if correct + wrong:
            yield f"The predictions of {correct} of {correct + wrong} images are correct."
        if self.positive_control is None:
            yield (
                "The power of these tests on this network is unknown: measuring it takes at least "
                f"{POWER_IMAGES} images."
            )
        else:
            passed, images = self.positive_control
            so = ": too few for verdicts on this network." if self.low_power else "."
            yield f"The positive control passes on {passed} of {images} images{so}"
        swaps: dict[str, list[str]] = {}
        for one in self.results:
            hits, judged = self._swaps(one, "all")
            if judged:
                swaps.setdefault(f"{hits} of {judged} images", []).append(one.method)
        if swaps:
            shares = (f"{share} ({', '.join(names)})" for share, names in swaps.items())
            yield (
                f"Maps of images of another class are supported on {', '.join(shares)}: the more "
                "often, the less a verdict says about the image itself."
            )
        apart = [one.method for one in self.results if one.half_cell]
        if apart and len(apart) < len(self.results):
            yield (
                "Methods that hide parts of the image themselves are judged on a grid that is "
                f"moved by half a cell: {', '.join(apart)}."
            )
        for one in self.results:
            failed = [i for i, verdict in enumerate(one.verdict) if verdict == FAILED]
            if failed:
                first = failed[0]
                yield (
                    f"{one.method} explains {len(self) - len(failed)} of {len(self)} images. On "
                    f"{self.images[first].name}: {one.reason[first]}."
                )
            for metric, reasons in one.undefined.items():
                missing = [i for i, text in enumerate(reasons) if text]
                if missing:
                    first = missing[0]
                    yield (
                        f"{metric} of {one.method} is undefined on {len(missing)} of {len(self)} "
                        f"images. On {self.images[first].name}: {reasons[first]}."
                    )
            yield from (f"{one.method}: {text}." for text in one.warnings)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON; NaN is None."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "seed": self.seed,
            "versions": dict(self.versions),
            "notes": list(self.notes),
            "positive_control": plain(self.positive_control),
            "low_power": self.low_power,
            "tables": {group: plain(self.table(group)) for group in self.groups},
            "comparisons": [plain(vars(one)) for one in self.comparisons],
            "images": [asdict(image) for image in self.images],
            "results": [one.to_dict() for one in self.results],
        }

    def save(self, path: str | Path) -> Path:
        """Writes everything into a JSON file, atomically; returns its path.

        Raises:
            StorageError: It can't be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        return write_file(path, text.encode(), StorageError)

    @staticmethod
    def load(path: str | Path) -> "Evaluation":
        """Reads what `save` wrote.

        Raises:
            StorageError: There is no such file, or it is not a saved evaluation.
        """
        try:
            return _from_record(json.loads(read_regular(Path(path))))
        except OSError as error:
            raise StorageError(f"can't read {path}: {reason(error)}") from error
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise StorageError(f"expected a saved evaluation in {path}: {line(error)}") from error

    def to_dataframe(self, group: Group = "all") -> Any:
        """`table` as a ``pandas.DataFrame``.

        Raises:
            RenderError: pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ImportError as error:
            raise RenderError(
                "to_dataframe() needs pandas: pip install pandas, or use table()"
            ) from error
        return pandas.DataFrame(self.table(group)).set_index("method")

    def plot(self) -> "Figure":
        """Draws the shares of the verdicts as bars, beside the mean statistic of the first test."""
        from explainkit.render.evaluation import evaluation_figure

        return evaluation_figure(self)

    def report(self, path: str | Path, *, command: str | None = None) -> Path:
        """Writes tables and bars as one HTML file, which works offline; returns its path.

        Args:
            path: The file.
            command: The command line that reproduces the evaluation.

        Raises:
            RenderError: It can't be written.
        """
        from explainkit.render.evaluation_page import evaluation_report

        return evaluation_report(self, Path(path), command)

    def _repr_html_(self) -> str:
        from explainkit.render.evaluation_page import evaluation_html

        return str(evaluation_html(self))


def _from_record(record: Any) -> Evaluation:
    """The evaluation that `Evaluation.to_dict` described.

    Raises:
        KeyError: A field is missing.
        TypeError: A field has the wrong type.
        ValueError: A field has a wrong value, or the version is another.
    """
    if record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"expected schema_version 1, got {record['schema_version']!r}")
    images = tuple(map(EvaluatedImage.from_dict, record["images"]))
    results = tuple(MethodResults.from_dict(one, len(images)) for one in record["results"])
    control = record["positive_control"]
    if not images or not results:
        raise ValueError("expected at least one image and one method")
    return Evaluation(
        model=str(record["model"]),
        images=images,
        results=results,
        positive_control=None if control is None else (int(control[0]), int(control[1])),
        seed=int(record["seed"]),
        versions={str(name): str(of) for name, of in record["versions"].items()},
    )


def _with_ends(name: str, interval: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
