"""The legend says what colors mean for each method."""

import pytest
from report_forms import explained

from explainkit.catalog.builtin import explainkit_methods
from explainkit.catalog.factories import load_method, method_params
from explainkit.render.legend import MEANINGS, legend, meaning


def test_every_core_method_is_in_the_table():
    assert explainkit_methods().keys() - MEANINGS.keys() == set()


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("explainkit/lrp", {}, "contribution"),
        ("plugin/lrp", {}, "value"),
        ("explainkit/saliency", {"absolute": True}, "importance"),
        ("explainkit/smoothgrad", {"base": {"method": "explainkit/lrp"}}, "contribution"),
        ("explainkit/smoothgrad", {}, "value"),
    ],
)
def test_meanings(method, params, expected):
    assert meaning(method, params) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [("smoothgrad", "sensitivity"), ("xrai", "contribution"), ("libragrad", "sensitivity")],
)
def test_a_wrapper_means_what_its_base_method_means(method, expected):
    made = load_method(method)
    params = method_params(made)
    assert meaning(f"explainkit/{method}", params) == expected


def test_words_fit_what_was_explained():
    assert legend([explained(at="conv")]).startswith("A larger value here raises (red)")
    found = legend([explained(method="explainkit/lrp", expression="logit(1)")], "gray")
    assert found == "Evidence for (top of the scale) or against (bottom) the explained score"
