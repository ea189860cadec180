"""Owen values against brute force over all orders that keep the tree's parts together."""

import pytest
import torch
from games import Game, linear_model, owen, values_of

import explainkit as ek
from explainkit.errors import ExplainkitWarning, MethodError
from explainkit.methods.perturbation.partition import PartitionShap
from explainkit.testing import check_method, toy_models


@pytest.mark.parametrize(
    ("height", "width", "groups"),
    [
        (2, 2, [{0, 1}, {2, 3}]),
        (1, 3, [{1, 2}]),
        (2, 3, [{0, 3}, {1, 2, 4, 5}, {1, 2}, {4, 5}]),
        (3, 2, [{0, 1}, {2, 3, 4, 5}, {2, 3}, {4, 5}]),
        (2, 4, [{0, 1, 4, 5}, {2, 3, 6, 7}, {0, 1}, {4, 5}, {2, 3}, {6, 7}]),
    ],
)
def test_exact_where_every_part_is_split(height, width, groups):
    model = Game(height, width).double()
    x = torch.rand(1, 1, height, width, dtype=torch.float64)
    labels = torch.arange(height * width).reshape(height, width)
    values = values_of(model, x[0], torch.full_like(x[0], 0.3), labels, 1)
    e = ek.explain(model, x, 1, PartitionShap(samples=10_000, baseline=0.3))
    torch.testing.assert_close(e.attribution.flatten(), owen(values, groups))


@pytest.mark.parametrize("samples", [3, 40, 200])
def test_the_map_sums_to_the_change_and_the_budget_is_kept(samples):
    model, x = toy_models()["plain"]
    images = []
    handle = model.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    e = ek.explain(model, x, 2, PartitionShap(samples=samples, baseline="mean"), batch_size=4)
    handle.remove()
    change = (model(x) - model(x.mean((2, 3), keepdim=True).expand_as(x)))[:, 2].detach()
    torch.testing.assert_close(e.attribution.sum((1, 2, 3)), change, atol=1e-5, rtol=1e-4)
    assert samples - 1 <= int(e.diagnostics["samples"].max()) <= samples
    assert sum(images) == 4 + int(e.diagnostics["samples"].sum())


def test_it_looks_where_the_score_is():
    model, weight = linear_model((1, 32, 32))
    weight.data.zero_()
    weight.data[0, 0, 5, 7] = 3
    x = torch.ones(1, 1, 32, 32)
    e = ek.explain(model, x, 0, PartitionShap(samples=3000))
    assert float(e.attribution[0, 0, 5, 7]) == pytest.approx(3, abs=1e-4)
    assert float(e.attribution.abs().sum()) == pytest.approx(3, abs=1e-4)


def test_time_and_interrupts_leave_a_map():
    model, x = toy_models()["plain"]
    with pytest.warns(ExplainkitWarning, match="stopped after 43 of 5000 samples"):
        e = ek.explain(model, x, 0, PartitionShap(samples=5000, max_seconds=1e-9))
    change = (model(x) - model(torch.zeros_like(x)))[:, 0].detach()
    assert e.diagnostics["partial"]
    torch.testing.assert_close(e.attribution.sum((1, 2, 3)), change, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "batch_norm", "tuple"])
def test_conformance(kind):
    check_method(PartitionShap(samples=90), {kind: toy_models()[kind]})


@pytest.mark.parametrize(
    ("params", "message"),
    [({"samples": 2}, "samples: expected at least 3"), ({"max_seconds": -1.0}, "max_seconds")],
)
def test_bad_parameters(params, message):
    with pytest.raises(MethodError, match=message):
        PartitionShap(**params)
