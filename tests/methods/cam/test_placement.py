"""Where maps are drawn: closed forms, what a layer sees, and what a score reads of it."""

import copy
import gc
import weakref

import pytest
import torch
from cam_toys import Registers, pooled
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.cam import placement
from explainkit.methods.cam.layout import Layout
from explainkit.methods.cam.placement import LayerView, state_of

PLACEMENTS = ["auto", "receptive_field", "stretch"]


def images(*shape, seed=5):
    return torch.randn(shape or (3, 3, 21, 17), generator=torch.Generator().manual_seed(seed))


def network(*layers, seed=0):
    """Layers, then mean pooling and a linear layer."""
    torch.manual_seed(seed)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
            width = layer.out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)).eval()


def unpadded():
    return network(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())


def drawn(model, x, layer="3", method="gradcam", **options):
    return ek.explain(model, x, 1, method, layer=layer, **options)


class TestReceptiveField:
    def test_of_a_linear_layer_it_is_its_weights(self):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, (5, 4), stride=(3, 2))
        model = network(conv)
        x = images()
        e = drawn(model, x, "0")
        # of mean pooling and a linear layer, the map of the score over the positions
        cells = torch.einsum("bkij,k->bij", conv(x), model[3].weight[1]) / (6 * 7)
        weights = conv.weight.sum(0).abs().sum(0)
        expected = F.conv_transpose2d(cells[:, None], weights[None, None], stride=(3, 2))
        expected = F.pad(expected / weights.sum(), (0, 1, 0, 1))
        assert e.diagnostics["placement"] == "receptive_field"
        torch.testing.assert_close(e.attribution, expected.detach())
        # the sum is kept: that of the cells, the score without its bias
        torch.testing.assert_close(
            e.attribution.sum((1, 2, 3)), e.score - model[3].bias[1].detach()
        )

    @pytest.mark.parametrize("offset", [0, 5])
    def test_one_cell_is_drawn_around_its_center(self, offset):
        model = network(
            nn.ZeroPad2d((0, -offset, -offset, 0)), nn.Conv2d(3, 16, 5), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 16, (8 - offset // 2, 6 - offset // 2)), nn.ReLU(),
        )  # fmt: skip
        found = drawn(model, images(), "5", "eigencam", centered=False, placement="receptive_field")
        one = found.attribution[0, 0].abs()
        assert found.diagnostics["patch_grid"] == [1, 1]
        center = [
            float((one.sum(1 - axis) * torch.arange(length)).sum() / one.sum())
            for axis, length in enumerate(one.shape)
        ]
        assert center[0] == pytest.approx((offset + 20) / 2, abs=3)
        assert center[1] == pytest.approx((16 - offset) / 2, abs=3)

    def test_one_field_for_all_cells_is_close_to_each_ones_own(self):
        """Half the absolute difference of two fields that sum to 1 is the mass in other places."""
        model, x = unpadded(), images(1, 3, 19, 17)
        view = LayerView(model, "3", Layout("channels first", (6, 5)), x, state_of(model))
        one_hot = torch.eye(30).view(30, 6, 5)
        shared = view.fields()(one_hot)
        own = placement._own_fields(view, view.sight().spans)(one_hot)
        torch.testing.assert_close(shared.sum((1, 2)), torch.ones(30))
        torch.testing.assert_close(own.sum((1, 2)), torch.ones(30))
        assert (shared - own).abs().sum((1, 2)).max() / 2 < 0.2
        # no pixel is farther away than the 9 × 9 field
        assert torch.equal(shared[0, :9, :9] > 0, torch.ones(9, 9, dtype=torch.bool))
        assert not shared[0, 9:].any()

    def test_a_field_is_cut_at_the_border_and_keeps_its_sum(self):
        model = network(nn.Conv2d(3, 6, 5, padding=2), nn.ReLU())
        view = LayerView(model, "1", Layout("channels first", (21, 17)), images(), state_of(model))
        fields = view.fields()(torch.eye(357).view(357, 21, 17))
        torch.testing.assert_close(fields.sum((1, 2)), torch.ones(357))
        inside, corner = fields[10 * 17 + 8, 8:13, 6:11], fields[0, :3, :3]
        torch.testing.assert_close(corner, inside[2:, 2:] / inside[2:, 2:].sum())

    def test_dead_units_are_drawn_evenly_over_their_field(self):
        model = unpadded()
        x = images()
        with torch.no_grad():
            model[0].bias.fill_(-100)
        e = drawn(model, x, "2")
        cells = e.score - model[6].bias[1].detach()
        expected = F.conv_transpose2d(
            torch.ones(1, 1, 7, 5), torch.ones(1, 1, 9, 9), stride=2
        ) / (81 * 35)  # fmt: skip
        assert not e.attribution.isnan().any()
        assert e.attribution.shape[2:] == expected.shape[2:]
        torch.testing.assert_close(e.attribution, (cells[:, None, None, None] * expected).detach())


class TestAuto:
    def test_padded_networks_and_tokens_are_stretched(self):
        for model, layer in ((pooled(), "1"), (Registers(), "first")):
            x = images(3, 3, 12, 10)
            one, other = (drawn(model, x, layer, placement=p) for p in ("auto", "stretch"))
            assert torch.equal(one.attribution, other.attribution)
            assert one.diagnostics["placement"] == "stretch"

    def test_symmetric_padding_of_every_stride_is_within_half_a_cell(self):
        model = network(*(nn.Conv2d(4 if i else 3, 4, 3, 2, 1) for i in range(4)))
        assert drawn(model, images(2, 3, 64, 64)).diagnostics["placement"] == "stretch"

    def test_several_layers_are_drawn_in_one_unit(self):
        model, x = unpadded(), images()
        both = drawn(model, x, ("1", "3"))
        each = [drawn(model, x, layer).attribution for layer in ("1", "3")]
        torch.testing.assert_close(both.attribution, torch.stack(each).mean(0))
        assert both.diagnostics["placement"] == "receptive_field"

    def test_any_other_word_is_an_error(self):
        with pytest.raises(MethodError, match="placement: expected auto or .*, got 'center'"):
            drawn(pooled(), images(), placement="center")


class Masked(nn.Module):
    """Sees the upper part of the image, and reads the left part of its map."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.eval()

    def forward(self, x):
        x = self.conv(x * (torch.arange(x.shape[2]) < 9)[:, None])
        return self.head((x * (torch.arange(x.shape[3]) < 6)).mean((2, 3)))


class TestWhatIsReadAndSeen:
    @pytest.mark.parametrize("where", PLACEMENTS)
    @pytest.mark.parametrize("method", ["gradcam", "eigencam", "recipro_cam"])
    def test_positions_that_pooling_drops_are_not_drawn(self, where, method):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 2, 4)
        ).eval()
        x = images(2, 1, 9, 7)  # 7 × 5 positions, of which the last row and column are not read
        e = drawn(model, x, "1", method, placement=where)
        changed = x.clone()
        changed[:, :, 8:] = 3
        changed[..., 6:] = -3
        assert torch.equal(model(x), model(changed))
        assert e.attribution.any()
        if where != "stretch":
            assert not e.attribution[..., 8:, :].any()
            assert not e.attribution[..., 6:].any()
        nearest = drawn(model, x, "1", method, placement="stretch", upsample="nearest").attribution
        assert not nearest[..., 8:, :].any()

    @pytest.mark.parametrize("where", PLACEMENTS)
    def test_masked_pixels_and_positions_are_not_drawn(self, where):
        e = drawn(Masked(), images(2, 3, 14, 10), "conv", placement=where)
        assert e.attribution[..., :9, :6].any()
        assert not e.attribution[..., 9:, :].any()
        assert not e.attribution[..., 8:].any()

    def test_a_global_maximum_reads_every_position(self):
        """No gradient at a position on every probe does not mean that it is never the maximum."""
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
            nn.Linear(2, 3),
        ).eval()  # fmt: skip
        x = images(1, 1, 6, 5)
        view = LayerView(model, "1", Layout("channels first", (6, 5)), x, state_of(model))
        assert view.read().all()

    def test_it_depends_on_the_score(self):
        model = unpadded()
        x = images(2, 3, 21, 17)
        e = ek.explain(model, x, 'neuron("3", 1, 0, 0)', "eigencam", layer="1", centered=False)
        # the unit reads 3 × 3 positions of the first layer, which see 9 × 9 pixels
        assert e.attribution[..., :9, :9].any()
        assert not e.attribution[..., 9:, :].any()
        assert ek.explain(model, x, 1, "eigencam", layer="1").attribution[..., 9:, :].any()

    def test_a_layer_aside_is_shown_for_itself(self):
        class Aside(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.aside = pooled(), nn.Conv2d(3, 4, 3, padding=1)

            def forward(self, x):
                self.aside(x)
                return self.body(x)

        assert drawn(Aside().eval(), images(), "aside", "eigencam").attribution.any()


class Particular(nn.Module):
    """Runs on pixels from 0 to 1 alone."""

    def __init__(self):
        super().__init__()
        self.body = unpadded()

    def forward(self, x):
        if x.min() < 0:
            raise ValueError("pixels below 0")
        return self.body(x)


class TestModelsThatRefuseRandomImages:
    def test_the_map_is_stretched_and_says_so(self):
        model, x = Particular().eval(), images().abs()
        with pytest.warns(ek.ExplainkitWarning) as caught:
            e = drawn(model, x, "body.3")
        (warning,) = (str(one.message) for one in caught)
        assert "where layer 'body.3' looks is unknown" in warning
        assert "float32: pixels below 0): its map is stretched" in warning
        assert "\n" not in warning
        assert e.diagnostics["placement"] == "stretch"
        # what is stretched is the same map, which the score's own network places elsewhere
        own = drawn(model.body, x, placement="stretch")
        seen = own.attribution != 0
        torch.testing.assert_close(e.attribution[seen], own.attribution[seen])
        assert drawn(model.body, x).diagnostics["placement"] == "receptive_field"

    def test_receptive_fields_that_are_asked_for_are_refused(self):
        with pytest.raises(MethodError, match="'body.3' are unknown.*pixels below 0.*'stretch'"):
            drawn(Particular().eval(), images().abs(), "body.3", placement="receptive_field")


class TestFoundOnce:
    def test_the_same_whatever_the_batch(self):
        x = images()
        whole = drawn(unpadded(), x).attribution
        alone = drawn(unpadded(), x[1:2]).attribution
        torch.testing.assert_close(whole[1:2], alone)

    def test_new_weights_are_noticed_and_the_model_can_be_freed(self):
        x = images()
        model = unpadded()
        before = drawn(model, x).attribution
        with torch.no_grad():
            model[0].weight[:, :, 0] *= 9
        after = drawn(model, x).attribution
        assert torch.equal(after, drawn(copy.deepcopy(model), x).attribution)
        assert not torch.allclose(before, after)
        freed = weakref.ref(model)
        del model
        gc.collect()
        assert freed() is None

    def test_models_that_take_one_image(self):
        class One(nn.Module):
            def __init__(self, body):
                super().__init__()
                self.body = body

            def forward(self, x):
                return self.body(x.view(1, *x.shape[1:]))

        x = images(1, 3, 21, 17)
        body = unpadded()
        assert torch.equal(
            drawn(One(body).eval(), x, "body.3").attribution, drawn(body, x).attribution
        )

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1)])
    def test_precision(self, dtype, tolerance):
        x = images()
        model = unpadded()
        exact = drawn(model, x).attribution
        found = drawn(copy.deepcopy(model).to(dtype), x.to(dtype)).attribution
        assert (found - exact).abs().max() <= tolerance * exact.abs().max()
