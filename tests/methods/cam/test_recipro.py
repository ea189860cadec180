"""Recipro-CAM: scores of one spatial position at a time."""

import pytest
import torch
from cam_toys import Registers, Swin, pooled, unbiased
from torch import nn

import explainkit as ek
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1])


def images():
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def replaced(model, layer, x, change):
    """The scores with a layer's output changed, by a full run."""

    def hook(_module, _inputs, out):
        return change(out)

    handle = model.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        out = model(x)
    handle.remove()
    return out


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("layer", ["1", "3"])
def test_definition(gaussian, layer):
    model, x = unbiased(), images()
    found = ek.explain(
        model,
        x,
        TARGET,
        "recipro_cam",
        layer=layer,
        gaussian=gaussian,
        upsample="nearest",
        placement="stretch",
    )
    h, w = found.diagnostics["patch_grid"]
    small = torch.zeros(3, h, w)
    nothing = replaced(model, layer, x, torch.zeros_like).gather(1, TARGET[:, None])[:, 0]
    for p in range(h):
        for q in range(w):
            mask = torch.zeros(h, w)
            if gaussian:
                for i in (-1, 0, 1):
                    for j in (-1, 0, 1):
                        if 0 <= p + i < h and 0 <= q + j < w:
                            mask[p + i, q + j] = (2 - abs(i)) * (2 - abs(j)) / 16
            else:
                mask[p, q] = 1
            score = replaced(model, layer, x, lambda out, m=mask: out * m)
            small[:, p, q] = score.gather(1, TARGET[:, None])[:, 0] - nothing
    expected = nn.functional.interpolate(small[:, None], (12, 10), mode="nearest")
    torch.testing.assert_close(found.attribution, expected, atol=1e-6, rtol=1e-4)


def test_pooled_head_gives_the_class_activation_map():
    model, x = pooled(), images()
    cam = torch.einsum("bk,bkhw->bhw", model[4].weight[TARGET], model[:2](x))[:, None].detach()
    found = ek.explain(model, x, TARGET, "recipro_cam", gaussian=False)
    torch.testing.assert_close(found.attribution, cam / 120, atol=1e-6, rtol=1e-4)
    assert found.diagnostics["runs"] == 121


def test_only_the_tail_runs():
    seen = []
    model = unbiased()
    ek.explain(
        model, images(), TARGET, "recipro_cam", layer="3", batch_size=64
    )  # once: what the layer sees
    model[0].register_forward_hook(lambda *_: seen.append("before"))
    ek.explain(model, images(), TARGET, "recipro_cam", layer="3", batch_size=64)
    assert len(seen) < 15  # of 3 × 49 variants


def test_class_tokens_stay():
    model, x = Registers(2, 1), images()
    found = ek.explain(
        model,
        x,
        TARGET,
        "recipro_cam",
        layer="first",
        gaussian=False,
        upsample="nearest",
        placement="stretch",
    )
    nothing = torch.ones(33, 1)
    nothing[2:32] = 0
    kept = nothing.clone()
    kept[2 + 7] = 1  # row 1, column 2
    scores = [
        replaced(model, "first", x, lambda out, m=m: out * m).gather(1, TARGET[:, None])[:, 0]
        for m in (kept, nothing)
    ]
    torch.testing.assert_close(
        found.attribution[:, 0, 2, 4], scores[0] - scores[1], atol=1e-6, rtol=1e-4
    )


def test_channels_last():
    found = ek.explain(Swin(), images(), TARGET, "recipro_cam", layer="stage", gaussian=False)
    assert found.diagnostics["patch_grid"] == [6, 5]
    assert found.attribution.any()


def test_scores_that_read_other_layers_run_whole():
    model, x = unbiased(), images()
    found = ek.explain(
        model,
        x,
        'neuron("3", 1, 2, 2)',
        "recipro_cam",
        layer="1",
        gaussian=False,
        upsample="nearest",
        placement="stretch",
    )
    # the unit at (2, 2) of the second convolution reads three by three positions of the first
    lit = found.attribution[:, 0].abs().amax(0) > 0
    assert lit.any()
    assert not lit[7:].any()
    assert not lit[:, 7:].any()


def test_functions_of_the_output():
    model, x = pooled(), images()
    one = ek.explain(model, x, lambda out: out[:, 1] - out[:, 0], "recipro_cam").attribution
    two = ek.explain(model, x, targets=[1, 0], method="recipro_cam")
    torch.testing.assert_close(one, two[0].attribution - two[1].attribution, atol=1e-6, rtol=1e-4)


def test_check_method():
    names = ("plain", "in_place", "functional", "tuple", "vit")
    check_method("recipro_cam", {n: toy_models()[n] for n in names})
