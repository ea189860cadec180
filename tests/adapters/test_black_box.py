"""A function on arrays as a model: what runs it works, what looks inside refuses with the reason."""

import numpy as np
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.adapters.black_box import BlackBox, is_black_box
from explainkit.errors import ExplainkitError, ModelError
from explainkit.methods import Conductance, InternalInfluence

torch.manual_seed(0)
NET = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
).eval()
IMAGES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def run(images):
    """The network as a function on arrays."""
    assert images.dtype == np.float32
    with torch.no_grad():
        return NET(torch.from_numpy(images)).numpy()


RUNS_ONLY = {
    "feature_ablation", "hsic", "kernel_shap", "lime", "occlusion", "partition_shap", "rise",
    "shapley_sampling", "sobol",
}  # fmt: skip
NEEDS_LAYER = {"conductance": Conductance("function"), "internal_influence": InternalInfluence("0")}


@pytest.mark.parametrize("name", [full.partition("/")[2] for full in ek.list_methods()])
def test_a_method_runs_or_says_why_not(name):
    model = ek.adapt(run)
    method = NEEDS_LAYER.get(name, name)
    if name in RUNS_ONLY:
        found = ek.explain(model, IMAGES[:1], 1, method)
        assert (found.attribution != 0).any()
        return
    with pytest.raises(ModelError, match="runs outside of torch.*such as occlusion") as caught:
        ek.explain(model, IMAGES[:1], 1, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["occlusion", "rise", "kernel_shap"])
def test_maps_are_those_of_the_network_itself(method):
    maps = [ek.explain(model, IMAGES, 2, method).attribution for model in (ek.adapt(run), NET)]
    assert torch.allclose(*maps, atol=1e-5)


def test_batches_of_one():
    sizes = set()

    def one_at_a_time(images):
        sizes.add(len(images))
        assert len(images) == 1, "expected one image"
        return run(images)

    maps = [
        ek.explain(ek.adapt(f), IMAGES, 0, "occlusion", batch_size=1).attribution
        for f in (one_at_a_time, run)
    ]
    assert sizes == {1}
    assert torch.equal(*maps)
    with pytest.raises(ModelError, match="expected one image; .*batch_size=1"):
        ek.explain(ek.adapt(one_at_a_time), IMAGES, 0, "occlusion")


def test_the_function_cannot_change_the_callers_images():
    def writes(images):
        found = run(images)
        images[:] = 0
        return found

    before = IMAGES.clone()
    ek.explain(ek.adapt(writes), IMAGES, 0, "occlusion")
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_scores_in_memory_that_the_function_uses_again(kind):
    memory = np.empty((64, 3), np.float32)

    def reuses(images):
        memory[: len(images)] = run(images)
        return kind(memory[: len(images)])

    maps = [ek.explain(ek.adapt(f), IMAGES, 0, "occlusion").attribution for f in (reuses, run)]
    assert torch.equal(*maps)


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda s: {"logits": s, "features": s[:, :1]}, None),
        (lambda s: (s, s[:, :1]), 0),
        (lambda s: [s[:, :1], s], "1"),
        (lambda s: torch.from_numpy(s), None),
        (lambda s: s.astype(np.float64), None),
        (lambda s: s.tolist(), None),
        (lambda s: s[:, ::-1].copy()[:, ::-1], None),
    ],
    ids=["dict", "tuple", "list", "tensor", "float64", "numbers", "reversed"],
)
def test_forms_of_scores(form, output):
    model = ek.adapt(lambda images: form(run(images)))
    found = ek.explain(model, IMAGES, 2, "occlusion", output=output)
    assert found.attribution.dtype == torch.float32
    assert torch.allclose(found.logits, NET(IMAGES), atol=1e-6)


def test_probabilities_are_recognized_by_their_sum():
    model = ek.adapt(lambda images: np.exp(run(images)) / np.exp(run(images)).sum(1, keepdims=True))
    with pytest.warns(ek.ExplainkitWarning, match="returns probabilities"):
        found = ek.explain(model, IMAGES, method="occlusion")
    assert torch.allclose(found.probabilities, NET(IMAGES).softmax(1), atol=1e-6)
    scores = ek.explain(ek.adapt(run), IMAGES, method="occlusion")
    assert torch.allclose(scores.probabilities, NET(IMAGES).softmax(1), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: "cat", "arrays of numbers, got str"),
        (lambda images: NET, "got Sequential: a function that makes a model takes no argument"),
        (lambda images: images.mean(), "expected scores"),
        (lambda images: run(images)[:1], "expected scores"),
        (lambda images: run(images) * np.nan, "expected finite outputs"),
        (lambda images: None, "arrays of numbers, got NoneType"),
    ],
)
def test_what_is_no_score(function, message):
    with pytest.raises(ExplainkitError, match=message):
        ek.explain(ek.adapt(function), IMAGES, 0, "occlusion")


def test_a_layer_cannot_be_explained():
    with pytest.raises(ExplainkitError, match="layer"):
        ek.explain(ek.adapt(run), IMAGES, 0, "occlusion", at="conv")


def test_a_part_that_runs_outside_of_torch():
    model = nn.Sequential(BlackBox(run), nn.Softplus()).eval()
    assert is_black_box(model)
    assert not is_black_box(NET)
    with pytest.raises(ModelError, match="runs outside of torch"):
        ek.explain(model, IMAGES, 0)


def test_functions_are_adapted_first():
    with pytest.raises(ModelError, match=r"ek.adapt\(function\)"):
        ek.explain(run, IMAGES)
