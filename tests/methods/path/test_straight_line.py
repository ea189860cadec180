"""The line integral, and walking a path in chunks."""

import pytest
import torch
from torch import nn

from explainkit.engine.model import ScoreModel
from explainkit.errors import MethodError, ModelError
from explainkit.interfaces import Attribution
from explainkit.methods.path.straight_line import (
    as_baselines,
    complete,
    line_integral,
    score_and_gradient,
    visit,
)
from explainkit.testing import toy_models

TARGET = torch.tensor([0, 3, 1, 4])


@pytest.mark.parametrize("size", [1, 3, 4, 9, 64])
def test_chunks_change_no_number_and_call_as_seldom_as_they_can(size):
    model, x = toy_models()["mlp"]
    calls = []
    scorer = ScoreModel(model, batch_size=size)
    handle = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    visits = list(visit(scorer, [x * k / 4 for k in range(5)], x, TARGET))
    handle.remove()
    assert max(calls) <= size
    assert len(calls) == {1: 20, 3: 10, 4: 5, 9: 3, 64: 1}[size]
    for k, found in enumerate(visits):
        points = (x * k / 4).requires_grad_()
        scores = model(points).gather(1, TARGET[:, None])[:, 0]
        (gradients,) = torch.autograd.grad(scores.sum(), points)
        assert torch.equal(found.points, points)
        torch.testing.assert_close(found.scores, scores.detach().double(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.gradients, gradients)


def test_in_low_precision_sums_are_kept_in_float32():
    model, x = toy_models()["mlp"]
    model, x = model.bfloat16(), x.bfloat16()
    visits = list(visit(model, [x * 0, x], x, TARGET))
    assert (
        {v.points.dtype for v in visits} == {v.gradients.dtype for v in visits} == {torch.float32}
    )
    assert line_integral(visits, x.dtype).values.dtype == torch.bfloat16


def test_a_path_of_one_point_is_none():
    model, x = toy_models()["mlp"]
    with pytest.raises(MethodError, match="at least two points"):
        line_integral(visit(model, [x], x, TARGET), x.dtype)


def test_a_model_that_cuts_the_gradient_is_refused():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 5, requires_grad=True) * 2

    for model in (Cut(), Constant()):
        with pytest.raises(ModelError, match="no gradient reaches them"):
            score_and_gradient(model, torch.rand(4, 1, 2, 3), TARGET)


def test_a_shared_baseline_is_seen_to_be_shared():
    model, x = toy_models()["plain"]
    for baseline in (0.3, torch.rand(3, 12, 10)):
        assert as_baselines(model, baseline, x).stride(0) == 0
    assert as_baselines(model, torch.rand(4, 3, 12, 10), x).stride(0) != 0


@pytest.mark.parametrize(
    ("dtype", "values", "change", "warned"),
    [
        (torch.float32, [1.0, 1.0], 2.09, False),
        (torch.float32, [1.0, 1.0], 2.11, True),
        (torch.float32, [0.001, 0.001], 0.004, False),  # differences are at least 0.05
        (torch.float32, [0.001, 0.001], 0.006, True),
        (torch.float32, [1e6, -1e6], 0.1, False),  # closer than the rounding of two large parts
        (torch.bfloat16, [4.0, -4.0], 0.06, False),
        (torch.float32, [4.0, -4.0], 0.06, True),
    ],
)
def test_a_gap_is_warned_of_if_it_is_more_than_rounding(dtype, values, change, warned):
    a = torch.tensor(values, dtype=dtype).view(1, 1, 1, 2)
    found = complete(Attribution(a), torch.tensor([change]).double(), "raise steps")
    assert len(found.warnings) == warned
    gap = abs(sum(values) - change) / max(abs(change), 0.05)
    assert float(found.diagnostics["completeness_gap"]) == pytest.approx(gap, rel=1e-5)
