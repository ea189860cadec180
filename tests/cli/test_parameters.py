"""Parameters as text become typed values, or a one-line error."""

import pytest

from explainkit.cli.parameters import parse_params
from explainkit.errors import MethodError, UnknownNameError


@pytest.mark.parametrize(
    ("method", "text", "value"),
    [
        ("saliency", "absolute=true", {"absolute": True}),
        ("saliency", "absolute = No", {"absolute": False}),
        ("integrated_gradients", "steps=7", {"steps": 7}),
        ("integrated_gradients", "baseline=-0.5", {"baseline": -0.5}),
        ("integrated_gradients", "tolerance=none", {"tolerance": None}),
        ("integrated_gradients", "tolerance=1e-3", {"tolerance": 1e-3}),
        ("integrated_gradients", "rule=riemann_left", {"rule": "riemann_left"}),
        ("smoothgrad", "base=explainkit/saliency", {"base": "explainkit/saliency"}),
    ],
)
def test_values(method, text, value):
    assert parse_params(method, [text]) == value


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("saliency", "absolute=maybe", "absolute: expected true or false, got 'maybe'"),
        ("saliency", "absolute", "as name=value, got 'absolute'"),
        ("saliency", "absolut=1", "takes absolute, got 'absolut'; did you mean 'absolute'"),
        ("input_x_gradient", "x=1", "takes no parameters, got 'x'"),
        ("integrated_gradients", "steps=7.5", "steps: expected a whole number or none, got '7.5'"),
        ("integrated_gradients", "rule=simpson", "rule: expected gausslegendre or riemann_left"),
        ("integrated_gradients", "tolerance=x", "tolerance: expected a number or none, got 'x'"),
        ("smoothgrad", "seed=3", "got 'seed'"),
    ],
)
def test_errors(method, text, message):
    with pytest.raises(MethodError, match=message):
        parse_params(method, [text])


def test_unknown_method():
    with pytest.raises(UnknownNameError, match="did you mean 'saliency'"):
        parse_params("salincy", [])


@pytest.mark.parametrize(
    ("maximizer", "text", "value"),
    [
        ("fourier", "decay=1.5", {"decay": 1.5}),
        ("plain", "steps=9", {"steps": 9}),
        ("maco", "jitter=none", {"jitter": None}),
        ("pixel", "padding=zeros", {"padding": "zeros"}),
        ("pyramid", "flip=yes", {"flip": True}),
    ],
)
def test_fields_of_a_maximizer(maximizer, text, value):
    assert parse_params(maximizer, [text], "maximizers") == value


def test_errors_of_a_maximizer():
    with pytest.raises(MethodError, match="fourier takes .*, got 'deca'; did you mean 'decay'"):
        parse_params("fourier", ["deca=1"], "maximizers")
