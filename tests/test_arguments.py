"""Arguments of the wrong type or out of range: one line of ours, whatever they are."""

import dataclasses
import typing

import pytest
import torch

import explainkit as ek
from explainkit import methods
from explainkit.catalog import discovery
from explainkit.catalog.builtin import METHOD_CLASSES
from explainkit.catalog.fields import fits
from explainkit.errors import ExplainkitError, InputError, MethodError, TargetError

NAN, INF = float("nan"), float("inf")
ODD = [1.5, "x", b"x", [], {}, object(), NAN, INF, 10**30, 1j, int, torch.tensor([1, 2]), (1,)]
torch.manual_seed(2)
NET = torch.nn.Sequential(
    torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 3)
).eval()
IMAGES = torch.rand(2, 1, 6, 6)


@pytest.mark.parametrize("name", ["seed", "batch_size", "keep_mode"])
def test_odd_numbers_of_explain(name):
    for value in ODD:
        with pytest.raises(InputError, match=f"^{name}: expected ") as caught:
            ek.explain(NET, IMAGES, 0, **{name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["seed", "batch_size", "keep_mode", "restarts", "frames", "negative"]
)
def test_odd_numbers_of_maximize(name):
    for value in ODD:
        with pytest.raises(InputError, match=f"^{name}: expected "):
            ek.maximize(NET, "logit(0)", shape=(1, 6, 6), steps=1, **{name: value})


@pytest.mark.parametrize("name", ["model", "inputs", "at", "output", "task", "target", "targets"])
def test_what_is_no_such_thing(name):
    for value in [5, 1.5, object(), NAN, 10**30, 1j, int, "a\0b"]:
        given = {"model": NET, "inputs": IMAGES, name: value}
        with pytest.raises(ExplainkitError) as caught:
            ek.explain(**given)
        assert "\n" not in str(caught.value)


def test_a_text_is_neither_a_list_of_classes_nor_of_names():
    with pytest.raises(TargetError, match="targets: expected 'all' or a list, got 'sad'"):
        ek.explain(NET, IMAGES, targets="sad")
    with pytest.raises(TargetError, match="class_names: expected a list of names, got 'abc'"):
        ek.explain(NET, IMAGES, 0, class_names="abc")
    with pytest.raises(TargetError, match="class_names: expected a list of names, got 5"):
        ek.explain(NET, IMAGES, 0, class_names=5)


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("smoothgrad", {"samples": None}, "samples: expected a whole number, got a NoneType"),
        ("smoothgrad", {"samples": 1.5}, "samples: expected a whole number, got 1.5"),
        ("smoothgrad", {"samples": True}, "samples: expected a whole number, got True"),
        ("smoothgrad", {"noise": NAN}, "noise: expected a finite deviation of at least 0, got nan"),
        ("smoothgrad", {"base": 5}, "base: expected a method, got 5"),
        ("occlusion", {"window": 1.5}, "window: expected a whole number of pixels or .*, got 1.5"),
        ("occlusion", {"window": (1, 2, 3)}, "window: expected a whole number of pixels or .*got "),
        ("gradcam", {"relu": 1}, "relu: expected true or false, got 1"),
        (
            "gradcam",
            {"upsample": ["cubic"]},
            "upsample: expected bilinear or bicubic or nearest, got a list",
        ),
        ("gradcam", {"layer": 3}, "layer: expected text or a module or .*none, got 3"),
        ("integrated_gradients", {"baseline": INF}, "baseline: expected finite numbers"),
        ("integrated_gradients", {"baseline": []}, "baseline: expected a number or a tensor"),
        ("extremal_perturbation", {"sigma": INF}, "sigma: expected a number above 0"),
        ("meaningful_perturbation", {"step": -1}, "step: expected at least 1, got -1"),
        ("lime", {"ridge": INF}, "ridge: expected at least 0 and below inf"),
    ],
)
def test_fields_of_methods(method, params, message):
    with pytest.raises(MethodError, match=message) as caught:
        ek.explain(NET, IMAGES, 0, method, **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (
            methods.SmoothGrad,
            {"samples": None},
            "SmoothGrad: samples: expected a whole number, got",
        ),
        (
            methods.SmoothGrad,
            {"noise": "0.1"},
            "noise: expected a number or a tuple of numbers, got",
        ),
        (methods.IntegratedGradients, {"steps": "a"}, "steps: expected a whole number or none"),
        (methods.GuidedIG, {"steps": 1.5}, "steps: expected a whole number, got 1.5"),
        (methods.Rise, {"samples": "many"}, "samples: expected a whole number, got 'many'"),
        (methods.KernelShap, {"tolerance": "1%"}, "tolerance: expected a number or none"),
        (methods.GradCAM, {"relu": "yes"}, "relu: expected true or false, got 'yes'"),
        (methods.LRP, {"epsilon": None}, "epsilon: expected a number, got a NoneType"),
        (methods.AttentionRollout, {"prefix_tokens": "1"}, "prefix_tokens: expected a whole"),
        (methods.ExtremalPerturbation, {"area": "half"}, "area: expected a number, got 'half'"),
        (methods.XRAI, {"min_area": None}, "min_area: expected a number, got a NoneType"),
        (methods.PartitionShap, {"samples": 7.0}, "samples: expected a whole number, got 7.0"),
        (methods.Occlusion, {"seed": "0"}, "Occlusion: seed: expected a whole number, got '0'"),
    ],
)
def test_fields_of_methods_that_are_made_directly(kind, fields, message):
    with pytest.raises(MethodError, match=message) as caught:
        kind(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", METHOD_CLASSES)
def test_every_method_checks_its_fields_when_it_is_made(name):
    kind = getattr(methods, name)
    needed = {"layer": "0"} if "layer" in kind.__dataclass_fields__ else {}
    for field, hint in typing.get_type_hints(kind).items():
        if field in kind.__dataclass_fields__ and not fits(hint, object()):
            with pytest.raises(MethodError, match=f"{field}: expected "):
                kind(**needed | {field: object()})


def test_numbers_of_other_packages_are_numbers():
    import numpy as np

    found = ek.explain(
        NET, IMAGES, 0, "smoothgrad", seed=np.int64(3), batch_size=np.int32(2), noise=np.float32(0.1),
        samples=np.int16(2),
    )  # fmt: skip
    same = ek.explain(NET, IMAGES, 0, "smoothgrad", seed=3, noise=float(np.float32(0.1)), samples=2)
    torch.testing.assert_close(found.attribution, same.attribution)


@dataclasses.dataclass(frozen=True)
class Plain:
    """A method with a field of a type of its own."""

    how: "NoSuchType" = None  # noqa: F821
    many: int = 3

    def __call__(self, model, inputs, target):
        return inputs


@dataclasses.dataclass(frozen=True)
class Counted:
    """A plugin's method, which checks nothing itself."""

    many: int = 3

    def __call__(self, model, inputs, target):
        return inputs


def test_a_ready_method_is_checked_and_a_plugins_own_types_are_not():
    with pytest.raises(MethodError, match=r"Counted: many: expected a whole number, got 1\.5"):
        ek.explain(NET, IMAGES, 0, Counted(many=1.5))
    assert ek.explain(NET, IMAGES, 0, Plain(how=5)).method.endswith("Plain")


@pytest.mark.parametrize("kind", ["methods", "maximizers"])
def test_defaults_have_their_own_types(kind):
    from explainkit.catalog.factories import defaults
    from explainkit.catalog.fields import check_values

    registry = discovery.registry(kind)
    for name in registry.names():
        made = registry.get(name)
        check_values(made, name, defaults(made))
