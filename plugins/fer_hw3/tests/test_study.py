"""The study's measurements against closed forms and independent counts."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import explainkit as ek
from explainkit.errors import DatasetError, ModelError
from explainkit_fer_hw3.faces import ACTION_UNITS, CLASS_NAMES, PART_UNITS, PARTS
from explainkit_fer_hw3.scores import most_confused
from explainkit_fer_hw3.study.activations import activations
from explainkit_fer_hw3.study.agreement import agreement, mcnemar, paired_difference
from explainkit_fer_hw3.study.charts import curves_figure
from explainkit_fer_hw3.study.confusions import explain_confusion
from explainkit_fer_hw3.study.curves import Curve, packaged_history, read_history
from explainkit_fer_hw3.study.parts import (
    METHODS,
    atlas,
    bootstrap,
    by_part,
    expressive_parts,
    one_hot,
    part_shares,
)
from explainkit_fer_hw3.study.predictions import Predictions


@pytest.fixture(scope="module")
def cnn():
    return ek.load_model("fer_hw3/cnn")


@pytest.fixture(scope="module")
def faces():
    return ek.load_dataset("fer_hw3/synthetic", split="public_test").subset(range(14))


class TestMcNemar:
    @given(st.integers(0, 60), st.integers(0, 60))
    def test_is_the_two_sided_binomial_test(self, b, c):
        """Summed over all outcomes that are at most as likely as the observed one."""
        n = b + c
        p = sum(Fraction(comb(n, i), 2**n) for i in range(n + 1) if comb(n, i) <= comb(n, b))
        assert mcnemar(b, c) == pytest.approx(float(p), rel=1e-12)

    @given(st.integers(0, 300), st.integers(0, 300))
    def test_does_not_depend_on_the_order(self, b, c):
        assert mcnemar(b, c) == mcnemar(c, b)

    def test_many_images(self):
        assert mcnemar(0, 20) == 2 / 2**20
        assert 0 < mcnemar(1000, 1200) < 1e-4
        assert mcnemar(2000, 2001) == pytest.approx(1, abs=0.02)

    def test_the_interval_has_its_nominal_coverage(self):
        """Pairs sampled from known shares: the interval holds the true difference 95 times in 100."""
        rng = np.random.default_rng(0)
        shares = (0.4, 0.25, 0.1, 0.25)
        held = [
            low <= 0.15 <= high
            for _, b, c, _ in rng.multinomial(200, shares, size=2000)
            for low, high in [paired_difference(b, c, 200)]
        ]
        assert 0.935 < np.mean(held) < 0.97


class TestAgreement:
    def test_counts(self):
        labels = torch.tensor([0, 1, 2, 3, 4, 5])
        first, second = (
            Predictions(labels, torch.nn.functional.one_hot(torch.tensor(read), 7).float())
            for read in ([0, 1, 2, 0, 0, 0], [0, 1, 1, 3, 0, 6])
        )
        met = agreement(first, second)
        assert (met.both, met.only_first, met.only_second, met.neither) == (2, 1, 1, 2)
        assert met.same == 3 / 6
        assert met.same_mistake == 1
        assert met.difference == 0
        assert met.p == 1

    def test_other_images_are_refused(self):
        one = Predictions(torch.tensor([0, 1]), torch.zeros(2, 7))
        with pytest.raises(DatasetError, match="the same images"):
            agreement(one, Predictions(torch.tensor([0, 2]), torch.zeros(2, 7)))


class TestParts:
    def test_expressive_parts_are_those_that_a_face_moves(self):
        """Relaxing a part changes the face for exactly these parts."""
        from explainkit_fer_hw3.faces import draw

        for name in ("angry", "happy", "surprise"):
            label = [CLASS_NAMES.index(name)]
            face = draw(label, seed=3)
            moved = {
                part
                for part in PART_UNITS
                if (draw(label, seed=3, neutral=part).pixels != face.pixels).any()
            }
            # a unit may be too small to change a pixel of one face, but never the reverse
            assert moved <= set(expressive_parts(name))
            assert moved
        assert expressive_parts("neutral") == ()

    def test_shares_recomputed(self, cnn, faces):
        shares = part_shares(cnn, faces, METHODS[1])
        assert [s.class_name for s in shares] == [*CLASS_NAMES[:6], "all"]
        maps = ek.explain(cnn, faces.images, faces.labels, METHODS[1]).attribution.abs()[:, 0]
        expected = []
        for i, label in enumerate(faces.labels.tolist()):
            name = CLASS_NAMES[label]
            if name == "neutral":
                continue
            codes = [
                PARTS.index(part)
                for part, units in PART_UNITS.items()
                if set(units) & set(ACTION_UNITS[name])
            ]
            inside = np.isin(faces.parts[i].numpy(), codes)
            values = maps[i].double().numpy()
            expected.append((name, values[inside].sum() / values.sum(), inside.mean()))
        every = shares[-1]
        assert every.n == len(expected) == 12
        assert every.share.value == pytest.approx(np.mean([share for _, share, _ in expected]))
        assert every.area == pytest.approx(np.mean([area for *_, area in expected]))
        happy = next(s for s in shares if s.class_name == "happy")
        own = [share for name, share, _ in expected if name == "happy"]
        assert happy.share.value == pytest.approx(np.mean(own))
        assert sum(part.share.value for part in happy.by_part.values()) == pytest.approx(1)
        assert sum(part.area for part in happy.by_part.values()) == pytest.approx(1)
        assert every.gain.value == pytest.approx(every.share.value - every.other.value)

    def test_a_map_on_the_parts_alone_has_a_share_of_one(self, faces):
        """A network whose score is the sum over the mouth: the mouth's share is 1, others' 0."""
        maps = (faces.parts == PARTS.index("mouth")).float()
        shares = by_part(maps, one_hot(faces.parts))
        assert shares["mouth"].share.interval == pytest.approx((1, 1))
        assert shares["mouth"].dense
        assert shares["cheeks"].share.value == 0

    def test_a_flat_map_has_the_area(self, faces):
        shares = by_part(torch.ones(14, 48, 48), one_hot(faces.parts))
        assert all(s.density == pytest.approx(1) for s in shares.values() if s.area)

    def test_the_atlas_is_a_distribution_over_parts(self):
        where = atlas(14)
        torch.testing.assert_close(where.sum(0), torch.ones(48, 48, dtype=torch.float64))
        rows = where[PARTS.index("mouth")].mean(1)
        brows = where[PARTS.index("brows")].mean(1)
        assert rows.argmax() > brows.argmax()

    def test_bootstrap_is_seeded_and_about_as_wide_as_theory_says(self):
        values = np.random.default_rng(1).normal(size=400)
        one, two = (bootstrap(values, 5) for _ in range(2))
        assert one == two
        low, high = one.interval
        assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)

    def test_faces_without_parts_are_refused(self, cnn, faces):
        from dataclasses import replace

        with pytest.raises(DatasetError, match="synthetic faces with part masks"):
            part_shares(cnn, replace(faces, parts=None))
        with pytest.raises(DatasetError, match="two expressions"):
            part_shares(cnn, faces.subset([6, 3]))


def test_a_confusion_is_explained_for_both_classes(faces):
    """For a gradient the difference of the maps is the gradient of the difference."""
    dnn = ek.load_model("fer_hw3/dnn")
    labels = torch.tensor([2] * 14)
    with torch.inference_mode():
        predictions = Predictions(labels, dnn(faces.images))
    (worst,) = most_confused(predictions.counts, CLASS_NAMES, 1)
    found = explain_confusion(worst, dnn, faces, predictions, most=2)
    read = CLASS_NAMES.index(worst.predicted)
    assert (predictions.predicted[found.rows] == read).all()
    assert torch.equal(found.indices, faces.indices[found.rows])
    margins = (predictions.logits[:, read] - predictions.logits[:, 2])[
        predictions.predicted == read
    ]
    top = predictions.logits[found.rows, read] - predictions.logits[found.rows, 2]
    torch.testing.assert_close(top, margins.sort(descending=True).values[:2])
    pair = ek.explain(
        dnn, faces.subset(found.rows).images, lambda logits: logits[:, read] - logits[:, 2]
    )
    torch.testing.assert_close(found.difference, pair.heatmap(), atol=1e-6, rtol=1e-4)


class TestActivations:
    def test_are_the_layers_outputs(self, cnn, faces):
        found = activations(cnn, faces.images[3], "0")
        kernels = cnn[0].weight.detach()
        by_hand = torch.nn.functional.conv2d(
            faces.images[3:4], kernels, cnn[0].bias.detach(), padding=1
        )
        torch.testing.assert_close(found.outputs, by_hand[0])
        torch.testing.assert_close(found.filters, kernels[:, 0])
        row = found.statistics()[7]
        assert row["max"] == pytest.approx(float(by_hand[0, 7].max()))
        assert row["active"] == pytest.approx(float((by_hand[0, 7] > 0).float().mean()))

    def test_deeper_layers_name_their_convolution(self, cnn, faces):
        found = activations(cnn, faces.images[3], "4")
        assert (found.filters_of, found.signed) == ("2", False)
        assert found.outputs.shape == (128, 23, 23)
        assert (found.filters >= 0).all()

    def test_layers_without_maps_are_refused(self, cnn, faces):
        with pytest.raises(
            ModelError, match="expected a layer with feature maps, got '19'; there are 0, 1"
        ):
            activations(cnn, faces.images[0], "19")
        with pytest.raises(ModelError, match="none in this network"):
            activations(ek.load_model("fer_hw3/dnn"), faces.images[0], "1")


class TestCurves:
    def test_reads_what_a_run_writes(self, tmp_path):
        path = tmp_path / "run" / "history.csv"
        path.parent.mkdir()
        path.write_text(
            "epoch,step,loss,accuracy,validation_accuracy\n1,9,2.0,.3,.2\n2,18,1.5,.6,\n"
        )
        curve = read_history(path)
        assert curve.name == "run"
        assert curve.values["validation_accuracy"] == (0.2, None)
        assert curve.best("accuracy") == (2, 0.6)
        assert curve.best("validation_accuracy") == (1, 0.2)
        assert curve.has("loss")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n", "the columns epoch and some of"),
            ("", "got nothing"),
            ("epoch,loss\n1,nan\n", "expected numbers"),
            ("epoch,loss\n1,much\n", "got 'much'"),
            ("epoch,loss\n,1\n", "a number in every cell of epoch"),
        ],
    )
    def test_other_tables_are_refused(self, tmp_path, text, message):
        (tmp_path / "h.csv").write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_history(tmp_path / "h.csv")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(DatasetError, match=r"expected a history.csv at"):
            read_history(tmp_path / "none.csv")

    @pytest.mark.parametrize(
        ("values", "dots"),
        [
            ([0.5] * 40, 40),
            ([0.5] * 41, 0),
            ([0.5, 0.6, None] * 20, 40),  # few are known
            ([0.5, None] * 50, 50),  # no line reaches them
            ([0.5] * 60 + [None, 0.7, None], 1),
        ],
    )
    def test_long_curves_are_lines_and_no_value_is_lost(self, values, dots):
        curve = Curve("cnn", tuple(range(1, len(values) + 1)), {"accuracy": tuple(values)})
        (axes,) = curves_figure([curve], "accuracy").axes
        (line,) = axes.lines
        assert len(line.get_markevery()) == dots

    def test_both_quantities_of_a_run_are_drawn(self, tmp_path):
        path = tmp_path / "mine/history.csv"
        path.parent.mkdir()
        rows = "\n".join(f"{i},{2 / i},{0.1 * i},{3 / i},{0.05 * i}" for i in range(1, 5))
        path.write_text(f"epoch,loss,accuracy,validation_loss,validation_accuracy\n{rows}\n")
        curve = read_history(path)
        panels = curves_figure([curve], "accuracy", "loss").axes
        assert [axes.get_title(loc="left") for axes in panels] == ["mine: accuracy", "mine: loss"]
        for axes, name in zip(panels, ("accuracy", "loss"), strict=True):
            training, validation = axes.lines
            assert list(training.get_xdata()) == [1, 2, 3, 4]
            assert tuple(training.get_ydata()) == curve.values[name]
            assert tuple(validation.get_ydata()) == curve.values[f"validation_{name}"]
            assert training.get_linestyle() != validation.get_linestyle() == "-"
            assert axes.get_ylim()[0] == 0

    def test_weights_come_with_their_curves(self):
        """The study's point: above 0.9 in training, below one half in validation."""
        plain = packaged_history("dnn")[-1]
        assert plain.best("accuracy")[1] > 0.9
        assert plain.best("validation_accuracy")[1] < 0.5
        assert packaged_history("cnn")
        assert packaged_history("mine.safetensors") == []
