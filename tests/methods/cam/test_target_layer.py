"""The default layers of class activation maps."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from cam_toys import (
    AfterIdentity,
    Detector,
    NormAct,
    Ordered,
    Queries,
    Registers,
    TwoPatchSizes,
    TwoStreams,
)
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import ModelError
from explainkit.expressions import channel, logit
from explainkit.methods.cam.gradient import GradCAM
from explainkit.methods.cam.layout import layout_of
from explainkit.methods.cam.target_layer import default_layers
from explainkit.testing import _state, toy_models


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("plain", "4"), ("functional", "second"), ("in_place", "3"), ("residual", "branch"),
        ("batch_norm", "2"), ("tuple", "features.1"), ("vit", "blocks.0"), ("reused", "second"),
    ],
)  # fmt: skip
def test_toy_models(name, layer):
    model, images = toy_models()[name]
    before = _state(model, images)
    assert default_layers(model, images) == (layer,)
    assert _state(model, images).keys() == before.keys()


def test_of_a_transformer_that_averages_its_tokens():
    class Averaging(type(toy_models()["vit"][0])):
        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            for block in self.blocks:
                tokens = block(tokens)
            return self.head(tokens.mean(1)).softmax(1)

    assert default_layers(Averaging(), torch.rand(1, 3, 12, 10)) == ("blocks.1",)


def test_skips_unused_maps():
    """As in PiT: the last stage returns a map and a class vector, and only the vector is used."""

    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x), x.mean((2, 3))

    class Staged(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.head = nn.Conv2d(3, 3, 3), Stage(), nn.Linear(3, 2)

        def forward(self, x):
            _, vector = self.last(self.first(x))
            return self.head(vector)

    assert default_layers(Staged().eval(), torch.rand(1, 3, 8, 8)) == ("first",)


@pytest.mark.parametrize("before", [1, 2])
def test_class_tokens_that_have_read_the_image_are_told_from_patches(before):
    """Also as in PiT: a convolution pools the patches between two stages of blocks."""
    block = type(toy_models()["vit"][0].blocks[0])

    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.tokens = (
                nn.Conv2d(3, 8, 2, 2),
                nn.Parameter(torch.rand(1, before, 8)),
            )
            self.first = nn.Sequential(block(8))
            self.pool, self.project = nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Linear(8, 8)
            self.last, self.head = nn.Sequential(block(8), block(8), block(8)), nn.Linear(8, 5)

        def forward(self, x):
            maps, tokens = self.patches(x), self.tokens.expand(len(x), -1, -1)
            both = self.first(torch.cat([tokens, maps.flatten(2).mT], 1))
            tokens, patches = both[:, :before], both[:, before:]
            maps = self.pool(patches.mT.reshape(maps.shape)).flatten(2).mT
            return self.head(self.last(torch.cat([self.project(tokens), maps], 1))[:, 0])

    model, x = Stages().eval(), images(size=(16, 12))
    assert default_layers(model, x) == ("last.1",)
    layout = layout_of(torch.rand(3, before + 12, 8), "last.1", model, x)
    assert (layout.patch_grid, layout.prefix_tokens) == ((4, 3), before)


def test_needs_spatial_positions():
    model, images = toy_models()["mlp"]
    with pytest.raises(ModelError, match="more than one spatial position"):
        default_layers(model, images)


def images(batch=3, channels=3, size=(12, 10)):
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(5))


def layer_of(model, x, target=1, method="gradcam"):
    return ek.explain(model, x, target, method).layer


class TestActivation:
    """The value that the score reads, after its activation."""

    def test_inside_a_normalization(self):
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3), NormAct(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
        ).eval()
        x = images()
        e = ek.explain(model, x, 1, "gradcam", upsample="nearest", placement="stretch")
        assert e.layer == "1"
        # with mean pooling and a linear head, Grad-CAM is the map of the score over the positions
        found = (model[:2](x) * model[4].weight[1][:, None, None] / 80).sum(1, keepdim=True)
        torch.testing.assert_close(e.attribution, F.interpolate(found, (12, 10)))

    def test_in_place_after_an_identity(self):
        model = AfterIdentity()
        assert layer_of(model, images()) == "act"

    def test_outermost_of_the_layers_that_compute_it(self):
        inner = nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(3, 6, 3), NormAct(6)))
        model = nn.Sequential(nn.Sequential(inner), nn.Flatten(), nn.Linear(480, 5)).eval()
        assert layer_of(model, images()) == "0"

    def test_a_function_between_modules_leaves_the_layer_before(self):
        class Functional(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.head = module[0], module[4]

            def forward(self, x):
                return self.head(F.relu(self.conv(x)).mean((2, 3)))

        torch.manual_seed(0)  # LayerCAM's map is zero for some weights
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
        ).eval()
        function, x = Functional().eval(), images()
        assert (layer_of(module, x), layer_of(function, x)) == ("1", "conv")
        for method in ("hirescam", "layercam", "elementwise_cam"):
            maps = [
                ek.explain(model, x, 1, method, placement="stretch").attribution
                for model in (module, function)
            ]
            torch.testing.assert_close(*maps)
        maps = [ek.explain(model, x, 1, "gradcam").attribution for model in (module, function)]
        assert not torch.allclose(*maps)


class TestTarget:
    """What is last depends on what the score reads."""

    def test_function_of_the_output(self):
        class Tokens(type(toy_models()["vit"][0])):
            def forward(self, x):
                tokens = self.patches(x).flatten(2).transpose(1, 2)
                tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
                for block in self.blocks:
                    tokens = block(tokens)
                return tokens

        model, x = Tokens().eval(), images()
        assert layer_of(model, x, lambda out: out[:, 0].sum(1)) == "blocks.0"
        assert layer_of(model, x, lambda out: out[:, 1:].sum((1, 2))) == "blocks.1"
        assert layer_of(model, x, lambda out: out[:, 0].sum(1), "shapleycam") == "blocks.0"

    def test_channel_of_an_inner_layer(self):
        model, x = toy_models()["plain"]
        e = ek.explain(
            model, x, channel("1", 2), "gradcam", upsample="nearest", placement="stretch"
        )
        assert e.layer == "1"
        assert torch.equal(e.attribution > 0, model[:2](x)[:, 2:3] > 0)
        assert layer_of(model, x, logit(1) - logit(2)) == "4"
        assert layer_of(model, x) == "4"


class TestTokens:
    """Only patches of the image are positions."""

    def test_queries_of_a_detector(self):
        for queries in (30, 7):
            model = Queries(queries)
            assert layer_of(model, images(), lambda out: out[:, 3, 1]) == "encoder.1"

    def test_predictions_of_a_detector(self):
        model, x = Detector(), images(size=(8, 16))
        assert layer_of(model, x, lambda out: out[:, 4, 3]) == "model.1"
        e = ek.explain(model, x, lambda out: out[:, 4].sum(1), "gradcam")
        assert e.layer == "model.1, model.2"
        assert e.diagnostics["patch_grid"] == [[8, 16], [4, 8]]

    def test_rows_of_an_image(self):
        """As many tokens as image rows; they are not a grid of patches."""

        class Rows(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Linear(48, 8)
                self.blocks = nn.ModuleList([type(toy_models()["vit"][0].blocks[0])(8)])
                self.head = nn.Linear(8, 5)

            def forward(self, x):
                return self.head(self.blocks[0](self.embed(x.transpose(1, 2).flatten(2))).mean(1))

        with pytest.raises(ModelError, match="for tokens with patch_grid="):
            ek.explain(Rows().eval(), images(size=(16, 16)), 1, "gradcam")

    def test_attention_is_not_a_map(self):
        """Softmax as a module, and heads mixed by a linear layer, in the last block."""

        class Attention(nn.Module):
            def __init__(self, width=8):
                super().__init__()
                self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
                self.softmax, self.mix = nn.Softmax(dim=-1), nn.Linear(2, 2)

            def forward(self, x):
                q, k, v = (
                    f(x).unflatten(2, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v)
                )
                shares = self.softmax(q @ k.mT)
                mixed = self.mix(shares.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                return x + (mixed @ v).transpose(1, 2).flatten(2)

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention, self.mlp = Attention(), nn.Linear(8, 8)

            def forward(self, x):
                x = self.attention(x)
                return x + self.mlp(x)

        model = Registers()
        model.first = nn.Sequential(Block())
        model.second = nn.Sequential(Block())
        assert layer_of(model.eval(), images()) == "first.0"

    def test_blocks_with_a_number_in_their_name(self):
        """As in torchvision: encoder_layer_0, encoder_layer_1."""
        model = Registers()
        blocks = OrderedDict(layer_0=model.first, layer_1=model.second)
        model.first, model.second = nn.Sequential(blocks), nn.Identity()
        assert layer_of(model.eval(), images()) == "first.layer_0"


class TestBranches:
    def test_two_streams(self):
        model, x = TwoStreams(), images(channels=4)
        stretched = GradCAM(placement="stretch")
        e = ek.explain(model, x, 1, stretched)
        assert e.layer == "depth, color"
        maps = [
            ek.explain(model, x, 1, replace(stretched, layer=one)).attribution
            for one in ("depth", "color")
        ]
        torch.testing.assert_close(e.attribution, torch.stack(maps).mean(0))

    def test_a_branch_that_the_target_does_not_read(self):
        model, x = TwoStreams(), images(channels=4)
        model.head.weight.data[1, 5:] = 0  # class 1 reads the color only
        assert layer_of(model, x, lambda out: out[:, 1]) == "color"
        assert layer_of(model, x, lambda out: out[:, 2]) == "depth, color"

    def test_ensemble(self):
        class Ensemble(nn.Module):
            def __init__(self):
                super().__init__()
                self.members = nn.ModuleList(toy_models()["plain"][0] for _ in "123")

            def forward(self, x):
                return torch.stack([member(x) for member in self.members]).mean(0)

        assert layer_of(Ensemble().eval(), images()) == "members.0.4, members.1.4, members.2.4"

    def test_two_patch_sizes(self):
        e = ek.explain(TwoPatchSizes(), images(), 1, "gradcam")
        assert e.layer == "stages.1.0, stages.1.1"
        assert e.diagnostics["patch_grid"] == [[6, 4], [4, 4]]

    def test_a_residual_path_is_no_branch(self):
        model, x = toy_models()["residual"]
        assert layer_of(model, x) == "branch"


class TestMessages:
    @pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
    def test_functions_alone(self):
        class Functions(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.rand(5, 3, 3, 3))

            def forward(self, x):
                return F.conv2d(x, self.weight).relu().mean((2, 3))

        for model in (Functions(), torch.jit.script(toy_models()["plain"][0])):
            with pytest.raises(ModelError, match="no layer to name: use a method of the image"):
                ek.explain(model.eval(), images(), 1, "gradcam")

    def test_test_time_augmentation(self):
        class Flipped(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = toy_models()["plain"][0]

            def forward(self, x):
                return self.net(x) + self.net(x.flip(3))

        model, x = Flipped().eval(), images()
        with pytest.raises(ModelError, match=r"run several times.*: explain model.net itself, or "):
            ek.explain(model, x, 1, "gradcam")
        assert ek.explain(model.net, x, 1, "gradcam").attribution.any()

    def test_shared_weights(self):
        """No part of the model is one that runs on one image once."""

        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

            def forward(self, x):
                return self.act(self.conv(self.act(self.conv(x)))).mean((2, 3))

        with pytest.raises(ModelError, match="or with shared weights: use a method of the image"):
            ek.explain(Twice().eval(), images(), 1, "gradcam")

    def test_without_gradients(self):
        class Detached(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = toy_models()["plain"][0]

            @torch.no_grad()
            def forward(self, x):
                return self.net(x)

        model, x = Detached().eval(), images()
        with pytest.raises(ModelError, match="gradient reaches.*name the layer.*eigencam"):
            ek.explain(model, x, 1, "eigencam")
        told = ek.explain(model, x, 1, "eigencam", layer="net.4")
        same = ek.explain(model.net, x, 1, "eigencam")
        assert torch.equal(told.attribution, same.attribution)


def test_it_is_found_once_per_model_and_leaves_no_trace():
    model, x = Registers(3, 2), images()
    before = _state(model, x)
    runs = []
    hook = model.head.register_forward_hook(lambda *_: runs.append(1))
    ek.explain(model, x, 1, "gradcam")
    first = len(runs)
    ek.explain(model, x, 2, "gradcam")
    assert len(runs) == first + 1
    hook.remove()
    assert _state(model, x).keys() == before.keys()
    assert default_layers(Ordered(), x) == ("blocks.0",)
