"""Metrics have names, hints for names from other libraries, and a contract that is checked."""

import ast
from pathlib import Path

import pytest
import torch

import explainkit as ek
from explainkit import metrics
from explainkit.catalog import builtin
from explainkit.catalog.discovery import GIVEN, Plugins, is_metric, registry
from explainkit.catalog.synonyms import METRICS
from explainkit.errors import UnknownNameError

GOOD = """
from explainkit import hookimpl

def largest(attribution, *, power=1):
    '''The largest value.'''
    return attribution.flatten(1).amax(1) ** power

@hookimpl
def explainkit_metrics():
    return {{"largest": {value}}}
"""


def offered(fakes, value):
    fakes.add("mine", GOOD.format(value=value))
    plugins = Plugins(fakes.entry_points(), strict=False)
    names = plugins.registry("metrics").names()
    (report,) = [report for report in plugins.reports() if report.name == "mine"]
    return plugins, "mine/largest" in names, report.error


def test_a_plugin_offers_a_function(fakes):
    plugins, found, error = offered(fakes, "largest")
    assert (found, error) == (True, "")
    metric = plugins.registry("metrics").get("largest")
    assert metric(torch.tensor([[1.0, 3.0]]), power=2).tolist() == [9.0]


@pytest.mark.parametrize("value", ["3", "lambda maps: maps", "lambda *a: a", "int", "len"])
def test_what_is_not_a_metric_is_skipped_with_the_reason(fakes, value):
    _, found, error = offered(fakes, value)
    assert not found
    assert "explainkit_metrics returns" in error
    assert "a function of model, inputs, attribution, target, mask, method" in error


def test_every_metric_can_be_imported_and_type_checkers_see_all():
    paths = set(builtin.explainkit_metrics().values())
    made = [getattr(metrics, name) for name in dir(metrics)]
    assert {f"{one.__module__}:{one.__name__}" for one in made} == paths
    assert all(map(is_metric, made))
    tree = ast.parse(Path(metrics.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {f"{one.module}:{alias.asname}" for one in block.body for alias in one.names}
    assert seen == paths


def test_every_metric_says_what_it_is():
    for name, summary in ek.list_metrics().items():
        text = registry("metrics").get(name).__doc__
        assert summary.endswith("."), name
        assert "Returns:" in text, name
        assert name.endswith("area_share") or "References:" in text, name
    assert set(GIVEN) >= {"model", "mask"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("ROAD", "road"),
        ("FaithfulnessCorrelation", "faithfulness_correlation"),
        ("Max-Sensitivity", "max_sensitivity"),
        ("PointingGame", "pointing_game"),
    ],
)
def test_other_spellings_resolve(theirs, ours):
    assert registry("metrics").qualify(theirs) == f"explainkit/{ours}"


@pytest.mark.parametrize("theirs", ["PixelFlipping", "ModelParameterRandomization", "Sparseness"])
def test_other_names_are_errors_that_say_the_difference(theirs):
    with pytest.raises(UnknownNameError, match=r"here it is called \w+, .*list metrics"):
        registry("metrics").get(theirs)
    with pytest.raises(AttributeError, match="here it is called"):
        getattr(metrics, theirs)


def test_hints_name_metrics_that_exist():
    known = {name.partition("/")[2] for name in ek.list_metrics()}
    assert {ours.partition(",")[0] for ours in METRICS.values()} <= known
    assert not known & METRICS.keys()
