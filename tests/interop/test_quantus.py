"""Methods as explanation functions of Quantus, and back: both equal direct calls."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.interop.quantus import explain_func, from_quantus
from explainkit.testing import toy_models

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import third_party

CLASSES = np.array([1, 0, 4, 2])


@pytest.fixture
def plain():
    return toy_models()["plain"]


def by_gradient(model, inputs, targets, *, power=1.0, noise=0.0):
    """An explanation function in the form of Quantus; noise comes from numpy's global generator."""
    images = torch.as_tensor(inputs).requires_grad_()
    score = model(images)[range(len(targets)), targets].sum()
    (gradient,) = torch.autograd.grad(score, images)
    return (gradient.abs() ** power).sum(1).numpy() + noise * np.random.rand(*inputs.shape[2:])


@pytest.mark.parametrize(
    ("name", "params"),
    [("integrated_gradients", {"steps": 6}), ("rise", {"samples": 32, "seed": 4}), ("gradcam", {})],
)
def test_an_explanation_function_equals_the_direct_call(plain, name, params):
    model, x = plain
    ours = explain_func(
        model=model, inputs=x.numpy(), targets=CLASSES, method=name, device="cpu", **params
    )
    direct = ek.explain(model, x, torch.as_tensor(CLASSES), name, **params).attribution
    assert np.array_equal(ours, direct.numpy())


def test_images_take_the_models_dtype(plain):
    model, x = plain
    found = explain_func(model.double(), x.numpy(), CLASSES)
    assert found.dtype == np.float64
    assert explain_func(model.bfloat16(), x.numpy(), CLASSES).dtype == np.float32


def test_a_function_as_a_method_equals_the_direct_call(plain):
    model, x = plain
    method = from_quantus(by_gradient, power=2.0)
    ours = ek.explain(model, x, torch.as_tensor(CLASSES), method, batch_size=3)
    direct = by_gradient(model, x.numpy(), CLASSES, power=2.0)
    np.testing.assert_allclose(ours.attribution[:, 0].numpy(), direct, rtol=1e-6, atol=1e-6)
    assert ours.method.endswith("test_quantus.by_gradient")
    assert ours.params == {"seed": 0, "power": 2.0}


def test_random_maps_depend_on_the_seed_alone(plain):
    model, x = plain
    method = from_quantus(by_gradient, noise=1.0)
    state = np.random.get_state()[1].copy()
    both = ek.explain(model, x[:2], 1, method, seed=5).attribution
    assert torch.equal(ek.explain(model, x[1:2], 1, method, seed=5).attribution, both[1:])
    assert not torch.equal(ek.explain(model, x[1:2], 1, method, seed=6).attribution, both[1:])
    assert (np.random.get_state()[1] == state).all()


def test_errors_are_one_line(plain):
    model, x = plain
    with pytest.raises(MethodError, match=r"expected func\(model, inputs, targets, \*\*kwargs\)"):
        from_quantus("saliency")
    with pytest.raises(MethodError, match=r"^by_gradient: .*unexpected keyword argument 'gain'$"):
        ek.explain(model, x, 1, from_quantus(by_gradient, gain=2.0))


@pytest.mark.filterwarnings("ignore")
def test_with_quantus_itself(plain):
    if importlib.util.find_spec("quantus") is None:
        pytest.skip("needs quantus, which is not installed")
    third_party.library("torchvision")  # zennit, which Quantus imports where it can, needs it
    import quantus

    model, x = plain
    metric = quantus.Complexity(disable_warnings=True)
    chosen = {"method": "input_x_gradient"}
    ours = metric(
        model=model, x_batch=x.numpy(), y_batch=CLASSES, explain_func=explain_func,
        explain_func_kwargs=chosen, device="cpu",
    )  # fmt: skip
    given = quantus.Complexity(disable_warnings=True)(
        model=model, x_batch=x.numpy(), y_batch=CLASSES,
        a_batch=explain_func(model, x.numpy(), CLASSES, **chosen),
    )  # fmt: skip
    np.testing.assert_allclose(ours, given, rtol=1e-6)
    method = from_quantus(quantus.explain, method="InputXGradient", device="cpu")
    found = ek.explain(model, x, torch.as_tensor(CLASSES), method)
    theirs = quantus.explain(model, x.numpy(), CLASSES, method="InputXGradient", device="cpu")
    np.testing.assert_allclose(found.attribution.numpy(), theirs, rtol=1e-6, atol=1e-6)


def theirs(name, model, x, method, masks=None, **options):
    """A metric of Quantus for one of our methods, through the adapter."""
    if importlib.util.find_spec("quantus") is None:
        pytest.skip("needs quantus, which is not installed")
    third_party.library("torchvision")
    import quantus

    chosen = {"abs": False, "normalise": False, "disable_warnings": True} | options
    found = getattr(quantus, name)(**chosen)(
        model=model, x_batch=x.numpy(), y_batch=np.zeros(len(x), int), a_batch=None,
        s_batch=None if masks is None else masks.numpy(), device="cpu", softmax=False,
        explain_func=explain_func, explain_func_kwargs=method,
    )  # fmt: skip
    return np.asarray(found, dtype=float).ravel().tolist()


@pytest.fixture
def seeing():
    """A linear model that sees the upper left quarter alone, images, and masks of the quarter."""
    weight = torch.zeros(2, 1, 6, 6)
    # sums of halves and quarters are exact, and Quantus compares sums as they are
    weight[0, :, :3, :3] = torch.arange(1, 10).view(3, 3) / 2
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(weight.flatten(1))
    x = torch.randint(1, 9, (2, 1, 6, 6), generator=torch.Generator().manual_seed(1)) / 4
    return net, x, (weight[:1] > 0).expand(2, -1, -1, -1).int()


EXACT = (
    {"method": "input_x_gradient"},
    {"method": "integrated_gradients", "steps": 4},
    {"method": "deeplift"},
    {"method": "occlusion", "window": 1, "stride": 1, "baseline": 0.0},
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PointingGame", {}),
        ("AttributionLocalisation", {}),
        ("RelevanceMassAccuracy", {}),
        ("RelevanceRankAccuracy", {}),
        ("TopKIntersection", {"k": 9}),
        ("AUC", {}),
    ],
)
def test_quantus_locates_what_a_model_sees_and_nothing_elsewhere(seeing, name, options):
    model, x, masks = seeing
    elsewhere = masks.flip(2, 3)
    for method in ({"method": "saliency"}, *EXACT):
        assert theirs(name, model, x, method, masks, **options) == pytest.approx([1, 1])
        wrong = theirs(name, model, x, method, elsewhere, **options)
        # half of the pairs of pixels are ties of zeros where the model sees nothing
        assert max(wrong) < (0.5 if name == "AUC" else 1e-9)


@pytest.mark.filterwarnings("ignore")
def test_axioms_of_quantus_hold_for_exact_maps_and_not_for_the_gradient(seeing):
    model, x, _ = seeing
    for method in EXACT:
        assert theirs("Completeness", model, x, method, perturb_baseline=0.0) == [1, 1]
        assert theirs("NonSensitivity", model, x, method, perturb_baseline=0.0) == [0, 0]
    gradient = {"method": "saliency"}
    assert theirs("Completeness", model, x, gradient, perturb_baseline=0.0) == [0, 0]
