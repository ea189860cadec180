"""The algebra of targets and objectives against plain arithmetic."""

import operator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import explainkit as ek
from explainkit.errors import TargetError
from explainkit.expressions import (
    Scope,
    all_log_odds,
    alpha,
    caricature,
    channel,
    channels,
    class_logit,
    classes,
    direction,
    diversity,
    evaluate_each,
    layer,
    log_odds,
    logit,
    neuron,
    norm,
    parse,
    tv,
)
from explainkit.expressions.text import shortened

BATCH, NAMES = 3, ("angry", "fear", 'qu"oted ☺')
torch.manual_seed(0)
SCOPE = Scope(
    logits=torch.randn(BATCH, 3, dtype=torch.float64),
    activations={
        "conv": torch.randn(BATCH, 4, 5, 6, dtype=torch.float64),
        "tokens": torch.randn(BATCH, 7, 4, dtype=torch.float64),
        "fc": torch.randn(BATCH, 4, dtype=torch.float64),
    },
    images=torch.randn(BATCH, 2, 8, 9, dtype=torch.float64),
    class_names=NAMES,
)
CONV, TOKENS, FC = SCOPE.activations.values()


def value(expression, scope=SCOPE):
    return expression.evaluate(scope.logits, scope.activations, scope.images, scope.class_names)


TERMS = [
    (logit("fear"), SCOPE.logits[:, 1]),
    (logit(2), SCOPE.logits[:, 2]),
    (logit('qu"oted ☺'), SCOPE.logits[:, 2]),
    (class_logit(0), SCOPE.logits[:, 0]),
    (channel("conv", 2), CONV[:, 2].mean((1, 2))),
    (channel("tokens", 2), TOKENS[:, :, 2].mean(1)),
    (channel("fc", 2), FC[:, 2]),
    (neuron("conv", 1), CONV[:, 1, 2, 3]),
    (neuron("conv", 1, 4, 0), CONV[:, 1, 4, 0]),
    (neuron("conv", 1, 4), CONV[:, 1, 4, 3]),
    (neuron("tokens", 1, 0), TOKENS[:, 0, 1]),
    (neuron("fc", 3), FC[:, 3]),
    (direction("conv", [1, -2, 0, 0.5]), CONV.mean((2, 3)) @ torch.tensor([1, -2, 0, 0.5]).double()),
    (direction("tokens", (0, 0, 1, 0)), TOKENS[:, :, 2].mean(1)),
    (direction("fc", torch.tensor([0.0, 0, 0, 1])), FC[:, 3]),
    (layer("conv"), CONV.square().mean((1, 2, 3))),
    (norm(), SCOPE.images.square().mean((1, 2, 3)).sqrt()),
    (alpha(), SCOPE.logits.new_ones(len(SCOPE.logits))),
    (norm(3), SCOPE.images.abs().pow(3).mean((1, 2, 3)).pow(1 / 3)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("term", "wanted"), TERMS, ids=lambda v: str(v) if not isinstance(v, torch.Tensor) else ""
)
def test_terms_read_what_they_say(term, wanted):
    torch.testing.assert_close(value(term), wanted)
    assert parse(str(term)) == term
    assert hash(parse(str(term))) == hash(term)


def z_scores(layer, channel_statistics):
    means = layer.flatten(2).mean(2) if layer.dim() == 4 else layer
    return (means - channel_statistics[0]) / channel_statistics[1]


def test_log_odds_of_a_channel_among_its_layers():
    channel_statistics = (
        torch.tensor([0.1, -0.2, 0, 1]).double(),
        torch.tensor([1, 0.5, 2, 3]).double(),
    )
    scope = replace(
        SCOPE, channel_statistics={"conv": channel_statistics, "fc": channel_statistics}
    )
    for path, found in (("conv", CONV), ("fc", FC)):
        units = [log_odds(path, 2), log_odds(path, 0), log_odds(path, 2)]
        z = z_scores(found, channel_statistics)
        probabilities = z.softmax(1)[range(3), [unit.index for unit in units]]
        torch.testing.assert_close(evaluate_each(units, scope), probabilities.logit())
    assert parse('log_odds("conv", 2)') == log_odds("conv", 2)
    assert log_odds("conv", 2).z_scored == all_log_odds("conv").z_scored == {"conv"}
    assert channel("conv", 2).z_scored == frozenset()
    assert all_log_odds("conv", [3, 1]).expand({"conv": 4}, None) == [
        log_odds("conv", 3),
        log_odds("conv", 1),
    ]
    assert len(all_log_odds("conv").expand({"conv": 4}, None)) == 4


def test_a_constant_channel_is_not_divided_by_zero():
    channel_statistics = torch.zeros(4).double(), torch.tensor([1.0, 0, 1, 1]).double()
    scope = replace(SCOPE, channel_statistics={"fc": channel_statistics})
    others = FC[:, [0, 2, 3]].logsumexp(1)
    found = evaluate_each([log_odds("fc", 1)] * BATCH, scope)
    torch.testing.assert_close(found, FC[:, 1] - others)


def test_log_odds_need_a_data_set_and_other_channels():
    with pytest.raises(TargetError, match="give maximize a dataset"):
        value(log_odds("conv", 2))
    one = torch.ones(1).double()
    scope = replace(
        SCOPE, activations={"conv": CONV[:, :1]}, channel_statistics={"conv": (one, one)}
    )
    with pytest.raises(TargetError, match="one of several channels of layer 'conv', which has 1"):
        evaluate_each([log_odds("conv", 0)] * BATCH, scope)
    scope = replace(SCOPE, channel_statistics={"conv": (one, one)})
    with pytest.raises(TargetError, match="which has 4, got 4"):
        evaluate_each([log_odds("conv", 4)] * BATCH, scope)


def test_total_variation_counts_steps_down_and_right():
    images = torch.zeros(1, 1, 2, 3)
    images[0, 0, :, 2] = 2.0
    assert float(tv().evaluate(None, {}, images)) == pytest.approx(4 / 6)


def term_and_value(index):
    return TERMS[index]


def number_and_value(number):
    return float(number), torch.full((BATCH,), float(number), dtype=torch.float64)


LEAVES = st.one_of(
    st.integers(0, len(TERMS) - 1).map(term_and_value),
    st.floats(-100, 100).map(number_and_value),
    st.integers(-5, 5).map(number_and_value),
)
SIGNS = [operator.add, operator.sub, operator.mul, operator.truediv]


def combine(inner):
    both = st.tuples(st.sampled_from(SIGNS), inner, inner).filter(
        lambda t: not (isinstance(t[1][0], float | int) and isinstance(t[2][0], float | int))
    )
    binary = both.map(lambda t: (t[0](t[1][0], t[2][0]), t[0](t[1][1], t[2][1])))
    return binary | inner.map(lambda t: (-t[0], -t[1]))


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(LEAVES, combine, max_leaves=12).filter(lambda t: not isinstance(t[0], float | int))
)
def test_algebra_is_arithmetic_and_its_text_reads_back(pair):
    expression, wanted = pair
    before = repr(expression)
    found = value(expression)
    torch.testing.assert_close(found, wanted, equal_nan=True)
    again = parse(str(expression))
    assert torch.equal(value(again).nan_to_num(), found.nan_to_num())
    assert str(again) == str(expression)
    assert again == expression
    assert repr(expression) == before, "an operand was changed"


def test_weighted_sums_keep_their_weights():
    """Two libraries turn 1a + 3b − 5c into −15a − 15b − 5c."""
    a, b, c = (channel("fc", k) for k in range(3))
    found = value(a * 1 + b * 3 + c * (-5))
    torch.testing.assert_close(found, FC[:, 0] + 3 * FC[:, 1] - 5 * FC[:, 2])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 - (2 - 3)", "1 - (2 - 3)"),
        ("1 - 2 - 3", "1 - 2 - 3"),
        ("logit(1) / (2 * 3)", "logit(1) / (2 * 3)"),
        ("(logit(1) + 1) * 2", "(logit(1) + 1) * 2"),
        ("-(logit(1) + 1)", "-(logit(1) + 1)"),
        ("1e-7 * logit(1)", "1e-07 * logit(1)"),
        (' channel(layer="a.b", index=7) ', 'channel("a.b", 7)'),
        ("class_logit('fear')", 'logit("fear")'),
    ],
)
def test_text_has_one_form(text, wanted):
    assert str(parse(text)) == wanted


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "can't read"),
        ("logit(", "can't read"),
        ("logit(fear)", "a quoted name, got 'fear'"),
        ("logits('fear')", "did you mean 'logit'"),
        ("logit()", "missing 1 required"),
        ("logit(True)", "a quoted name"),
        ("logit(1, 2, 3)", "positional"),
        ("channel('a', -1)", "from 0, got -1"),
        ("channel('a', 1.5)", "an integer"),
        ("channel(3, 1)", "dotted path"),
        ("direction('a', [])", "list of numbers"),
        ("direction('a', ['x'])", "list of numbers"),
        ("neuron('a', 1, x=3)", "x alone"),
        ("norm(0.5)", "p from 1"),
        ("logit(1) ** 2", "+ - * /"),
        ("logit(1) if 1 else 2", "+ - * /"),
        ("__import__('os').system('true')", "got \"__import__('os').system('true')\""),
        ("logit(*[1])", "expected a number, a list"),
        ("logit(**{'name': 1})", "expected a number, a list"),
        ("1e999", "finite"),
        ("logit(1) + " * 20000 + "1", "nests too deeply"),
        ("logit(1) + " * 300 + "1", "nests too deeply"),
        ("9" * 5000, "can't read"),
        ("(" * 300 + "1" + ")" * 300, "can't read"),
        ("logit('a\0')", "can't read"),
    ],
)
def test_bad_text_is_one_clear_line(text, part):
    with pytest.raises(TargetError) as caught:
        parse(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        (logit("happy"), "angry, fear"),
        (logit(3), "from 0 to 2"),
        (channel("other", 0), "got only: 'conv'"),
        (channel("conv", 4), "from 0 to 3, got 4"),
        (neuron("conv", 0, 5, 0), r"within \[5, 6\], got \[5, 0\]"),
        (neuron("fc", 0, 1), "0 spatial axes"),
        (neuron("tokens", 0, 1, 1), "1 spatial axes"),
        (direction("conv", [1.0]), "has 4 channels, got a vector of 1"),
        (caricature("conv"), "start"),
        (channels("conv"), "only maximize"),
    ],
)
def test_errors_name_what_does_not_exist(expression, part):
    with pytest.raises(TargetError, match=part):
        value(expression)


def test_errors_name_missing_inputs():
    with pytest.raises(TargetError, match="logits, got none"):
        logit(0).evaluate(None, {}, SCOPE.images)
    with pytest.raises(TargetError, match="image itself"):
        (logit(0) + tv()).evaluate(SCOPE.logits, {})
    with pytest.raises(TargetError, match=r"expected an output \[3, channel"):
        channel("a", 0).evaluate(SCOPE.logits, {"a": torch.zeros(5, 3)})


def test_only_numbers_combine():
    for other in ("2", None, True, torch.ones(3)):
        with pytest.raises(TypeError):
            channel("a", 1) + other


def test_what_an_expression_uses_is_known_in_advance():
    both = channel("a", 0) * logit(1) - neuron("b", 2) / 2 + tv()
    assert both.layers == {"a", "b"}
    assert both.uses_logits
    assert both.uses_images
    assert not channel("a", 0).uses_logits
    assert logit(0).layers == frozenset()


def test_each_image_under_its_own_expression():
    expressions = [2 * channel("conv", k) - neuron("tokens", k, k) for k in range(BATCH)]
    found = evaluate_each(expressions, SCOPE)
    wanted = torch.stack([value(e)[i] for i, e in enumerate(expressions)])
    assert torch.equal(found, wanted)
    with pytest.raises(TargetError, match="one form"):
        evaluate_each([channel("conv", 0), logit(0), logit(1)], SCOPE)


def test_families_expand_inside_expressions():
    family = channels("conv") - 0.5 * tv()
    assert family.expand({"conv": 2}, None) == [channel("conv", k) - 0.5 * tv() for k in range(2)]
    assert channels("conv", [3, 1]).expand({"conv": 4}, None) == [
        channel("conv", 3),
        channel("conv", 1),
    ]
    assert classes().expand({}, 2) == [logit(0), logit(1)]
    assert logit(0).expand({}, 9) == [logit(0)]
    assert parse(str(family)) == family
    with pytest.raises(TargetError, match="one family"):
        (channels("conv") + classes()).expand({"conv": 2}, 2)


def test_diversity_is_zero_for_equal_images_and_one_for_different_ones():
    same = torch.rand(1, 3, 4, 4).expand(3, 3, 4, 4)
    assert diversity("a").evaluate(None, {"a": same}).abs().max() < 1e-6
    unlike = torch.zeros(2, 2, 3, 3)
    unlike[0, 0], unlike[1, 1] = 1, 1
    assert torch.equal(diversity("a").evaluate(None, {"a": unlike}), torch.ones(2))
    assert float(diversity("a").evaluate(None, {"a": same[:1]})) == 0


def test_caricature_projects_on_the_reference():
    scope = Scope(None, {"fc": FC}, None, (), {"fc": FC[:1]})
    found = evaluate_each([caricature("fc", 0)] * BATCH, scope)
    torch.testing.assert_close(found, FC @ FC[0] / FC[0].norm())


def test_gradients_flow_and_are_finite_at_zero():
    images = torch.zeros(2, 1, 4, 4, requires_grad=True)
    (norm() + tv()).evaluate(None, {}, images).sum().backward()
    assert torch.isfinite(images.grad).all()


def test_directions_are_shown_without_their_numbers():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 64, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    ).eval()  # fmt: skip
    term = direction("1", [0.125] * 64)
    found = ek.explain(net, torch.rand(1, 1, 4, 4), term)
    assert found.target_name(0) == 'direction("1", [64 numbers])'
    assert parse(found.expression) == term
    assert "0.125" not in repr(ek.maximize(net, [term], shape=(1, 4, 4), steps=1))
    few = 'direction("1", [0.5, -1]) - logit("[1, 2]")'
    assert shortened(few) == few
