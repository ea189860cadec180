"""Maps lie over the original image; what the model did not see is hatched."""

import json
import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from report_forms import explained

from explainkit.adapters.geometry import Geometry
from explainkit.adapters.preprocessing import CenterCrop, Letterbox, Preprocessing, Resize
from explainkit.render.figure import plot, png, study_figure
from explainkit.render.heatmap import color
from explainkit.render.shown_image import ShownImage, notes, overlay, shown_images
from explainkit.results.explanation import Explanations

CROP = (Resize(12), CenterCrop(12))


def photos(sizes=((24, 40), (40, 24), (30, 30)), steps=CROP, **changes):
    """An explanation of RGB images of several sizes."""
    random = np.random.default_rng(0)
    originals = tuple(random.integers(0, 256, (*size, 3), np.uint8) for size in sizes)
    geometries = tuple(Preprocessing(steps)(Image.fromarray(one))[1] for one in originals)
    names = tuple(f"{i}.jpg" for i in range(len(sizes)))
    known = {"originals": originals, "geometries": geometries, "names": names} | changes
    return explained(len(sizes), geometries[0].size[0], channels=3, **known)


def texts(figure):
    """All texts of a figure on one line."""
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def drawn(figure):
    """The images that a figure shows, as arrays."""
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


class TestOverlay:
    def test_the_original_under_the_map_by_hand(self):
        """24 × 40 is halved and cropped: the columns 8 to 31 are seen."""
        one = photos()[0]
        [shown] = shown_images(one)
        values = one.heatmap()[0]
        mixed = overlay(shown, values, "max")
        strength = (
            torch.nn.functional.interpolate(
                (values / values.abs().max())[None, None], (24, 24), mode="bilinear"
            )[0, 0]
            .double()
            .numpy()
        )
        gray = one.originals[0].mean(-1)[:, 8:32, None] / 255
        opacity = 0.85 * np.abs(strength)[..., None] ** 0.7
        wanted = (1 - opacity) * gray + opacity * color(strength) / 255
        assert mixed.shape == (24, 40, 3)
        assert np.abs(mixed[:, 8:32] - wanted).max() < 0.02

    def test_hatched_where_it_is_not_seen(self):
        [shown] = shown_images(photos()[0])
        for found in (
            overlay(shown, torch.ones(12, 12)),
            shown.colored(np.ones((12, 12)), "RdBu_r", signed=True),
        ):
            unseen = np.delete(found, np.s_[8:32], axis=1)
            assert np.ptp(unseen, -1).max() < 1e-12, "gray"
            assert unseen.min() >= 0.57, "faded"
            # stripes: both shades along every row
            assert np.ptp(unseen[..., 0], 1).min() > 0.08
            assert np.ptp(found[:, 8:32], -1).min() > 0.1, "in color"

    def test_nothing_is_hatched_in_a_letterbox(self):
        one = photos(steps=(Letterbox(12),))
        images = shown_images(one)
        assert not any(image.hatched for image in images)
        assert notes(images) == []
        assert overlay(images[0], torch.zeros(12, 12)).shape == (24, 40, 3)

    def test_a_tensor_is_shown_as_it_was_computed(self):
        image = torch.rand(6, 5).double().numpy()
        values = torch.randn(6, 5)
        assert np.array_equal(overlay(image, values), overlay(ShownImage(image), values))
        assert shown_images(explained())[0].geometry is None

    def test_a_large_original_is_reduced(self):
        one = photos(((300, 500),), names=("large.jpg",))
        [shown] = shown_images(one, longest=100)
        assert shown.size == (60, 100)
        assert overlay(shown, torch.ones(12, 12)).shape == (60, 100, 3)
        blocks = one.originals[0].reshape(60, 5, 100, 5, 3).mean((1, 3)) / 255
        assert np.abs(shown.pixels - blocks).max() < 1 / 255
        assert np.isnan(shown.place(np.ones((12, 12)))[0]).sum() == 40


class TestFigures:
    def test_every_image_has_its_own_shape(self):
        shapes = [image.shape[:2] for image in drawn(plot(photos())) if image.shape[0] > 20]
        assert set(shapes) >= {(24, 40), (40, 24), (30, 30)}
        assert "hatched: not seen by the model" in texts(plot(photos()))
        assert "hatched" not in texts(plot(photos(steps=(Letterbox(12),))))

    def test_several_explanations(self):
        found = Explanations([photos(), photos(method="explainkit/lrp")])
        shapes = [image.shape[:2] for image in drawn(found.plot())]
        assert [shapes.count(size) for size in ((24, 40), (40, 24), (30, 30))] == [3, 3, 3]
        assert "hatched" in texts(found.plot())

    def test_the_study_figure_masks_the_original(self):
        images = drawn(study_figure(photos(), keep=0.1))
        assert [image.shape[:2] for image in images].count((24, 40)) == 4

    def test_given_axes(self):
        figure = mpl.figure.Figure()
        plot(photos()[0], ax=figure.add_subplot())
        assert drawn(figure)[0].shape == (24, 40, 3)

    def test_the_same_bytes(self):
        assert png(plot(photos()[0])) == png(plot(photos()[0]))


class TestPages:
    def data(self, found, tmp_path):
        text = found.report(tmp_path / "report.html").read_text()
        record = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
        return text, json.loads(record[1])

    def test_a_report_has_what_its_script_needs(self, tmp_path):
        one = photos()
        text, data = self.data(one, tmp_path)
        assert data["input"] == [12, 12]
        assert [(s["height"], s["width"]) for s in data["shown"]] == [(24, 40), (40, 24), (30, 30)]
        assert [Geometry.from_dict(s["geometry"]) for s in data["shown"]] == list(one.geometries)
        assert data["names"] == ["0.jpg", "1.jpg", "2.jpg"]
        assert (data["grid"]["height"], data["grid"]["width"]) == (40, 40)
        assert "several sizes, seen by the model at 12 × 12 pixels" in text
        assert "hatched: not seen by the model" in text

    def test_one_image(self, tmp_path):
        text, _ = self.data(photos()[0], tmp_path)
        assert "40 × 24, seen by the model at 12 × 12 pixels" in text

    def test_a_report_of_tensors_has_no_geometry(self, tmp_path):
        text, data = self.data(explained(), tmp_path)
        assert [one["geometry"] for one in data["shown"]] == [None, None]
        assert "6 × 6 pixels</p>" in text

    def test_notebook(self):
        text = photos()._repr_html_()
        assert "hatched: not seen by the model" in text
        assert "0.jpg" in text


@pytest.mark.parametrize("pixels", [(7, 9), (1, 1), (2048, 3)])
def test_images_of_any_size_are_drawn(pixels):
    one = photos((pixels,), (Resize((12, 12), "exact"),), names=("a",))
    assert png(plot(one))
