"""The cases of Quantus' own tests, with known answers: localization and axioms.

Its cases come as rows and as squares of 224 pixels. Where its tests only ask for a number between
bounds, Quantus' own answer is the oracle; where it depends on how equal values are sorted, the
closed form is. Not here: its intersections with another k than the size of the mask.
"""

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peer_rows import metric_rows
from peer_rows.rows import missing

import explainkit as ek
from explainkit import metrics
from explainkit.interop.quantus import explain_func

pytestmark = pytest.mark.filterwarnings("ignore")

SIDE = 224
CASES = {  # the mask on both axes, rows and columns of the map, its value there, the most elsewhere
    "all": ((50, 150), (50, 150), (50, 150), 1.0, 0.1),
    "all, zero elsewhere": ((50, 150), (50, 150), (50, 150), 1.0, 0.0),
    "all, large values": ((50, 150), (50, 150), (50, 150), 25.0, 20.0),
    "part of the mask": ((0, 150), (50, 150), (50, 150), 1.0, 0.1),
    "none": ((0, 100), (100, 200), (100, 200), 1.0, 0.1),
    "none, zero elsewhere": ((0, 100), (100, 200), (100, 200), 1.0, 0.0),
    "the other half": ((0, 112), (112, 224), (112, 224), 1.0, 0.0),
    "half": ((50, 100), (0, 100), (75, 100), 1.0, 0.1),
    "half, zero elsewhere": ((50, 100), (0, 100), (75, 100), 1.0, 0.0),
}
ANSWERS = {  # of a row and of a square; None: no closed form
    ("pointing_game", "PointingGame"): {"all": 1, "none": 0, "half": 1 / 2},
    ("rank_accuracy", "RelevanceRankAccuracy"): {
        "all": 1, "part of the mask": None, "none": 0, "half": 1 / 2,
    },
    ("rank_accuracy", "TopKIntersection"): {"all": 1, "none": 0, "half, zero elsewhere": 1 / 2},
    ("mass_accuracy", "RelevanceMassAccuracy"): {
        "all, zero elsewhere": 1, "part of the mask": None, "none, zero elsewhere": 0,
        "half, zero elsewhere": 1 / 2,
    },
    ("mass_accuracy", "AttributionLocalisation"): {
        "all, zero elsewhere": 1, "all": None, "none, zero elsewhere": 0,
    },
    ("auc", "AUC"): {"all": 1, "all, large values": 1, "the other half": (0, 1 / 3)},
}  # fmt: skip
ROWS = [(*names, case) for names, found in ANSWERS.items() for case in (*found, "a network's")]
UNSORTED = ("RelevanceRankAccuracy", "TopKIntersection")


@pytest.fixture(scope="module")
def quantus():
    if missing("Quantus"):
        pytest.skip("Quantus is not installed")
    return metric_rows.quantus()


def posed(case, square):
    """Two maps and their masks."""
    random = torch.Generator().manual_seed(0)
    size = (SIDE, SIDE) if square else (1, SIDE)
    mask = torch.zeros(2, *size, dtype=torch.bool)
    if case == "a network's":
        net = nn.Sequential(nn.Flatten(), nn.Linear(size[0] * size[1], 2)).eval()
        x = torch.rand(2, 1, *size, generator=random)
        maps = ek.explain(net, x, method="input_x_gradient").attribution[:, 0].abs()
        mask[:, : 1 + 119 * square, :120] = True
        return maps, mask
    inside, rows, columns, value, most = CASES[case]
    maps = most * torch.rand(2, *size, generator=random)
    for values, down, across, new in ((mask, inside, inside, True), (maps, rows, columns, value)):
        across, down = (across, down) if square else (down, (0, 1))
        values[:, slice(*down), slice(*across)] = new
    return maps, mask


def answered(quantus, name, maps, mask, **options):
    """Quantus' answer."""
    options = {"normalise": False, "abs": False, "disable_warnings": True} | options
    if name == "TopKIntersection":
        options["k"] = int(mask[0].sum())
    found = getattr(quantus, name)(**options)(
        model=None, x_batch=torch.rand(maps[:, None].shape).numpy(), y_batch=torch.zeros(2).numpy(),
        a_batch=maps[:, None].numpy(), s_batch=mask[:, None].numpy(), channel_first=True,
    )  # fmt: skip
    return [float(one) for one in found]


@pytest.mark.parametrize("square", [False, True], ids=["row", "square"])
@pytest.mark.parametrize(("ours", "theirs", "case"), ROWS)
def test_localization(quantus, ours, theirs, case, square):
    maps, mask = posed(case, square)
    found = getattr(metrics, ours)(maps, mask).tolist()
    answer = ANSWERS[ours, theirs].get(case)
    if isinstance(answer, tuple):
        answer = answer[square]
    if answer is not None:
        assert found == pytest.approx([answer] * 2)
    if case.startswith("half") and theirs in UNSORTED and not square:
        return  # 100 equal values for 50 places: the peer takes those that its sort puts first
    expected = answered(quantus, theirs, maps, mask)
    if case == "half" and theirs == "PointingGame":
        assert expected == [1, 1]  # one of the equal maxima is enough
    else:
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("square", [False, True], ids=["row", "square"])
def test_a_concept_s_influence_is_rank_accuracy_over_the_area(quantus, square):
    maps, mask = posed("all", square)
    found = (metrics.rank_accuracy(maps, mask) / metrics.area_share(mask)).tolist()
    assert found == pytest.approx([2.24 ** (1 + square)] * 2)
    assert found == pytest.approx(
        answered(quantus, "TopKIntersection", maps, mask, concept_influence=True)
    )


def test_focus_is_mass_accuracy_on_a_mosaic(quantus):
    parts = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]])
    mask = parts.view(4, 2, 2).repeat_interleave(28, 1).repeat_interleave(28, 2) > 0
    signed = torch.randn(4, 56, 56, generator=torch.Generator().manual_seed(0))
    truths = {1.0: mask.double(), 0.0: (~mask).double(), None: signed.double()}
    for truth, maps in truths.items():
        found = metrics.mass_accuracy(maps, mask).tolist()
        assert truth is None or found == [truth] * 4
        theirs = quantus.Focus(normalise=False, disable_warnings=True)(
            model=nn.Identity(), x_batch=maps[:, None].numpy(), y_batch=torch.zeros(4).numpy(),
            a_batch=maps[:, None].numpy(), custom_batch=parts.tolist(), channel_first=True,
        )  # fmt: skip
        assert found == pytest.approx(theirs)


def whole():
    """A linear model of whole numbers, which computes exactly; images that contain 0; targets."""
    random = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 3, bias=False)).eval()
    x = torch.randint(1, 5, (4, 1, 5, 4), generator=random).float()
    x[:, :, 2, 1] = 0  # Quantus' black is an image's smallest value
    with torch.no_grad():
        net[1].weight.copy_(torch.randint(-2, 3, (3, 20), generator=random))
    return net, x, torch.tensor([0, 2, 1, 0])


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("method", ["input_x_gradient", "saliency"])
def test_completeness(quantus, method, normalise, absolute):
    net, x, target = whole()
    maps = ek.explain(net, x, target, method).attribution
    theirs = metric_rows.measured(
        "Completeness", model=net, x=x, y=target, a=maps, normalise=normalise, abs=absolute
    )
    judged = maps / maps.abs().max() if normalise else maps
    judged = judged.abs() if absolute else judged
    gap = metrics.completeness(net, x, judged, target)
    scores = net(x).detach().gather(1, target[:, None])[:, 0].double()
    torch.testing.assert_close(gap, (judged.double().sum((1, 2, 3)) - scores).abs())
    assert [bool(one) for one in theirs] == (gap == 0).tolist()
    # its default normalises, and so calls no map complete
    exact = method == "input_x_gradient" and not normalise and not absolute
    assert (gap == 0).tolist() == [exact] * 4


def test_non_sensitivity_is_what_occlusion_of_single_pixels_shows(quantus):
    net, x, target = whole()
    effects = ek.explain(net, x, target, "occlusion", window=1).attribution.abs()
    weight = net[1].weight.detach()[target].view_as(x)
    for maps, wrong in (
        (x * weight, 0),
        (weight, (weight != 0) & (x == 0)),
        (x + 1, x * weight == 0),
    ):
        count = ((effects < 1e-5) ^ (maps.abs() < 1e-5)).sum((1, 2, 3))
        assert torch.equal(count, (torch.zeros_like(x) + wrong).long().sum((1, 2, 3)))
        theirs = metric_rows.measured("NonSensitivity", model=net, x=x, y=target, a=maps, abs=True)
        assert count.tolist() == [int(one) for one in theirs]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("shift", [-1.0, -0.875, 0.25])
@pytest.mark.parametrize(("method", "truth"), [("saliency", True), ("input_x_gradient", False)])
def test_input_invariance(quantus, method, truth, shift, absolute):
    """The gradient of a model that takes a constant back from its inputs is the model's own."""
    net, x, target = metric_rows.network(), metric_rows.images(), metric_rows.CLASSES
    x = (8 * x).round() / 8
    with torch.no_grad():
        for values in net[0].parameters():  # sums of eighths are exact: no unit changes sides
            values.copy_((64 * values).round() / 64)
    shifted = deepcopy(net)
    with torch.no_grad():
        shifted[0].bias -= shift * shifted[0].weight.sum((1, 2, 3))
    before = ek.explain(net, x, target, method).attribution
    after = ek.explain(shifted, x + shift, target, method).attribution
    same = torch.isclose(before, after, atol=1e-4).all(3).all(2).all(1)
    assert same.tolist() == [truth] * 4
    theirs = quantus.InputInvariance(
        input_shift=shift, abs=absolute, disable_warnings=True
    )(
        model=net, x_batch=x.numpy(), y_batch=target.numpy(), a_batch=before.numpy(),
        explain_func=explain_func, explain_func_kwargs={"method": method},
    )  # fmt: skip
    assert [bool(one) for one in theirs] == same.tolist()
