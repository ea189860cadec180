"""Score-CAM: against its formula by full runs of every channel, and what is run."""

import pytest
import torch
from cam_toys import Registers, Swin, pooled, unbiased
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.layers import capture
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1])


def images(count=3):
    return torch.randn(count, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def output(model, layer, x):
    with torch.no_grad(), capture(model, [layer]) as found:
        model(x)
    return found[layer][0]


def by_formula(model, x, target, maps, align_corners=False):
    """The paper's map, small, one full run for each channel of ``maps`` [batch, k, h, w]."""
    small = []
    for image, label, channels in zip(x, target.tolist(), maps, strict=True):
        scores = []
        for one in channels:
            large = nn.functional.interpolate(
                one[None, None], x.shape[2:], mode="bilinear", align_corners=align_corners
            )[0]
            mask = (large - large.min()) / (large.max() - large.min() + 1e-8)
            with torch.no_grad():
                out = model((image * mask)[None])
            scores.append((out[0] if isinstance(out, tuple) else out)[0, label])
        weights = torch.stack(scores).softmax(0)
        small.append((weights[:, None, None] * channels).sum(0))
    return torch.stack(small)[:, None]


def close(found, small):
    expected = nn.functional.interpolate(small, found.attribution.shape[2:], mode="nearest")
    torch.testing.assert_close(found.attribution, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_definition(layer, align_corners):
    model, x = unbiased(), images()
    found = ek.explain(
        model,
        x,
        TARGET,
        "score_cam",
        layer=layer,
        align_corners=align_corners,
        upsample="nearest",
        placement="stretch",
    )
    close(found, by_formula(model, x, TARGET, output(model, layer, x), align_corners))


@pytest.mark.parametrize(
    ("name", "layer"), [("residual", "stem"), ("residual", "branch"), ("tuple", "features.1")]
)
def test_definition_on_other_networks(name, layer):
    model, x = toy_models()[name]
    target = torch.tensor([4, 0, 2, 2])
    found = ek.explain(
        model, x, target, "score_cam", layer=layer, upsample="nearest", placement="stretch"
    )
    close(found, by_formula(model, x, target, output(model, layer, x)))


def test_tokens_and_channels_last():
    x = images()
    model = Registers(2, 1)
    found = ek.explain(
        model, x, TARGET, "score_cam", layer="first", upsample="nearest", placement="stretch"
    )
    tokens = output(model, "first", x)[:, 2:32]
    close(found, by_formula(model, x, TARGET, tokens.transpose(1, 2).reshape(3, 8, 6, 5)))
    model = Swin()
    found = ek.explain(
        model, x, TARGET, "score_cam", layer="stage", upsample="nearest", placement="stretch"
    )
    close(found, by_formula(model, x, TARGET, output(model, "stage", x).permute(0, 3, 1, 2)))


def test_several_layers_give_the_mean():
    model, x = unbiased(), images()
    both = ek.explain(model, x, TARGET, "score_cam", layer=("1", "3"))
    each = [ek.explain(model, x, TARGET, "score_cam", layer=one) for one in ("1", "3")]
    mean = (each[0].attribution + each[1].attribution) / 2
    torch.testing.assert_close(both.attribution, mean)
    assert both.diagnostics["channels"] == 11
    assert torch.equal(
        both.diagnostics["runs"], each[0].diagnostics["runs"] + each[1].diagnostics["runs"]
    )


class Counting(nn.Module):
    """Counts the images that its model is run on, in a list: the engine restores attributes."""

    def __init__(self, model, batches):
        super().__init__()
        self.model = model
        self.note = batches.append

    def forward(self, x):
        self.note(len(x))
        return self.model(x)


def with_dead_and_equal_channels():
    """Of eight channels one is dead, one constant, and three are alike: five runs."""
    model = pooled(channels=8)
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[0], model[0].bias[1] = -1, 2
        for twin in (3, 6):
            model[0].weight[twin] = model[0].weight[4]
            model[0].bias[twin] = model[0].bias[4]
    return model


def test_only_distinct_channels_run():
    model, x = with_dead_and_equal_channels(), images()
    found = ek.explain(
        model, x, TARGET, "score_cam", layer="1", upsample="nearest", placement="stretch"
    )
    maps = output(model, "1", x)
    # a constant map, such as the second's, has no stretch: its mask lets nothing through
    assert (maps[:, 1] == 2).all()
    close(found, by_formula(model, x, TARGET, maps))
    assert found.diagnostics["runs"].tolist() == [5, 5, 5]
    assert found.diagnostics["channels"] == 8


def test_forwards():
    x, batches = images(), []
    model = Counting(with_dead_and_equal_channels(), batches).eval()
    ek.explain(model, x, TARGET, "score_cam", layer="model.1")  # the memory budget is measured once
    for targets in ([TARGET], "all"):
        batches.clear()
        one = ek.explain(model, x, targets=targets, method="score_cam", layer="model.1")[0]
        # besides the runs one forward of the images, and of all targets one to count the classes
        spare = 3 + (targets == "all")
        assert sum(batches) == int(one.diagnostics["runs"].sum()) + spare


def test_all_targets_are_each_targets_map():
    model, x = unbiased(), images()
    together = ek.explain(model, x, targets="all", method="score_cam")
    for label, one in enumerate(together):
        alone = ek.explain(model, x, label, "score_cam")
        assert torch.equal(one.attribution, alone.attribution)


@pytest.mark.filterwarnings("ignore::explainkit.errors.ExplainkitWarning")
def test_neighbors_with_fewer_channels_change_no_bit():
    model, x = with_dead_and_equal_channels(), images()
    x[0] = 0  # every map of it is constant
    together = ek.explain(model, x, 1, "score_cam", layer="1", batch_size=2)
    assert together.diagnostics["runs"].tolist() == [1, 5, 5]
    for i in range(3):
        alone = ek.explain(model, x[i : i + 1], 1, "score_cam", layer="1", batch_size=2)
        assert torch.equal(alone.attribution, together[i].attribution)


def test_top_runs_the_channels_that_vary_most():
    model, x = unbiased(), images()
    found = ek.explain(
        model, x, TARGET, "score_cam", layer="3", top=2, upsample="nearest", placement="stretch"
    )
    maps = output(model, "3", x)
    chosen = maps.flatten(2).std(2).argsort(1, descending=True)[:, :2]
    kept = maps.gather(1, chosen[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
    close(found, by_formula(model, x, TARGET, kept))
    assert found.diagnostics["runs"].tolist() == [2, 2, 2]
    every = ek.explain(model, x, TARGET, "score_cam", layer="3", top=99)
    whole = ek.explain(model, x, TARGET, "score_cam", layer="3")
    assert torch.equal(every.attribution, whole.attribution)


def test_top_must_be_positive():
    with pytest.raises(MethodError, match="top: expected at least 1, got 0"):
        ek.explain(unbiased(), images(), 0, "score_cam", top=0)


def test_relu_cuts_the_small_map():
    model, x = unbiased(), images()
    signed = ek.explain(
        model, x, TARGET, "score_cam", layer="2", upsample="nearest", placement="stretch"
    )
    assert (signed.attribution < 0).any()
    cut = ek.explain(
        model, x, TARGET, "score_cam", layer="2", upsample="nearest", placement="stretch", relu=True
    )
    assert torch.equal(cut.attribution, signed.attribution.clamp(min=0))


def test_functions_of_the_output():
    model, x = unbiased(), images()
    found = ek.explain(model, x, lambda out: 3 * out[:, 1], "score_cam", layer="3")
    tripled = nn.Sequential(*model, nn.Linear(4, 4, bias=False)).eval()
    with torch.no_grad():
        tripled[-1].weight.copy_(3 * torch.eye(4))
    expected = ek.explain(tripled, x, 1, "score_cam", layer="3")
    torch.testing.assert_close(found.attribution, expected.attribution)


def test_check_method():
    names = ("plain", "in_place", "residual", "tuple", "vit")
    check_method("score_cam", {n: toy_models()[n] for n in names})
