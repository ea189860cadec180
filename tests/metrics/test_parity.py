"""Our metrics equal those of Quantus and Captum where these are right, and the truth elsewhere."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peer_rows import metric_rows
from peer_rows.rows import missing

pytestmark = pytest.mark.filterwarnings("ignore")


def needed(peer):
    if missing(peer):
        pytest.skip(f"{peer}: not installed")


@pytest.mark.parametrize("row", metric_rows.rows(), ids=lambda row: row.method)
def test_rows(row):
    needed(row.peer)
    assert row.difference() <= row.tolerance


@pytest.mark.parametrize("fault", metric_rows.faults(), ids=lambda fault: fault.case[:25])
def test_ours_is_the_truth(fault):
    assert str(fault.ours()) == fault.truth


@pytest.mark.parametrize("fault", metric_rows.faults(), ids=lambda fault: fault.case[:25])
def test_the_peer_is_not(fault):
    needed(fault.peer)
    _, theirs = fault.results()
    assert theirs != fault.truth, f"{fault.peer} is correct now: update the page"
