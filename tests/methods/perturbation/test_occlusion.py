"""Occlusion against Captum, closed forms, and the definition of each filling."""

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import explainkit as ek
from explainkit.engine.model import ScoreModel
from explainkit.errors import MethodError
from explainkit.methods.perturbation.baselines import fill_images
from explainkit.methods.perturbation.occlusion import Occlusion
from explainkit.methods.perturbation.windows import Windows, inpainted, score_windows
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 4])
FILLINGS = ["mean", "blur", "noise", "inpaint"]


@pytest.mark.parametrize("name", sorted(toy_models()))
@pytest.mark.parametrize(
    ("window", "stride"), [((3, 3), (2, 2)), ((5, 4), (4, 1)), ((7, 10), (5, 3))]
)
def test_captum(name, window, stride):
    model, x = toy_models()[name]
    model.eval()
    forward = (lambda v: model(v)[0]) if name == "tuple" else model
    baseline = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(1))
    ours = ek.explain(
        model, x, TARGET, "occlusion", window=window, stride=stride, baseline=baseline
    ).attribution
    oracle = captum.attr.Occlusion(forward).attribute(
        x, (3, *window), (3, *stride), baseline[None], TARGET, perturbations_per_eval=16
    )
    assert ours.shape == (4, 1, 12, 10)
    difference = (ours - oracle[:, :1]).abs().max()
    assert float(difference) <= 1e-6 + 1e-5 * float(oracle.abs().max())


class TestWindows:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_places_cover_the_image_and_average(self, data):
        height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        window = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
        stride = (data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1])))
        windows = Windows((height, width), window, stride)
        boxes = windows.boxes()
        assert len(boxes) == len(windows)
        values = torch.rand(2, len(windows), dtype=torch.float64)
        total = torch.zeros(2, 1, height, width, dtype=torch.float64)
        cover = torch.zeros(height, width)
        image = torch.rand(2, height, width)
        for place, (top, left, bottom, right) in enumerate(boxes):
            total[:, 0, top:bottom, left:right] += values[:, place, None, None]
            cover[top:bottom, left:right] += 1
            cut = windows.cut(image).flatten(0, 1)[place]
            assert torch.equal(
                cut[:, : bottom - top, : right - left], image[:, top:bottom, left:right]
            )
        assert bool((cover > 0).all())
        torch.testing.assert_close(windows.average(values), total / cover)

    @pytest.mark.parametrize("batch", [1, 5, 64])
    def test_scores_are_those_of_the_pasted_images(self, batch):
        model, x = toy_models()["residual"]
        windows = Windows((12, 10), (5, 4), (3, 3))
        patches = windows.cut(torch.rand(3, 12, 10))
        scorer = ScoreModel(model, batch_size=batch)
        found, _ = score_windows(scorer, x[0], windows, patches)
        for place, (top, left, bottom, right) in enumerate(windows.boxes()):
            pasted = x[:1].clone()
            pasted[0, :, top:bottom, left:right] = patches.flatten(0, 1)[place][
                :, : bottom - top, : right - left
            ]
            torch.testing.assert_close(found[place].float(), model(pasted)[0].detach())


class TestFilling:
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def test_inpainting_is_harmonic(self):
        windows = Windows((12, 10), (5, 4), (3, 3))
        for patch, (top, left, bottom, right) in zip(
            inpainted(self.x[0], windows).flatten(0, 1), windows.boxes(), strict=True
        ):
            filled = self.x[0].clone()
            filled[:, top:bottom, left:right] = patch[:, : bottom - top, : right - left]
            # repeating the border's pixels is a slope of zero across it
            padded = nn.functional.pad(filled[None], (1, 1, 1, 1), "replicate")[0]
            laplacian = (
                padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:]
                + padded[:, 1:-1, :-2] - 4 * filled
            )  # fmt: skip
            assert float(laplacian[:, top:bottom, left:right].abs().max()) < 1e-12

    def test_inpainting_continues_a_flat_image(self):
        flat = torch.full((3, 12, 10), 0.7)
        windows = Windows((12, 10), (4, 4), (4, 3))
        assert float((inpainted(flat, windows)[0, 0] - 0.7).abs().max()) < 1e-6

    def test_inpainting_everything_is_refused(self):
        with pytest.raises(MethodError, match="smaller than the image"):
            inpainted(self.x[0], Windows((12, 10), (12, 10), (1, 1)))

    def test_mean_blur_noise(self):
        mean = fill_images("mean", self.x, 0)
        assert torch.allclose(mean[1, 2], self.x[1, 2].mean())
        blur = fill_images("blur", self.x, 0)
        assert float(blur.std()) < float(self.x.std()) / 2
        assert torch.allclose(fill_images("blur", torch.ones(1, 1, 9, 7), 0), torch.ones(()))
        # to the bit, since optimized masks amplify any difference
        faces = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(0))
        alone = torch.cat([fill_images("blur", faces[i : i + 1], 0) for i in range(3)])
        assert torch.equal(fill_images("blur", faces, 0), alone)
        big = torch.rand(1, 2, 80, 70) * torch.tensor([1.0, 3.0])[:, None, None]
        noise = fill_images("noise", big, 3)
        torch.testing.assert_close(noise.std((2, 3)), big.std((2, 3)), rtol=0.05, atol=0)
        torch.testing.assert_close(noise.mean((2, 3)), big.mean((2, 3)), rtol=0.1, atol=0)
        assert torch.equal(noise, fill_images("noise", big, 3))
        assert not torch.equal(noise, fill_images("noise", big, 4))
        assert torch.equal(fill_images("noise", self.x, 3)[1:], fill_images("noise", self.x[1:], 3))


@pytest.mark.parametrize("filling", [0.0, *FILLINGS])
def test_conformance(filling):
    models = toy_models()
    kinds = sorted(models) if filling == 0.0 else ["batch_norm"]
    check_method(Occlusion(window=4, baseline=filling), {kind: models[kind] for kind in kinds})


def test_defaults_are_a_sixth_and_its_half():
    model = nn.Sequential(nn.Flatten(), nn.Linear(30 * 24, 1)).eval()
    x = torch.rand(1, 1, 30, 24)
    found = ek.explain(model, x, 0, "occlusion").attribution
    assert torch.equal(found, ek.explain(model, x, 0, Occlusion(4, 2)).attribution)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"window": 11}, "window: expected from 1 pixel to the image's 10, got 11"),
        ({"window": -1}, "window: expected from 1 pixel"),
        ({"window": 0}, "window: expected from 1 pixel to the image's 12, got 0"),
        ({"stride": (1, 0)}, "stride: expected from 1 pixel to the window's 1, .* got 0"),
        ({"window": 2.5}, "window: expected a whole number of pixels or .*, got 2.5"),
        ({"window": 3, "stride": 4}, "stride: expected from 1 pixel to the window's 3"),
        ({"baseline": "gray"}, "baseline: expected a number, a tensor, .* got 'gray'"),
        ({"baseline": torch.zeros(2)}, r"baseline: expected .* got \[2\]"),
        ({"baseline": "inpaint", "window": (12, 10)}, "smaller than the image to inpaint"),
    ],
)
def test_bad_parameters(params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, "occlusion", **params)


@pytest.mark.parametrize("name", ["window", "stride"])
def test_a_window_with_a_channel_axis_is_refused(name):
    model, x = toy_models()["plain"]
    with pytest.raises(
        MethodError, match=rf"{name}: expected .* or \(height, width\), got \(3, 4, 4\)"
    ):
        ek.explain(model, x, 1, "occlusion", **{"window": 4, name: (3, 4, 4)})


class Spelled(nn.Module):
    """One network in spellings that depend on memory, on parts of a tensor, or on the batch."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 120, 4)
        self.table = nn.Parameter(torch.randn(1, 8, 12, 10))

    def forward(self, x):
        x = torch.relu(self.conv(x))
        if self.spelling == "chunk":
            value, gate = x.chunk(2, 1)
            x = torch.cat([value * torch.sigmoid(gate), gate], 1)
        elif self.spelling == "split":
            one, two = torch.split(x, [3, 5], 1)
            x = torch.cat([torch.tanh(two), one], 1)
        elif self.spelling == "table":
            x = torch.cat([self.table.expand(len(x), -1, -1, -1), x], 1)[:, 8:]
        return self.head(x.view(-1, 8 * 120))


@pytest.mark.parametrize("method", ["occlusion", "feature_ablation"])
@pytest.mark.parametrize("spelling", ["view", "chunk", "split", "table"])
def test_parts_of_a_network_in_any_spelling(method, spelling, monkeypatch):
    monkeypatch.setattr("explainkit.methods.perturbation.box_scores.worth_tracing", lambda *_: True)
    monkeypatch.setattr("explainkit.graph.incremental.run.BoxPlan.saves", True)
    model, x = Spelled(spelling).eval(), torch.rand(2, 3, 12, 10)
    params = {"window": 4, "stride": 4} if method == "occlusion" else {"segments": 3}
    found = ek.explain(model, x, 1, method, **params)
    assert found.diagnostics["evaluation"] == "incremental"
    with torch.no_grad():
        for i, (top, left) in [(0, (0, 0)), (1, (5, 5))]:
            value = found.attribution[i, 0, top, left]
            hidden = x[i : i + 1].clone()
            hidden[:, :, found.attribution[i, 0] == value] = 0
            drop = model(x[i : i + 1])[0, 1] - model(hidden)[0, 1]
            assert abs(value - drop) < 1e-5


def test_one_image_at_a_time():
    """A model whose table has a batch of one needs `batch_size=1`, and is then scored in full."""

    class OneImage(Spelled):
        def forward(self, x):
            return self.head((torch.cat([x, self.table], 1)[:, 3:] * x.mean()).view(-1, 8 * 120))

    model, x = OneImage("").eval(), torch.rand(3, 3, 12, 10)
    found = ek.explain(model, x, 1, "occlusion", window=6, stride=6, batch_size=1)
    hidden = x[1:2].clone()
    hidden[:, :, 6:, :6] = 0
    with torch.no_grad():
        drop = model(x[1:2])[0, 1] - model(hidden)[0, 1]
    assert abs(found.attribution[1, 0, 8, 2] - drop) < 1e-5


@pytest.mark.parametrize("channels", [1, 2])
def test_windows_of_some_channels_as_in_captum(channels):
    model, x = toy_models()["plain"]
    ours = ek.explain(model, x, 1, "occlusion", window=4, stride=2, channels=channels, baseline=0.3)
    oracle = captum.attr.Occlusion(model).attribute(
        x, (channels, 4, 4), (channels, 2, 2), 0.3, 1, perturbations_per_eval=64
    )
    torch.testing.assert_close(ours.attribution, oracle.detach(), atol=1e-5, rtol=1e-4)


def test_windows_of_some_channels_inpainted():
    """A channel that is constant everywhere is inpainted by itself: hiding it changes nothing."""
    model, x = toy_models()["plain"]
    x = x.clone()
    x[:, 1] = 0.4
    e = ek.explain(model, x, 1, "occlusion", window=3, channels=1, baseline="inpaint")
    assert float(e.attribution[:, 1].abs().max()) < 1e-5 < float(e.attribution[:, 0].abs().max())
    with pytest.raises(MethodError, match="channels: expected from 1 to the image's 3, got 4"):
        ek.explain(model, x, 1, "occlusion", channels=4)
