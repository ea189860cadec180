"""Where a layer's numbers lie on the image: transformers, registers, channels last."""

import pytest
import torch
from cam_toys import Ordered, Registers, Swin
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.cli.parameters import parse_params
from explainkit.errors import ExplainkitWarning, MethodError, ModelError
from explainkit.methods.cam.gradient import GradCAM, HiResCAM
from explainkit.methods.cam.layout import Layout, layout_of
from explainkit.testing import check_method, toy_models

CAMS = ["gradcam", "layercam", "eigencam", "shapleycam"]


def images():
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def slopes(model, layer, x, target=1):
    kept = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out))
    score = model(x)[:, target].sum()
    hook.remove()
    (g,) = torch.autograd.grad(score, kept[0])
    return kept[0].detach(), g


@pytest.mark.parametrize(("before", "after"), [(1, 0), (5, 0), (1, 4), (2, 1)])
@pytest.mark.parametrize("mean", [False, True])
def test_class_and_register_tokens_are_told_from_patches(before, after, mean):
    model, x = Registers(before, after, mean=mean), images()
    a, g = slopes(model, "first", x)
    patches = [v[:, before : before + 30].transpose(1, 2).reshape(3, 8, 6, 5) for v in (a, g)]
    small = (patches[0] * patches[1].mean((2, 3), keepdim=True)).sum(1, keepdim=True)
    ours = ek.explain(model, x, 1, "gradcam", layer="first")
    expected = F.interpolate(small, (12, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours.attribution, expected)
    assert ours.diagnostics["patch_grid"] == [6, 5]


@pytest.mark.parametrize("side", [9, 5, 4, 3, 2])
def test_a_channels_last_map_of_an_odd_number_of_patches_that_were_merged(side):
    """Nine patches a side become five or, as in Sequencer, four: the last one is left out."""
    model, x = nn.Conv2d(3, 8, 7, stride=7), torch.rand(2, 3, 64, 64)
    found = layout_of(torch.rand(2, side, side, 6), "stages", model, x)
    assert found == Layout("channels last", (side, side))


def test_a_map_shows_the_place_that_was_changed():
    """An image whose only signal is in one patch: its token is where the map is."""
    model, x = Registers(3, 2, mean=True), torch.zeros(1, 3, 12, 10)
    x[..., 8:10, 2:4] = 5.0
    ours = ek.explain(
        model, x, 1, "eigencam", layer="first", upsample="nearest", placement="stretch"
    ).attribution
    odd = (ours - ours.median()).abs()[0, 0]
    assert divmod(int(odd.argmax()), 10)[0] in (8, 9)
    assert divmod(int(odd.argmax()), 10)[1] in (2, 3)


class TestRefusals:
    @pytest.mark.parametrize("name", ["gradcam", "layercam", "hirescam", "xgradcam", "shapleycam"])
    def test_a_block_whose_patches_the_head_does_not_read(self, name):
        model, x = toy_models()["vit"]
        with pytest.raises(ModelError, match=r"'blocks\.1'.*earlier block"):
            ek.explain(model, x, 0, name, layer="blocks.1")
        assert ek.explain(model, x, 0, name, layer="blocks.1.norm").attribution.any()

    def test_the_default_is_the_last_layer_whose_patches_are_read(self):
        model, x = toy_models()["vit"]
        assert ek.explain(model, x, 0, "gradcam").layer == "blocks.0"
        assert ek.explain(Registers(mean=True), images(), 0, "gradcam").layer == "norm"

    def test_patches_that_the_model_does_not_tell(self):
        model, x = Ordered(torch.arange(30).view(6, 5).T.flatten()), images()
        with pytest.raises(ModelError, match=r"30 tokens.*patch_grid=\(height, width\)"):
            ek.explain(model, x, 0, "gradcam", layer="blocks.0")
        assert ek.explain(model, x, 0, "gradcam").layer == "embed"
        assert ek.explain(model, x, 0, "gradcam", patch_grid=(5, 6)).layer == "blocks.0"
        model = Registers(2, 1, linear=True)
        told = ek.explain(model, x, 0, "gradcam", layer="first", patch_grid=(6, 5))
        same = ek.explain(model, x, 0, "gradcam", layer="first", patch_grid=(6, 5), prefix_tokens=2)
        assert torch.equal(told.attribution, same.attribution)
        other = ek.explain(
            model, x, 0, "gradcam", layer="first", patch_grid=(6, 5), prefix_tokens=1
        )
        assert not torch.equal(told.attribution, other.attribution)
        with pytest.raises(ModelError, match="prefix_tokens=4: pass prefix_tokens= from 0 to 3"):
            ek.explain(model, x, 0, "gradcam", layer="first", patch_grid=(6, 5), prefix_tokens=4)
        with pytest.raises(ModelError, match="pass patch_grid"):
            ek.explain(model, x, 0, "gradcam", layer="first", patch_grid=(7, 5))

    def test_patches_cut_without_a_convolution(self):
        """As many tokens as a grid with the proportions of the image, and it is confirmed."""
        told = ek.explain(Registers(2, 1, linear=True), images(), 0, "gradcam", layer="first")
        assert told.diagnostics["patch_grid"] == [6, 5]

    @pytest.mark.parametrize("embed", ["linear", "convolution"])
    def test_a_patch_size_that_the_configuration_names(self, embed):
        model, x = Registers(2, 1, linear=embed == "linear"), images()
        # of a convolution only its stride counts, not a configuration, as in Hiera
        model.config = type("Config", (), {"patch_size": 2 if embed == "linear" else 3})()
        told = ek.explain(model, x, 0, "gradcam", layer="first")
        assert told.diagnostics["patch_grid"] == [6, 5]

    def test_tokens_in_another_order(self):
        """Units of neighboring patches one after the other, as in Hiera, are not row by row."""
        x = torch.rand(2, 3, 16, 16)
        units = torch.arange(64).view(2, 4, 2, 4).transpose(1, 2).flatten()
        grid = ek.explain(Ordered(), x, 1, "gradcam").diagnostics["patch_grid"]
        assert grid == [8, 8]
        with pytest.raises(ModelError, match="cannot tell where the 64 tokens"):
            ek.explain(Ordered(units), x, 1, "gradcam", layer="blocks.0")

    def test_tokens_that_change_where_none_should(self):
        class Mixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Conv2d(3, 8, 2, stride=2)
                self.first = nn.Identity()

            def forward(self, x):
                tokens = self.embed(x).flatten(2).transpose(1, 2)
                return self.first(
                    torch.cat([tokens.mean(1, keepdim=True), tokens[:, :1], tokens], 1)
                )

        value = torch.zeros(3, 32, 8)
        with pytest.raises(ModelError, match="cannot tell where the 32 tokens .*prefix_tokens="):
            layout_of(value, "first", Mixed(), images())

    def test_not_a_batch(self):
        with pytest.raises(ModelError, match=r"got \[31, 3, 8\]"):
            layout_of(torch.zeros(31, 3, 8), "first", Registers(), images())


class TestChannelsLast:
    def test_swin(self):
        model, x = Swin(), images()
        for layer, grid in (("stage", (6, 5)), ("last", (3, 3))):
            a, g = slopes(model, layer, x)
            small = (a * g.mean((1, 2), keepdim=True)).sum(3)[:, None]
            ours = ek.explain(model, x, 1, "gradcam", layer=layer)
            expected = F.interpolate(small, (12, 10), mode="bilinear", align_corners=False)
            torch.testing.assert_close(ours.attribution, expected)
            assert ours.diagnostics["patch_grid"] == list(grid)

    def test_without_a_convolution_it_must_be_said(self):
        model, x = Swin(conv=False), torch.randn(2, 3, 12, 12)
        with pytest.raises(ModelError, match=r"pass patch_grid=\(6, 6\) or patch_grid=\(6, 7\)"):
            ek.explain(model, x, 1, "gradcam", layer="stage")
        told = ek.explain(model, x, 1, "gradcam", layer="stage", patch_grid=(6, 6))
        assert told.diagnostics["patch_grid"] == [6, 6]
        with pytest.raises(ModelError, match=r"height and width of \[2, 6, 6, 7\]"):
            ek.explain(model, x, 1, "gradcam", layer="stage", patch_grid=(5, 6))

    def test_convolutions_have_channels_first(self):
        for channels in (5, 6, 8):
            model = nn.Sequential(nn.Conv2d(3, channels, 2, stride=2), nn.ReLU())
            found = layout_of(torch.zeros(3, channels, 6, 5), "1", model, images())
            assert found == Layout("channels first", (6, 5))
        model = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.AdaptiveAvgPool2d((5, 4)))
        with_coincidence = layout_of(torch.zeros(3, 6, 5, 4), "1", nn.Identity(), images())
        assert with_coincidence == Layout("channels first", (5, 4))


@pytest.mark.parametrize("name", CAMS)
def test_a_token_map_does_not_depend_on_the_batch(name):
    model, x = Registers(2, 1), images()
    whole = ek.explain(model, x, 1, name, layer="first", batch_size=3).attribution
    alone = ek.explain(model, x[1:2], 1, name, layer="first", batch_size=3).attribution
    assert torch.equal(whole[1:2], alone)


def test_grid_and_prefix_as_text():
    assert parse_params("gradcam", ["patch_grid=6,5", "prefix_tokens=2", "layer=a.b"]) == {
        "patch_grid": (6, 5), "prefix_tokens": 2, "layer": "a.b",
    }  # fmt: skip
    with pytest.raises(
        MethodError,
        match="patch_grid: expected a whole number, a whole number or a whole number, a",
    ):
        parse_params("gradcam", ["patch_grid=6"])


def test_gradient_times_activation_cancels_on_a_residual_stream():
    model, x = toy_models()["vit"]
    with pytest.warns(ExplainkitWarning, match="only through a normalization"):
        ek.explain(model, x, 0, "hirescam", layer="blocks.0")


@pytest.mark.parametrize("method", [GradCAM(), HiResCAM(layer="blocks.1.norm")])
def test_check_method(method):
    check_method(method, {"vit": toy_models()["vit"]})
