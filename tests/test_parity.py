"""The parity page: Captum's rows are measured again, and the page has every row."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from explainkit.catalog import discovery

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import parity
from peer_rows import captum_inner, captum_rows, wrong
from peer_rows.rows import RELATIVE

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU"),
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:.*did not already require gradients"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROWS = [
    row
    for rows in (
        captum_rows.gradient_rows, captum_rows.path_rows, captum_rows.propagation_rows,
        captum_inner.layer_rows, captum_inner.neuron_rows, captum_inner.perturbation_rows,
    )
    for row in rows()
]  # fmt: skip
PAGE = (ROOT / "docs/reference/parity.md").read_text()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.method}-{row.peer}-{row.network}",
            marks=[pytest.mark.slow] if row.network.startswith("fer_hw3") else [],
        )
        for row in ROWS
    ],
)
def test_captum(row):
    if row.requires and importlib.util.find_spec(row.requires) is None:
        pytest.skip(f"{row.peer} needs {row.requires}, which is not installed")
    assert row.difference() <= row.tolerance


@pytest.mark.parametrize("fault", wrong.captum_faults(), ids=lambda fault: fault.case[:30])
def test_where_captum_is_wrong_ours_is_the_truth(fault):
    ours, theirs = fault.results()
    assert ours == fault.truth
    assert theirs != fault.truth, f"{fault.peer} is correct now: update the page"


def test_a_difference_above_the_tolerance_fails():
    row = ROWS[0]
    one, other = row.compare()
    changed = type(row)(row.method, row.peer, row.network, lambda: (one * 1.01, other), 1e-3)
    assert changed.difference() > changed.tolerance


def lines(table):
    """The cells of a table, identified by the first cell of its header."""
    found, inside = [], False
    for line in PAGE.splitlines():
        if line.startswith(f"| {table} |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found.append([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def test_the_page_has_every_row_within_its_tolerance():
    on_page = {tuple(cells[:3]): cells[3:5] for cells in lines("method") + lines("metric")}
    rows = parity.all_rows()
    assert on_page.keys() == {(f"`{r.method}`", r.peer, r.network) for r in rows}
    for row in rows:
        shown, bound = on_page[f"`{row.method}`", row.peer, row.network]
        assert bound == parity.number(row.tolerance, row.unit)
        assert float(shown.split()[0]) <= row.tolerance
        assert shown.endswith("standard errors") == (row.unit != RELATIVE)


def test_the_page_has_every_case_where_a_peer_is_wrong():
    on_page = lines("case")
    faults = parity.all_faults()
    assert [cells[0] for cells in on_page] == [parity.escaped(fault.case) for fault in faults]
    for (case, _, truth, ours, theirs), fault in zip(on_page, faults, strict=True):
        assert ours == truth == fault.truth, case
        assert theirs.endswith(f"({fault.peer})"), case
        assert not theirs.startswith(f"{truth} ("), case


def test_the_page_names_every_method():
    named = set(re.findall(r"`(\w+)`", PAGE))
    names = discovery.registry("methods").names()
    missing = {name.partition("/")[2] for name in names if name.startswith("explainkit/")} - named
    others = {"gradient_shap"}  # an alias of expected_gradients
    assert missing <= others, "run benchmarks/parity.py again"
