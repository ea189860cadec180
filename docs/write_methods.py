"""Writes the table of all methods into docs/reference/methods.md, and their other names.

What a method is called, its class and its paper are read from the code, and its map on a photo is
made by ``docs/write_thumbnails.py``; the other columns are measured, with the method's defaults, on
the toy networks of `explainkit.testing`.

Usage: ``python docs/write_methods.py`` measures all methods; with names of methods, these and those
that have no row yet.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import explainkit as ek
from explainkit.catalog import discovery
from explainkit.catalog.factories import load_method
from explainkit.catalog.synonyms import METHODS
from explainkit.engine.model import ScoreModel
from explainkit.graph.backward import propagate
from explainkit.methods.contract import looks_at_layers, only_runs
from explainkit.testing import CLASSES, toy_models

PAGE = Path(__file__).parent / "reference/methods.md"
THUMBNAILS = PAGE.with_name("thumbnails")
TABLE = re.compile(r"(?<=<!-- table: docs/write_methods\.py -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
LAYER = {"plain": "3", "vit": "blocks.0"}
"""The layer for methods that explain one."""

COLUMNS = (
    "map", "name", "class", "family", "needs", "passes", "depends on the class", "CNN", "ViT",
    "sum", "paper",
)  # fmt: skip
SUMS = {"completeness_gap": "completeness", "conservation_gap": "conservation"}
"""What is said of the sum of a map, by the diagnostic that measures it."""


@dataclass
class Passes:
    """The images that a call runs through a model, or through the part of it behind a layer.

    Attributes:
        forwards: Forwards.
        gradients: Backwards by autograd.
        traversals: Backwards by rules on operators.
    """

    forwards: int = 0
    gradients: int = 0
    traversals: int = 0

    def __str__(self) -> str:
        backwards = self.gradients + self.traversals
        return f"{self.forwards} + {backwards}" if backwards else str(self.forwards)


@contextmanager
def counted() -> Iterator[Passes]:
    """Counts the passes of what runs within the block."""
    found = Passes()
    scores_of = ScoreModel.scores_of

    def differentiated(gradient: Tensor) -> None:
        found.gradients += len(gradient)

    def watched(self: ScoreModel, output: Any, batch: int, *rest: Any) -> Tensor:
        scores = scores_of(self, output, batch, *rest)
        found.forwards += batch
        if scores.requires_grad:
            scores.register_hook(differentiated)
        return scores

    def propagated(trace: Any, seeds: Tensor, rules: Any) -> Any:
        found.traversals += len(seeds)
        return propagate(trace, seeds, rules)

    using = [m for m in list(sys.modules.values()) if vars(m).get("propagate") is propagate]
    with ExitStack() as stack:
        stack.enter_context(patch.object(ScoreModel, "scores_of", watched))
        for module in using:
            if module.__name__ != __name__:
                stack.enter_context(patch.object(module, "propagate", propagated))
        yield found


@dataclass(frozen=True)
class Tried:
    """What a method did on one network.

    Attributes:
        explanation: Of one image, for the first class.
        passes: How many images ran forwards and backwards.
        changes: Whether another class has another map.
    """

    explanation: ek.Explanation
    passes: Passes
    changes: bool


def tried(name: str, network: str) -> Tried | None:
    """A method on a toy network, with its defaults; None if it does not explain it."""
    model, images = toy_models()[network]
    image = images[:1]
    options: dict[str, Any] = {}
    if "layer" in required(name):
        options["layer"] = LAYER[network]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            other = ek.explain(model, image, 1, name, **options)  # looks at the new model, once
        except ek.errors.ExplainkitError:
            return None
        with counted() as passes:
            found = ek.explain(model, image, 0, name, **options)
        changes = _differ(found, other) or any(
            _differ(found, ek.explain(model, image, label, name, **options))
            for label in range(2, CLASSES)
        )
    return Tried(found, passes, changes)


def _differ(one: ek.Explanation, other: ek.Explanation) -> bool:
    return not torch.allclose(one.attribution, other.attribution, rtol=1e-3, atol=1e-9)


def required(name: str) -> set[str]:
    """The fields of a method without defaults."""
    parameters = inspect.signature(discovery.registry("methods").get(name)).parameters
    return {key for key, one in parameters.items() if one.default is one.empty}


def needs(name: str, cnn: Tried | None, vit: Tried | None) -> str:
    """What a model must offer."""
    layered = "layer" in required(name)
    method = load_method(name, layer="3") if layered else load_method(name)
    if only_runs(method):
        return "forwards only"
    result = cnn or vit
    assert result is not None, f"{name} explains neither of the networks"
    parts = {
        "attention": cnn is None,
        "operators": result.explanation.coverage is not None,
        "layer": looks_at_layers(method),
        "gradients": result.passes.gradients > 0,
    }
    return ", ".join(part for part, there in parts.items() if there)


def paper(made: type) -> str:
    """The first reference: its authors and year, with a link if it has one."""
    text = " ".join((inspect.getdoc(made) or "").partition("References:\n")[2].split())
    named = re.match(r"(?P<authors>[^(]+?) \((?P<year>\d{4})\)(?P<rest>.*)", text)
    assert named, f"{made.__name__}: expected References: Authors (year)"
    authors = re.split(r", | and | et al", named["authors"])
    who = " and ".join(authors) if len(authors) < 3 and "al" not in named["authors"][-3:] else ""
    label = f"{who or f'{authors[0]} et al.'} ({named['year']})"
    own = re.split(r"\(\d{4}\)", named["rest"])[0]
    found = re.search(r"(arXiv|doi):([^\s,;]+[^\s,;.])", own)
    if found is None:
        return label
    site = {"arXiv": "https://arxiv.org/abs", "doi": "https://doi.org"}[found[1]]
    return f"[{label}]({site}/{found[2]})"


def other_names(name: str) -> list[str]:
    """What other libraries call a method."""
    found = []
    for theirs, ours in METHODS.items():
        called, _, how = ours.partition(" with ")
        if name in re.split(", | or ", called):
            found.append(f"`{theirs}`" + (f" (with `{how}`)" if how else ""))
    return found


def with_other_names(page: str) -> str:
    """A page that says below each method's heading what other libraries call it."""

    def said(match: re.Match[str]) -> str:
        names = [one for name in re.findall("`(.+?)`", match[1]) for one in other_names(name)]
        return f"{match[1]}\n" + (f"\nAlso called {', '.join(names)}.\n" if names else "")

    return re.sub(r"^(### .*`.*)\n(?:\nAlso called .*\n)?", said, page, flags=re.MULTILINE)


def anchor(name: str, page: str) -> str:
    """The heading under which the page describes a method."""
    heading = re.search(rf"^### (.*`{name}`.*)$", page, re.MULTILINE)
    assert heading, f"docs/reference/methods.md: expected a heading ### `{name}`"
    return heading[1].replace("`", "").replace(" ", "-")


def thumbnail(name: str) -> str:
    """The map of a method on a photo; a dash if it does not explain that network."""
    if not (THUMBNAILS / f"{name}.webp").is_file():
        return "–"
    return f'![Map of the cat by {name}](thumbnails/{name}.webp){{ width="72" }}'


def row(name: str, page: str) -> str:
    """The line of one method."""
    made = discovery.registry("methods").get(name)
    cnn, vit = tried(name, "plain"), tried(name, "vit")
    result = cnn or vit
    assert result is not None, f"{name} explains neither of the networks"
    sums = [text for key, text in SUMS.items() if key in result.explanation.diagnostics]
    values = (
        thumbnail(name),
        f"[`{name}`](#{anchor(name, page)})",
        made.__name__,
        made.__module__.split(".")[2],
        needs(name, cnn, vit),
        str(result.passes),
        "yes" if result.changes else "no",
        "yes" if cnn else "no",
        "yes" if vit else "no",
        ", ".join(sums) or "–",
        paper(made),
    )
    return f"| {' | '.join(values)} |"


def names() -> list[str]:
    """The core's methods, in the order of their names."""
    registered = discovery.registry("methods").names()
    return [name.partition("/")[2] for name in registered if name.startswith("explainkit/")]


def rows(page: str) -> dict[str, str]:
    """Name to line of the methods that a page has."""
    found = TABLE.search(page)
    assert found, f"{PAGE.name}: expected the marker of the table"
    lines = found[0].splitlines()[2:]
    return {line.split("`")[1]: line for line in lines}


def updated(page: str, measured: Collection[str]) -> str:
    """A page with these methods measured anew, and those that it lacks."""
    old = rows(page)
    head = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines = [
        row(name, page) if name in measured or name not in old else old[name] for name in names()
    ]
    return with_other_names(TABLE.sub(lambda _: "\n".join([*head, *lines]), page))


def main() -> None:
    PAGE.write_text(updated(PAGE.read_text(), sys.argv[1:] or names()))


if __name__ == "__main__":
    main()
