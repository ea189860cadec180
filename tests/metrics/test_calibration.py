"""The limits of the scorecard, on images that no rule was chosen on: how often wrong maps pass."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scorecard

import explainkit as ek
from explainkit.results.scorecard import verdict_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning"),
]

OTHER_IMAGE = "another image, another class"
DRAWN = "gradient of the image", "Laplacian of the image", "blobs", "centered smooth"


@pytest.fixture(scope="module", params=["cnn", "trigger", "vit"])
def subject(request):
    data = os.environ.get("EXPLAINKIT_FER2013")
    if request.param == "cnn" and data is None:
        pytest.skip("EXPLAINKIT_FER2013 names no images")
    return request.param, *scorecard.subject(request.param, 24, data and Path(data))


@pytest.fixture(scope="module")
def evidence(subject):
    _, net, images = subject
    return scorecard.controls(net, images)


def share(found, holds):
    return sum(map(holds, found)) / len(found)


def predicts(one):
    return one.p[0] <= 0.05


def supported(one):
    return verdict_of(one.p, one.control) == "supported"


@pytest.mark.parametrize("name", ["shifted", "random", "smooth"])
def test_maps_without_knowledge_rarely_predict(evidence, name):
    assert len(evidence[name]) >= 400
    assert share(evidence[name], predicts) <= 0.07


def test_maps_without_knowledge_are_rarely_supported(evidence):
    every = [one for name, found in evidence.items() if name != OTHER_IMAGE for one in found]
    assert len(every) > 2000
    assert share(every, supported) <= 0.03


def test_maps_of_another_image_are_rarely_supported(evidence):
    assert len(evidence[OTHER_IMAGE]) >= 200
    assert share(evidence[OTHER_IMAGE], supported) <= 0.06


def test_drawings_of_the_image_rarely_pass_beyond_it(subject, evidence):
    if subject[0] != "cnn":
        pytest.skip("a drawing of the image marks the planted patch, too")
    for name in DRAWN:
        assert share(evidence[name], lambda one: one.p[1] <= 0.02) <= 0.10, name


def test_verdicts_are_stable(subject):
    """Other quarters, other noise: Cohen's κ of all verdicts."""
    _, net, images = subject
    first, second = [], []
    for method in ("deeplift", "integrated_gradients", "gradcam", "saliency"):
        found = ek.explain(net, images, method=method, **scorecard.FEW.get(method, {}))
        for seed, verdicts in enumerate((first, second)):
            verdicts += found.scorecard(seed=seed, power=False).verdict
    assert scorecard.kappa(first, second) >= 0.65
