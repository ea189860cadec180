"""The quality page is the output of its script."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

import maximize_quality
import torch

PAGE = (ROOT / "docs/reference/maximization-quality.md").read_text()


def test_the_page_names_its_script_and_is_in_the_navigation():
    assert "This page is generated" in PAGE
    assert "`benchmarks/maximize_quality.py`" in PAGE
    assert "reference/maximization-quality.md" in (ROOT / "mkdocs.yml").read_text()


def test_every_section_has_every_maximizer_and_every_measure():
    *sections, targets = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert sections[-1].startswith("Classes")
    for section in sections:
        rows = [line for line in section.splitlines() if line.startswith("|")]
        assert rows[0] == f"| maximizer | {' | '.join(maximize_quality.HEADINGS)} |"
        maximizers = [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]
        asked = list(maximize_quality.MAXIMIZERS)
        if section.startswith("Classes"):  # log odds are of channels
            asked.remove(maximize_quality.SELECTIVE)
        assert maximizers == [*asked, "exemplar"]
        assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert targets.startswith("Targets")


def test_what_is_missed_is_called_missed():
    _, targets = PAGE.split("## Targets")
    head, _, *rows = [line for line in targets.splitlines() if line.startswith("|")]
    both = f"{maximize_quality.TRANSFORMED} | {maximize_quality.SELECTIVE}"
    assert head == f"| measure | at least | {both} |"
    assert len(rows) == 4
    for row in rows:
        _, *cells = row.strip("| ").split(" | ")
        least, *values = (float(re.match(r"[\d.]+", cell)[0]) for cell in cells)
        missed = [cell.endswith(", missed") for cell in cells[1:]]
        assert missed == [value < least for value in values]


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(40, 30, 4, generator=generator)
    same = [
        maximize_quality.kernel_distance(a, b) for a, b in zip(draws[:20], draws[20:], strict=True)
    ]
    assert abs(sum(same) / 20) < 0.2
    assert min(same) < 0, "an unbiased estimate goes below zero"
    assert maximize_quality.kernel_distance(draws[0], draws[1] + 2) > 10
