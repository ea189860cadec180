"""A lower precision for the forwards of methods that only run a model."""

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.adapters.black_box import BlackBox
from explainkit.correlation import spearman
from explainkit.errors import InputError, MethodError, ModelError
from explainkit.methods import (
    ExtremalPerturbation,
    FeatureAblation,
    KernelShap,
    LibraGrad,
    Occlusion,
    Rise,
    ScoreCAM,
    SmoothGrad,
)
from explainkit.methods.contract import only_runs

METHODS = [Occlusion(window=4), FeatureAblation(3), Rise(samples=32), KernelShap(64, segments=3)]


DTYPES = []
"""In which the last layer of `Net` ran, for each forward; an attribute of it would be restored."""


class Net(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        out = self.head(self.body(x).mean((2, 3)))
        DTYPES.append(out.dtype)
        return {"logits": out}


@pytest.fixture
def net():
    DTYPES.clear()
    return Net().eval()


@pytest.fixture
def images():
    return torch.randn(3, 2, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:.*in bfloat16")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_forwards_of_the_method_alone_are_in_bfloat16(net, images, method):
    exact = ek.explain(net, images, 1, method)
    DTYPES.clear()
    found = ek.explain(net, images, 1, method, precision="bfloat16")
    assert set(DTYPES) == {torch.float32, torch.bfloat16}
    assert torch.equal(found.logits, exact.logits)
    assert torch.equal(found.score, exact.score)
    difference = (found.attribution - exact.attribution).abs().max()
    assert 0 < difference < 0.3 * exact.attribution.abs().max()
    assert (found.precision, exact.precision) == ("bfloat16", None)
    agreement = spearman(found.attribution[:1].flatten(1), exact.attribution[:1].flatten(1))
    assert found.diagnostics["rank_agreement"] == pytest.approx(agreement.item(), abs=1e-6)
    assert "rank_agreement" not in exact.diagnostics
    assert not torch.is_autocast_enabled("cpu")


def test_every_forward_of_the_map_is_in_bfloat16(net, images):
    """Also that of the unchanged image, or every drop would have the error of the difference."""
    method = Occlusion(window=6, stride=6)
    ek.explain(net, images[:1], 1, method)  # measures chunks
    DTYPES.clear()
    ek.explain(net, images[:1], 1, method)
    once = len(DTYPES)
    DTYPES.clear()
    ek.explain(net, images[:1], 1, method, precision="bfloat16")
    # the engine's own in float32, the method's, and the first image in float32
    assert DTYPES.count(torch.float32) == 2 * once - 1
    assert DTYPES.count(torch.bfloat16) >= 2


@pytest.mark.filterwarnings("ignore:.*in bfloat16")
def test_expressions_are_computed_in_float32(net, images):
    """The difference of two outputs, each rounded once."""
    method = FeatureAblation(2)
    found = ek.explain(net, images, "logit(0) - logit(1)", method, precision="bfloat16")
    zero, one = ek.explain(net, images, None, method, targets=[0, 1], precision="bfloat16")
    torch.testing.assert_close(
        found.attribution, zero.attribution - one.attribution, rtol=1e-5, atol=1e-6
    )


def test_an_images_map_and_the_agreement_do_not_depend_on_the_batch(net, images):
    together = ek.explain(net, images, 1, Rise(samples=32), batch_size=2, precision="bfloat16")
    alone = ek.explain(net, images[:1], 1, Rise(samples=32), batch_size=2, precision="bfloat16")
    assert torch.equal(together.attribution[:1], alone.attribution)
    assert together.diagnostics["rank_agreement"] == alone.diagnostics["rank_agreement"]


@pytest.mark.filterwarnings("ignore:.*zero everywhere")
def test_ranks_that_change_are_warned_of(net, images):
    with torch.no_grad():
        net.head.bias.fill_(16.0)  # bfloat16 has steps of an eighth there
    with pytest.warns(ek.ExplainkitWarning, match=r"agree with those in float32 by -?0\.\d\d only"):
        found = ek.explain(net, images, 1, Occlusion(window=4), precision="bfloat16")
    assert found.diagnostics["rank_agreement"] < 0.9


def test_maps_without_ranks():
    """A constant map agrees with itself."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    nn.init.zeros_(net[1].weight)
    with pytest.warns(ek.ExplainkitWarning, match="zero everywhere"):
        found = ek.explain(net, torch.rand(1, 1, 4, 4), 0, Occlusion(2), precision="bfloat16")
    assert found.diagnostics["rank_agreement"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "saliency"}, MethodError, "Saliency uses its gradients or layers: omit"),
        ({"method": ScoreCAM()}, MethodError, "ScoreCAM uses"),
        ({"method": ExtremalPerturbation()}, MethodError, "ExtremalPerturbation uses"),
        ({"method": ["rise", "gradcam"]}, MethodError, "GradCAM uses"),
        ({"precision": "float16"}, InputError, "expected 'bfloat16' or None, got 'float16'"),
        ({"precision": torch.bfloat16}, InputError, "expected 'bfloat16' or None, got torch.bfl"),
        ({"at": "body"}, MethodError, "maps of images, not of layers"),
    ],
)
def test_refusals(net, images, options, error, message):
    given = {"method": "occlusion", "precision": "bfloat16"} | options
    with pytest.raises(error, match=message) as caught:
        ek.explain(net, images, 1, **given)
    assert "\n" not in str(caught.value)
    assert DTYPES == []


def test_models_that_are_not_in_float32(net, images):
    with pytest.raises(InputError, match="models and images in float32, got float64: omit"):
        ek.explain(net.double(), images.double(), 1, "occlusion", precision="bfloat16")
    outside = BlackBox(lambda array: array.mean((2, 3)))
    with pytest.raises(ModelError, match="BlackBox runs outside of torch"):
        ek.explain(outside, images, 1, "occlusion", precision="bfloat16")


def test_a_method_only_runs_a_model_if_all_that_it_wraps_do():
    assert all(map(only_runs, METHODS))
    assert not any(map(only_runs, [SmoothGrad(METHODS[0]), LibraGrad(METHODS[0]), ScoreCAM()]))


def test_it_is_saved_and_reproduced(net, images, tmp_path):
    found = ek.explain(net, images, 1, Occlusion(4), precision="bfloat16")
    loaded = ek.Explanation.load(found.save(tmp_path))
    assert loaded.precision == "bfloat16"
    assert loaded.diagnostics["rank_agreement"] == found.diagnostics["rank_agreement"]
    from explainkit.render.report.reproduce import call

    assert "    precision='bfloat16',\n" in call(loaded)
