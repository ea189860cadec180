"""Figures carry true scales, leave matplotlib alone, and are the same for the same input."""

import base64
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from explainkit.errors import RenderError
from explainkit.render.diagram import architecture_figure
from explainkit.render.figure import plot, png, save_figure, study_figure
from explainkit.render.heatmap import color, scale, to_pixels
from explainkit.render.matrix import matrix_figure
from explainkit.render.shown_image import overlay
from explainkit.results.explanation import Explanation, Explanations


def explanation(shape=(2, 1, 12, 10), classes=7, names=True, **changes):
    generator = torch.Generator().manual_seed(0)
    attribution = torch.randn(shape, generator=generator)
    logits = torch.randn(shape[0], classes, generator=generator)
    known = {
        "inputs": torch.rand(shape, generator=generator),
        "attribution": attribution,
        "target": logits.argmax(1),
        "score": logits.amax(1),
        "logits": logits,
        "method": "explainkit/saliency",
        "params": {"absolute": False},
        "model": "fer_hw3/cnn",
        "class_names": tuple(f"name {i}" for i in range(classes)) if names else (),
        "mean": (0.5,) * shape[1],
        "std": (0.25,) * shape[1],
    }
    return Explanation(**known | changes)


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        labels = [*axes.get_yticklabels(), *axes.get_xticklabels(), *axes.texts]
        found += [axes.get_title(loc=loc) for loc in ("left", "right", "center")]
        found += [label.get_text() for label in labels]
    return found


def flat(figure):
    """The texts of a figure, each on one line."""
    return [text.replace("\n", " ") for text in texts(figure)]


@pytest.mark.parametrize("draw", [plot, study_figure])
@pytest.mark.parametrize(
    "shape", [(1, 1, 48, 48), (2, 3, 9, 30), (2, 3, 40, 7), (1, 13, 5, 5), (4, 1, 8, 8)]
)
def test_shapes(draw, shape):
    figure = draw(explanation(shape))
    image = Image.open(io.BytesIO(png(figure)))
    width, height = (150 * side for side in figure.get_size_inches())
    assert abs(image.width - width) <= 1
    assert abs(image.height - height) <= 1


@pytest.mark.parametrize("classes", [1, 2, 1000])
@pytest.mark.parametrize("names", [True, False])
def test_classes(classes, names):
    figure = plot(explanation(classes=classes, names=names))
    bars = [axes for axes in figure.axes if axes.patches]
    assert all(len(axes.patches) <= 7 for axes in bars)


def test_the_color_bar_carries_the_true_scale():
    one = explanation((1, 1, 4, 4))
    one = explanation((1, 1, 4, 4), attribution=one.attribution * 1234)
    largest = float(one.attribution.abs().max())
    bar = bar_of(plot(one, scaling="max"))
    assert bar.get_ylim() == (-1, 1)
    assert bar.get_yticks().tolist() == [-1, 0, 1]
    assert labels(bar) == [f"−{largest:.2g}", "0", f"{largest:.2g}"]


def bar_of(figure):
    """The first color bar: the axes that are drawn from a ramp of colors."""
    return next(axes for axes in figure.axes if ramp_of(axes) is not None)


def ramp_of(axes):
    arrays = [image.get_array() for image in axes.images]
    return next((array for array in arrays if array.shape == (256, 1, 3)), None)


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_titles_say_whether_a_prediction_is_correct():
    one = explanation()
    first, second = one.logits.argmax(1).tolist()
    other = (second + 1) % 7
    found = flat(study_figure(one, labels=[first, other]))
    assert f"predicted: name {first} (correct)" in found
    assert f"predicted: name {second} (true: name {other})" in found
    assert "map, scaled to the maximum" in found
    assert "map, scaled to the 97th percentile" in found


@pytest.mark.parametrize("unknown", [-1, None])
def test_an_unknown_label_is_not_an_error(unknown):
    one = explanation()
    first, second = one.logits.argmax(1).tolist()
    found = flat(study_figure(one, labels=[unknown, second]))
    assert f"predicted: name {first}" in found
    assert f"predicted: name {second} (correct)" in found


@pytest.mark.parametrize("wrong", [[0], [0, 1, 2], [0, 7]])
def test_labels_that_do_not_fit(wrong):
    with pytest.raises(RenderError, match="labels"):
        study_figure(explanation(), labels=wrong)


def test_a_normalization_of_other_channels_is_refused():
    with pytest.raises(RenderError, match="a mean and a std for each of 1 channels"):
        plot(explanation(mean=(0.5,) * 3, std=(0.2,) * 3))


def test_the_bars_hold_the_explained_and_the_true_class():
    logits = torch.arange(20.0).repeat(2, 1)
    one = explanation(classes=20, logits=logits, target=torch.tensor([0, 19]))
    bars = [axes for axes in study_figure(one, labels=[1, -1]).axes if axes.patches]
    assert labels(bars[0]) == ["name 0", "name 1", *(f"name {i}" for i in range(15, 20))]
    assert labels(bars[1]) == [f"name {i}" for i in range(13, 20)]


def test_only_parameters_that_differ_from_the_defaults_are_shown():
    assert "default parameters" in texts(plot(explanation()))
    inner = {"method": "explainkit/saliency", "absolute": True}
    params = {"base": inner, "samples": 25, "noise": 0.5}
    one = explanation(method="explainkit/smoothgrad", params=params)
    assert "base=saliency(absolute=True), noise=0.5" in texts(plot(one))
    assert "absolute=False" in texts(plot(explanation(method="removed/method")))


def test_plot_into_axes_of_the_caller():
    one = explanation((1, 1, 12, 10))
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(one, ax=right, scaling="max", alpha=0.5) is figure
    assert not left.images
    wanted = overlay(to_pixels(one.inputs[0], one.mean, one.std)[0], one.heatmap()[0], "max", alpha=0.5)  # fmt: skip
    assert (np.asarray(right.images[0].get_array()) == wanted).all()
    limit = float(one.heatmap().abs().max())
    assert right.get_title(loc="left") == f"saliency, ±{limit:.2g}"
    with pytest.raises(RenderError, match="ax: expected one image, got 2"):
        plot(explanation(), ax=left)


def test_plot_takes_color_map_and_columns():
    one = explanation((3, 1, 12, 10))
    narrow, wide = plot(one), plot(one, columns=2)
    assert len(narrow.axes) == len(wide.axes)
    assert wide.get_figwidth() > 1.8 * narrow.get_figwidth()
    assert wide.get_figheight() < narrow.get_figheight()
    green = plot(one, cmap="PiYG", alpha=1)
    assert ramp_of(bar_of(green))[0, 0].tolist() == color(np.ones((1, 1)), "PiYG", signed=True)[0, 0].tolist()  # fmt: skip
    assert "Brighter here raises (top of the scale) or lowers (bottom) the score" in flat(green)
    for wrong, message in (({"cmap": "no"}, "cmap"), ({"alpha": 2}, "alpha"), ({"columns": 0}, "columns")):  # fmt: skip
        with pytest.raises(RenderError, match=f"^{message}: expected"):
            plot(one, **wrong)


def test_the_legend_fits_the_method():
    assert "Brighter here raises (red) or lowers (blue) the score" in flat(plot(explanation()))
    share = explanation(method="explainkit/lrp", params={})
    assert "Evidence for (red) or against (blue) the explained class" in flat(study_figure(share))
    assert not [text for text in flat(plot(share, scaling="max:absolute")) if "(red)" in text]


def test_parameters_of_nested_methods_are_told():
    inner = {"method": "explainkit/saliency", "absolute": True}
    one = explanation(params={"method": inner, "samples": 8})
    assert "method=saliency(absolute=True), samples=8" in texts(plot(one))


@pytest.mark.parametrize("shape", [(1, 1, 48, 48), (1, 3, 40, 7), (1, 3, 5, 90)])
@pytest.mark.parametrize("draw", [plot, study_figure])
def test_no_text_is_cut_or_covers_another(draw, shape):
    one = explanation(
        shape, model="some/" + "model" * 40, params={f"parameter_{i}": i for i in range(40)},
        class_names=tuple(f"a rather long name of class {i}" for i in range(7)), mean=None,
        attribution=torch.eye(shape[2], shape[3]).expand(shape) * -1e-200,
    )  # fmt: skip
    figure = draw(one)
    png(figure)
    page = figure.bbox.padded(1)
    drawn = [*figure.texts]
    for axes in figure.axes:
        drawn += [axes.title, axes._left_title, axes._right_title]
        drawn += [*axes.texts, *(axes.get_yticklabels() if axes.axison else [])]
    boxes = [(t.get_text(), t.get_window_extent()) for t in drawn if t.get_text()]
    for place, (text, box) in enumerate(boxes):
        assert page.contains(box.x0, box.y0), text
        assert page.contains(box.x1, box.y1), text
        for other, found in boxes[:place]:
            assert not box.overlaps(found), (text, other)


def test_a_zero_map_is_drawn_and_said():
    figure = plot(explanation(attribution=torch.zeros(2, 1, 12, 10)))
    assert "the maps of images 1, 2 are zero everywhere" in " ".join(flat(figure))
    bar = bar_of(figure)
    assert labels(bar) == ["0"]
    assert np.unique(ramp_of(bar).reshape(-1, 3), axis=0).shape == (1, 3)
    study = study_figure(explanation(attribution=torch.zeros(2, 1, 12, 10)))
    assert texts(study).count("no relevant pixels") == 2
    last = study.axes[len(study.axes) // 2 - 1].images[0].get_array()
    assert (last[..., 2] - last[..., 0] > 0.2).all()


def test_fewer_pixels_than_asked_for_are_counted():
    attribution = torch.zeros(2, 1, 12, 10)
    attribution[0, 0, 1, :3] = -1
    attribution[1] = 1
    found = " ".join(flat(study_figure(explanation(attribution=attribution))))
    assert "the 3 pixels where |a| > 0" in found
    assert "most relevant 20% by |a|" in found
    assert (
        "the map of image 1 is scaled to the maximum because the 97th percentile is zero" in found
    )


@pytest.mark.parametrize("unit", [1e308, 1e-300])
def test_the_largest_and_smallest_numbers(unit):
    attribution = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4) * unit
    one = explanation((1, 1, 4, 4), attribution=attribution)
    shown = [f"{value:.2g}".replace("-", "−") for value in (-unit, 0, unit)]
    assert labels(bar_of(study_figure(one))) == shown
    png(study_figure(one, scalings=["cumulative", "percentile:50:positive"]))
    png(plot(one))


def test_overlay_shows_the_image_where_the_map_is_zero():
    image = np.linspace(0, 1, 6).reshape(2, 3)
    np.testing.assert_allclose(overlay(image, torch.zeros(2, 3)), np.dstack([image] * 3))


def test_the_same_input_gives_the_same_bytes():
    one, again = explanation((1, 1, 12, 10)), explanation((1, 1, 12, 10))
    assert png(study_figure(one)) == png(study_figure(again))


def test_the_same_names_with_dollars_are_no_mathematics():
    one = explanation(class_names=("$", "$x", "x_^$$", "a", "b", "c", r"\frac"), model="$\\bad$")
    png(study_figure(one, labels=[0, 1]))


def test_matrices():
    counts = np.array([[3, 1], [0, 0]])
    found = texts(matrix_figure(counts, ["a$", "b"], "t"))
    assert {"75%", "25%", "3", "1"} <= set(found)
    png(matrix_figure(counts, ["a$", "b"], "t"))


def test_architectures():
    rows = [("0", "3×3 convolution, padded", (4, 8, 8), 40), ("1", "ReLU", (4, 8, 8), 0),
            ("2", "linear", (7,), 1799)]  # fmt: skip
    found = texts(architecture_figure(rows, "net"))
    assert {"4 × 8 × 8", "40", "1,799", "net"} <= set(found)
    assert "ReLU" not in found
    kept = [("a", "PReLU", (4,), 0), ("b", "ReLU6", (4,), 0), ("c", "ReLU", (4,), 5)]
    found = texts(architecture_figure(kept, "net"))
    assert {"PReLU", "ReLU6", "ReLU"} <= set(found)


def test_architectures_at_the_edge():
    for rows in ([], [("1", "ReLU", (4, 8, 8), 0)]):
        with pytest.raises(RenderError, match="expected layers to draw"):
            architecture_figure(rows, "net")
    png(architecture_figure([("a$", "$kind", (1, 1), 0), ("b", "x", (), 0)], "$net$" * 50))
    lines = architecture_figure([(str(i), "linear", (7,), 56) for i in range(12)], "net")
    assert len(lines.axes[0].lines) == 1


def test_saving(tmp_path):
    figure = plot(explanation((1, 1, 12, 10)))
    path = save_figure(figure, str(tmp_path / "a/b.png"))
    assert path.read_bytes() == png(figure)
    with pytest.raises(RenderError, match="can't write"):
        save_figure(figure, path / "below.png")
    assert [p.name for p in path.parent.iterdir()] == ["b.png"]


ROWS = [("0", "3×3 convolution, padded", (4, 8, 8), 40), ("1", "linear", (7,), 1799)]
FOREIGN = {
    "savefig.dpi": 37, "savefig.bbox": "tight", "savefig.facecolor": "red", "savefig.pad_inches": 1,
    "savefig.transparent": True, "figure.dpi": 51, "figure.facecolor": "green",
    "figure.autolayout": True, "font.family": "serif", "font.size": 30, "font.weight": "bold",
    "axes.grid": True, "axes.facecolor": "yellow", "axes.titlelocation": "right",
    "axes.titleweight": "bold", "axes.linewidth": 5, "axes.spines.left": False,
    "axes.labelcolor": "red", "axes.xmargin": 0.4, "text.usetex": True, "text.color": "red",
    "text.antialiased": False, "text.hinting": "none", "patch.force_edgecolor": True,
    "patch.linewidth": 4, "patch.edgecolor": "red", "image.interpolation": "bicubic",
    "image.origin": "lower", "image.cmap": "jet", "xtick.top": True, "ytick.right": True,
    "ytick.direction": "in", "ytick.minor.visible": True, "ytick.color": "red",
    "lines.linewidth": 6, "grid.color": "red", "path.sketch": (1, 100, 2),
}  # fmt: skip


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot(explanation((1, 1, 12, 10))),
        lambda: study_figure(explanation((1, 1, 12, 10)), labels=[0]),
        lambda: matrix_figure(np.array([[3, 1], [0, 2]]), ["a", "b"]),
        lambda: architecture_figure(ROWS, "net"),
    ],
    ids=["plot", "plain", "matrix", "architecture"],
)
def test_the_callers_settings_neither_leak_in_nor_get_lost(draw):
    plain = png(draw())
    with mpl.rc_context(FOREIGN):
        before = dict(mpl.rcParams)
        assert png(draw()) == plain
        assert dict(mpl.rcParams) == before
        with pytest.raises(RenderError):
            matrix_figure(np.zeros((2, 3), np.int64), ["a", "b"])
        with pytest.raises(RenderError):
            architecture_figure([], "net")
        assert dict(mpl.rcParams) == before


def test_threads_give_back_the_callers_settings():
    with mpl.rc_context(FOREIGN):
        before = dict(mpl.rcParams)
        counts = np.eye(2, dtype=np.int64)
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda _: png(matrix_figure(counts, ["a", "b"])), range(8)))
        assert dict(mpl.rcParams) == before
    assert set(drawn) == {png(matrix_figure(counts, ["a", "b"]))}


def test_matplotlibs_global_state_is_left_alone():
    before = dict(mpl.rcParams)
    png(plot(explanation((1, 1, 12, 10))))
    assert dict(mpl.rcParams) == before
    code = (
        "import sys, torch, explainkit as ek\n"
        "from explainkit.testing import toy_models\n"
        "model, images = toy_models()['plain']\n"
        "ek.explain(model, images, 0).plot()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_notebooks_tell_the_completeness_gap():
    reader = _Reader()
    gaps = {"completeness_gap": torch.tensor([0.0012, 0.25])}
    reader.feed(explanation(diagnostics=gaps)._repr_html_())
    assert "completeness gap0.0012, 0.25" in reader.text


class _Reader(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.handlers, self.text = [], [], [], ""
        self.styles = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.styles.append((tag, dict(attributes).get("style")))
        self.sources += [value for name, value in attributes if name in {"src", "href"}]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


PAYLOADS = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'><svg onload=alert(1)>",
    "</table><iframe src=//evil>", "javascript:alert(1)", "<b>&amp;</b>", '" onmouseover="x', "\0<a>",
    "<style>@import'//evil'</style>", "${7*7}", "{{7*7}}", "<!--", "]]>", "<math><mi//xlink:href='x'>",
]  # fmt: skip
HOSTILE = [
    f"{payload}{suffix}"
    for payload in PAYLOADS
    for suffix in ("", " ", "é", "x" * 30, "\n", "'", '"', "<")
]


def test_hostile_names_stay_text():
    assert len(HOSTILE) >= 100
    for text in HOSTILE:
        one = explanation(
            (1, 1, 4, 4), model=text, method=text, params={text: text}, names=True,
            class_names=(text,) * 7, versions={text: text}, diagnostics={"warnings": [text]},
        )  # fmt: skip
        reader = _Reader()
        reader.feed(one._repr_html_())
        assert set(reader.tags) == {"div", "img", "table", "tr", "th", "td"}
        assert not reader.handlers
        assert all(source.startswith("data:image/png;base64,") for source in reader.sources)


def test_cells_carry_their_own_style():
    reader = _Reader()
    reader.feed(explanation((1, 1, 4, 4))._repr_html_())
    cells = [style for tag, style in reader.styles if tag in {"th", "td"}]
    assert cells
    assert all("text-align:left" in style for style in cells)
    assert all("overflow-wrap:anywhere" in style for tag, style in reader.styles if tag == "td")


def test_notebook_display_is_self_contained():
    one = explanation((20, 1, 6, 6), diagnostics={"warnings": ["mind the gap"]})
    reader = _Reader()
    html = one._repr_html_()
    reader.feed(html)
    assert "mind the gap" in reader.text
    assert "20, 8 shown" in reader.text
    assert "completeness gap" not in reader.text
    assert 'alt="explainkit/saliency of fer_hw3/cnn' in html
    assert len(reader.sources) == 8 * 4
    for source in reader.sources:
        assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).format == "PNG"


def test_notebooks_show_the_image_itself_and_the_true_scale():
    one = explanation((1, 1, 6, 6))
    reader = _Reader()
    reader.feed(one._repr_html_())
    image = Image.open(io.BytesIO(base64.b64decode(reader.sources[0].partition(",")[2])))
    wanted, _ = to_pixels(one.inputs[0], one.mean, one.std)
    assert (np.asarray(image) == np.rint(255 * wanted)).all()
    assert f"{float(scale(one.heatmap(), 'percentile:99').limits[0]):.4g}" in reader.text


def test_lists_are_a_grid_of_the_same_images():
    one = explanation((2, 1, 6, 6))
    reader = _Reader()
    reader.feed(Explanations([one, one, one])._repr_html_())
    assert len(reader.sources) == 2 * (1 + 3 * 2)
    apart = Explanations([one, explanation((1, 1, 6, 6))])._repr_html_()
    assert apart == one._repr_html_() + explanation((1, 1, 6, 6))._repr_html_()
    assert Explanations()._repr_html_() == ""
