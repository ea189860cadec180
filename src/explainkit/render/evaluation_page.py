"""An evaluation as HTML: a fragment for notebooks and reports, and a page of its own."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.templates import fill, inline
from explainkit.render.verdicts import FILLS, HATCHED, SHORT

if TYPE_CHECKING:
    from explainkit.results.evaluation import Evaluation

MOST = 500
"""Images that a report lists."""

TITLES = {"all": "All images", "correct": "Correct predictions", "wrong": "Wrong predictions"}
"""Names of the groups of images."""

_PATTERN = Markup(
    '<defs><pattern id="hatched" width="4" height="4" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="4" height="4" fill="#eef0f4"/>'
    '<rect width="1.3" height="4" fill="#888b99"/></pattern></defs>'
)


def evaluation_html(found: "Evaluation") -> Markup:
    """Tables, bars and notes; all text is escaped."""
    key = [
        {"short": SHORT[name], "fill": _fill(name), "pattern": _PATTERN if name in HATCHED else ""}
        for name in found.verdicts()[0]
    ]
    tables = [
        {
            "title": f"{TITLES[group]}: {found.table(group)[0]['images']}",
            "rows": _rows(found, group),
        }
        for group in found.groups
    ]
    comparisons = [
        {
            "first": one.first,
            "second": one.second,
            "images": one.images,
            "difference": _ends(one.difference, one.low, one.high),
            "p": p_value(one.p),
            "adjusted": p_value(one.adjusted),
        }
        for one in found.comparisons
    ]
    text = fill(
        "explainkit.render", "evaluation.html",
        key=key, tables=tables, metrics=found.metrics, comparisons=comparisons, notes=found.notes,
    )  # fmt: skip
    return Markup(text)  # noqa: S704 - the template has escaped it


def evaluation_report(found: "Evaluation", path: Path, command: str | None) -> Path:
    """Writes an evaluation as one self-contained HTML file, atomically."""
    facts = {one.method: f"{one.name}: {one.params or 'no parameters'}" for one in found.results}
    facts |= {"seed": str(found.seed)}
    facts |= {"versions": ", ".join(f"{name} {of}" for name, of in found.versions.items())}
    text = fill(
        "explainkit.render.report", "evaluation.html",
        style=inline("explainkit.render.report", "report.css"),
        title=f"{', '.join(one.method for one in found.results)} on {found.model}",
        about=[f"{len(found):,} images"],
        evaluation=evaluation_html(found),
        methods=[one.method for one in found.results],
        outcomes={True: "correct", False: "wrong", None: ""},
        images=[
            (image, [(one.verdict[i], one.reason[i]) for one in found.results])
            for i, image in enumerate(found.images[:MOST])
        ],
        left_out=max(len(found) - MOST, 0),
        command=command,
        facts=facts.items(),
    )  # fmt: skip
    return write_file(path, text.encode(), RenderError)


def p_value(p: float) -> str:
    """A p-value with two digits, or that it is small.

    Examples:
        >>> p_value(0.0421), p_value(1e-9), p_value(1.0)
        ('0.042', '< 0.0001', '1')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _rows(found: "Evaluation", group: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table as the template needs them."""
    for row, counts in zip(found.table(group), found.verdicts(group), strict=True):
        parts, start = [], 0.0
        for verdict in counts:
            wide = 100 * row[verdict]
            parts.append({"start": f"{start:.2f}", "width": f"{wide:.2f}", "fill": _fill(verdict)})
            start += wide
        yield {
            "method": row["method"],
            "spoken": ", ".join(
                f"{SHORT[name]} {100 * row[name]:.0f} %" for name, count in counts.items() if count
            ),
            "parts": parts,
            "shares": [_share(row, name) for name in (*counts, "swapped")],
            "judged": row["judged"],
            "predicts": _of(row, "predicts"),
            "metrics": [_of(row, name) for name in found.metrics],
        }


def _share(row: Mapping[str, Any], name: str) -> dict[str, str]:
    """A share and its interval in percent."""
    if row[name] != row[name]:
        return {"share": "–", "ends": ""}
    share, low, high = (f"{100 * row[f'{name}{end}']:.0f}" for end in ("", "_low", "_high"))
    return {"share": share, "ends": f"[{low}, {high}]"}


def _of(row: Mapping[str, Any], name: str) -> dict[str, str] | None:
    return _ends(*(row.get(f"{name}{end}", float("nan")) for end in ("", "_low", "_high")))


def _ends(mean: float, low: float, high: float) -> dict[str, str] | None:
    """A mean and its interval as text; None without a mean."""
    if mean != mean:
        return None
    texts = [
        "–" if value != value else f"{value:.3g}".replace("-", "−") for value in (mean, low, high)
    ]
    return dict(zip(("mean", "low", "high"), texts, strict=True))


def _fill(verdict: str) -> str:
    return "url(#hatched)" if verdict in HATCHED else FILLS[verdict]
