"""`check_method` finds each violation of the method contract."""

import dataclasses

import pytest
import torch

from explainkit.methods.gradient import input_gradient
from explainkit.testing import check_method, toy_models


def method(call):
    namespace = {"__call__": lambda self, *args: call(*args)}
    return dataclasses.make_dataclass("Made", [], frozen=True, namespace=namespace)()


def remembers(calls=[]):  # noqa: B006 - the fault under test
    def call(model, x, target):
        calls.append(1)
        return input_gradient(model, x, target) * len(calls)

    return call


def looks_at_neighbors(model, x, target):
    return input_gradient(model, x, target) * x.mean()


def depends_on_the_position(model, x, target):
    return input_gradient(model, x, target) * torch.arange(1, len(x) + 1)[:, None, None, None]


def draws_by_position(model, x, target):
    return input_gradient(model, x, target) + torch.rand_like(x)


FAULTS = {
    "a different map": (remembers(), "the same seed gives a different map|the other images"),
    "a zero map": (lambda model, x, target: x * 0, "the map is zero everywhere"),
    "neighbors": (
        looks_at_neighbors,
        "depends on the rest of the batch|depends on the other images",
    ),
    "the position": (depends_on_the_position, "depends on the order of the batch"),
    "draws": (draws_by_position, "depends on the order of the batch"),
    "float32 only": (
        lambda model, x, target: input_gradient(model, x, target).float().double().log().exp(),
        "finite|expected a finite map",
    ),
}


@pytest.mark.parametrize(("call", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_found(call, message):
    with pytest.raises((AssertionError, ValueError), match=message):
        check_method(method(call), {"plain": toy_models()["plain"]})


def test_a_change_outside_the_model_is_found():
    """The engine restores the model; only the check can see changes elsewhere."""

    def call(model, x, target):
        images = toy["plain"][1]
        with torch.no_grad():
            images.add_(1e-3)
        return input_gradient(model, x, target)

    toy = {"plain": toy_models()["plain"]}
    with pytest.raises(AssertionError, match="images is changed"):
        check_method(method(call), toy)
