"""Our metrics equal those of Quantus and Captum where these are right, and the truth elsewhere."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import parity_metrics

pytestmark = pytest.mark.filterwarnings("ignore")


def needed(peer):
    if parity_metrics.missing(peer.partition(" ")[0]):
        pytest.skip(f"{peer}: not installed")


@pytest.mark.parametrize("row", parity_metrics.rows(), ids=lambda row: row.metric)
def test_rows(row):
    needed(row.peer)
    assert row.difference() <= parity_metrics.TOLERANCE


@pytest.mark.parametrize("fault", parity_metrics.faults(), ids=lambda fault: fault.case[:25])
def test_ours_is_the_truth(fault):
    assert str(fault.ours()) == fault.truth


@pytest.mark.parametrize("fault", parity_metrics.faults(), ids=lambda fault: fault.case[:25])
def test_the_peer_is_not(fault):
    needed(fault.peer)
    _, theirs = fault.results()
    assert theirs != fault.truth, f"{fault.peer} is correct now: update the page"
