"""Methods over many images: known verdicts, what is counted, and what nothing depends on."""

import json
import os
import signal
import threading
from dataclasses import dataclass
from functools import partial
from math import isnan

import numpy as np
import pytest
import torch
from PIL import Image
from toys import generator, linear, textures

import explainkit as ek
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.errors import (
    DatasetError,
    InputError,
    MethodError,
    ModelError,
    StorageError,
    TargetError,
    UnknownNameError,
)
from explainkit.evaluation.images import given, read_labels
from explainkit.evaluation.judging import Latest
from explainkit.methods import IntegratedGradients
from explainkit.metrics import mass_accuracy, road

RIGHT, WRONG = "input_x_gradient", "saliency"


@dataclass(frozen=True)
class Picky:
    """The exact map of a linear model, where the image's first pixel is not negative."""

    def __call__(self, model, inputs, target):
        if (inputs[:, 0, 0, 0] < 0).any():
            raise ValueError("a negative corner")
        score = model(inputs).gather(1, target[:, None]).sum()
        return inputs * torch.autograd.grad(score, inputs)[0]


@pytest.fixture(scope="module")
def net():
    return linear()


@pytest.fixture(scope="module")
def whole(net):
    x = textures(11)
    x[:, 0, 0, 0] = x[:, 0, 0, 0].abs()
    x[3, 0, 0, 0] = -1.0
    labels = net(x).argmax(1)
    labels[:4] = (labels[:4] + 1) % 3
    masks = torch.zeros(11, 24, 24, dtype=torch.bool)
    masks[:, :, :12] = True
    found = ek.evaluate(
        net, x, [RIGHT, WRONG, Picky()], ["gini", "mass_accuracy"], labels=labels, masks=masks
    )
    return x, labels, masks, found


def test_verdicts_are_those_of_scorecards_and_nothing_is_dropped(net, whole):
    x, _, masks, found = whole
    for name in (RIGHT, WRONG):
        maps = ek.explain(net, x[:2], method=name)
        card, ours = maps.scorecard(), found.of(name)
        assert ours.verdict[:2] == card.verdict
        torch.testing.assert_close(ours.p[:2], card.p)
        inside = mass_accuracy(maps.attribution, masks[:2])
        torch.testing.assert_close(ours.metrics["mass_accuracy"][:2], inside)
    assert found.verdicts()[0] == {
        "supported": 11, "not supported: moved": 0, "not explained": 0,
    }  # fmt: skip
    assert found.verdicts()[1]["not supported: moved"] >= 8
    picky = found.verdicts()[2]
    assert (picky["supported"], picky["not explained"]) == (10, 1)
    third = found.results[2]
    assert third.reason[3] == "ValueError: a negative corner"
    assert third.statistic[3].isnan().all()
    assert (
        sum("explains 10 of 11 images. On image 3: ValueError" in note for note in found.notes) == 1
    )
    assert found.power.isnan().sum() == 0
    assert not found.low_power


def test_shares_are_of_all_images_and_means_of_the_judged(whole):
    *_, found = whole
    row = found.table()[2]
    assert (row["images"], row["judged"]) == (11, 10)
    assert row["supported"] == 10 / 11
    assert row["supported_low"] < row["supported"] < row["supported_high"]
    known = found.results[2].statistic[[i for i in range(11) if i != 3], 0]
    assert row["predicts"] == pytest.approx(float(known.mean()))
    assert row["predicts_low"] <= row["predicts"] <= row["predicts_high"]
    assert row["gini"] == pytest.approx(float(found.results[2].metrics["gini"].nanmean()))


def test_correct_and_wrong_predictions_are_apart(net, whole):
    x, labels, _, found = whole
    assert found.groups == ("all", "correct", "wrong")
    truth = (net(x).argmax(1) == labels).tolist()
    assert [image.correct for image in found.images] == truth
    assert found.table("wrong")[0]["images"] == 4
    for group, wanted in (("correct", True), ("wrong", False)):
        rows = [i for i, right in enumerate(truth) if right is wanted]
        mean = found.of(WRONG).statistic[rows, 0].mean()
        assert found.table(group)[1]["predicts"] == pytest.approx(float(mean))
    assert "The predictions of 7 of 11 images are correct." in found.notes


def test_pairs_are_compared_on_the_images_that_both_explain(whole):
    stats = pytest.importorskip("scipy.stats")
    *_, found = whole
    first, second, third = found.comparisons
    assert [one.images for one in found.comparisons] == [11, 10, 10]
    apart = found.of(RIGHT).statistic[:, 0] - found.of(WRONG).statistic[:, 0]
    assert first.p == pytest.approx(stats.wilcoxon(apart.numpy(), method="exact").pvalue)
    assert first.difference == pytest.approx(float(apart.mean()))
    assert first.low > 0
    # the two exact maps are the same, so nothing tells them apart
    assert (second.difference, second.p, second.adjusted) == (0, 1, 1)
    assert first.adjusted == pytest.approx(3 * first.p)
    assert third.adjusted == pytest.approx(max(2 * third.p, first.adjusted))


def test_few_images_are_not_ranked(net):
    found = ek.evaluate(net, textures(2), [RIGHT, WRONG])
    assert found.comparisons == ()
    assert found.notes[0] == "Rankings of methods need at least 10 judged images."


def test_numbers_of_an_image_do_not_depend_on_the_others_but_on_the_seed(net, whole):
    x, _, _, found = whole
    noisy = ek.methods.SmoothGrad(samples=3)
    both = ek.evaluate(net, x[:2], [WRONG, noisy], "road")
    again = ek.evaluate(linear(), x[1:2], [noisy], "road")
    assert torch.equal(both.results[1].p[1:], again.results[0].p)
    assert torch.equal(both.results[1].metrics["road"][1:], again.results[0].metrics["road"])
    assert torch.equal(both.results[0].p, found.of(WRONG).p[:2])
    other = ek.evaluate(net, x[:2], [WRONG, noisy], seed=1)
    assert not torch.equal(other.results[0].statistic, both.results[0].statistic)


def test_the_map_of_the_latest_image_of_another_class_is_put_on_each(net, whole):
    x, _, _, found = whole
    first, second = net(x).topk(2).indices.T
    maps, contrasts = (ek.explain(net, x, c, RIGHT).attribution for c in (first, second))
    swapped = found.of(RIGHT).swapped
    for i, label in enumerate(first):
        before = [j for j in range(i) if first[j] != label]
        if not before:
            assert swapped[i].isnan().all()
            continue
        j = before[-1]
        card = ek.scorecard(net, x[i : i + 1], maps[j : j + 1], int(label), contrasts[j : j + 1])
        torch.testing.assert_close(swapped[i], card.p[0])


def test_opposite_images_of_an_odd_model_support_each_other_s_maps():
    net, x = linear(classes=2), textures(1)
    with torch.no_grad():
        net[1].weight[1] = -net[1].weight[0]
    # -w_1 · -x = w_0 · x: the same map, of another image and another class
    found = ek.evaluate(net, torch.cat([x, -x, x]), RIGHT)
    (one,) = found.results
    assert one.swapped[0].isnan().all()
    assert torch.equal(one.swapped[1:], one.p[1:])
    assert found.table()[0]["swapped"] == 1
    assert "supported on 2 of 2 images (input_x_gradient)" in " ".join(found.notes)


def test_maps_of_the_same_class_or_of_another_size_are_not_swapped(net):
    found = ek.evaluate(net, textures(2), RIGHT, target=0)
    assert found.results[0].swapped.isnan().all()
    assert isnan(found.table()[0]["swapped"])
    assert not any("another class" in note for note in found.notes)
    latest = Latest()
    for label, size, wanted in ((0, 2, None), (1, 3, None), (0, 3, 1), (2, 3, 0), (2, 3, 0)):
        maps = torch.full((size, size), float(label)), None
        got = latest(label, maps)
        assert got is None if wanted is None else bool((got[0] == wanted).all())


def test_low_power_withholds_verdicts_but_no_numbers(net, whole, monkeypatch):
    x, *_ = whole
    monkeypatch.setattr("explainkit.metrics.scorecard.positive_control", lambda *_: 0.5)
    found = ek.evaluate(net, x, RIGHT)
    assert found.low_power
    assert found.verdicts() == [{"low power on this network": 11}]
    assert isnan(found.table()[0]["swapped"])
    assert not found.results[0].p.isnan().any()
    assert "0 of 11 images: too few for verdicts on this network." in " ".join(found.notes)
    assert not ek.evaluate(net, x[:9], RIGHT).low_power


def test_the_control_is_that_of_the_plain_grid_in_any_order(net, whole):
    hiding = ek.methods.FeatureAblation(segments=6)
    found = ek.evaluate(net, whole[0][:1], [hiding, RIGHT])
    assert [one.half_cell for one in found.results] == [True, False]
    assert found.images[0].control == whole[-1].images[0].control
    assert any("moved by half a cell" in note for note in found.notes)


def test_everything_is_json_and_comes_back(whole, tmp_path):
    *_, found = whole
    path = found.save(tmp_path / "new" / "found.json")
    loaded = ek.Evaluation.load(path)
    assert loaded.to_dict() == found.to_dict() == json.loads(path.read_text())
    assert loaded.images == found.images
    assert torch.equal(loaded.of(WRONG).p, found.of(WRONG).p)
    with pytest.raises(UnknownNameError, match="expected one of input_x_gradient, saliency"):
        found.of("gradcam")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("images"),
        lambda record: record["images"].pop(),
        lambda record: record["images"][0].update(correct="yes"),
        lambda record: record["results"][0]["verdict"].__setitem__(0, "fine"),
        lambda record: record["results"][0].update(p=[[0.1]]),
        lambda record: record.update(schema_version=2),
        lambda record: record.update(results=[]),
    ],
)
def test_changed_files_are_refused(whole, tmp_path, change):
    record = whole[-1].to_dict()
    change(record)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(record))
    with pytest.raises(StorageError, match="expected a saved evaluation"):
        ek.Evaluation.load(path)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(StorageError, match="can't read"):
        ek.Evaluation.load(tmp_path / "none.json")


def test_a_data_frame_has_the_table(whole):
    pytest.importorskip("pandas")
    *_, found = whole
    frame = found.to_dataframe()
    assert list(frame.index) == [row["method"] for row in found.table()]
    assert frame.loc[RIGHT, "supported"] == 1


def test_methods_of_one_class_are_told_apart(net):
    few, many = IntegratedGradients(steps=3), IntegratedGradients(steps=9)
    found = ek.evaluate(net, textures(1), [few, many])
    assert [one.method for one in found.results] == [
        "integrated_gradients(steps=3)", "integrated_gradients(steps=9)",
    ]  # fmt: skip
    with pytest.raises(MethodError, match="expected each method once, got saliency twice"):
        ek.evaluate(net, textures(1), ["saliency", "saliency"])


def test_metrics_have_options_reasons_and_may_be_functions(net):
    def largest(attribution, *, seed=0):
        return attribution.flatten(1).amax(1) + 100 * seed

    def fails(model, inputs, *, reason="no"):
        raise ValueError(reason)

    def infinite(attribution):
        return attribution.new_full((1,), float("inf"))

    x = textures(2)
    x[1] = 0  # and so is its map
    some = [partial(road, shares=(0.5,)), largest, fails, infinite]
    found = ek.evaluate(net, x, RIGHT, some, target=0, seed=2)
    (one,) = found.results
    assert list(one.metrics) == ["road", "largest", "fails", "infinite"]
    json.dumps(found.to_dict(), allow_nan=False)
    assert one.metrics["largest"][0] > 200
    assert one.undefined["road"] == ("", "the map is constant and ranks no pixel before another")
    assert one.metrics["road"].isnan().tolist() == [False, True]
    assert one.undefined["fails"] == ("ValueError: no",) * 2
    assert any("fails of input_x_gradient is undefined on 2 of 2" in note for note in found.notes)
    assert found.verdicts()[0]["cannot be judged"] == 1
    for metrics, text in {
        ("gini", "gini"): "gini twice",
        ("pointing_game",): "pointing_game: expected masks=",
        (len,): "expected a metric's name, or a function of model",
    }.items():
        with pytest.raises(MethodError, match=text):
            ek.evaluate(net, x, RIGHT, metrics)


def test_targets_are_one_or_one_per_image(net):
    x = textures(2)
    found = ek.evaluate(net, x, RIGHT, target=[2, 0])
    assert [image.target for image in found.images] == ["2", "0"]
    found = ek.evaluate(net, x, RIGHT, target="logit(0) - logit(1)")
    assert found.images[0].target == "logit(0) - logit(1)"
    assert set(found.results[0].verdict) == {"partly supported"}
    with pytest.raises(InputError, match="target: expected 2, one per image, got 3"):
        ek.evaluate(net, x, RIGHT, target=[0, 1, 2])
    with pytest.raises(TargetError, match="from 0 to 2"):
        ek.evaluate(net, x, RIGHT, target=7)


def test_an_error_of_all_images_is_raised(net):
    with pytest.raises(ModelError):
        ek.evaluate(net, torch.rand(2, 1, 9, 9), [RIGHT, WRONG])
    with pytest.raises(TargetError, match="from 0 to 2"):
        ek.evaluate(net, textures(1), RIGHT, labels=[3])
    with pytest.raises(InputError, match="labels: expected one class per image"):
        ek.evaluate(net, textures(1), RIGHT, labels=torch.ones(1, 3))


def test_the_model_is_as_it_was(whole):
    net = linear().train()
    state = torch.get_rng_state()
    ek.evaluate(net, textures(1), RIGHT)
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_ctrl_c_ends_it_although_a_method_returns_what_it_has(net):
    @dataclass(frozen=True)
    class Swallows:
        def __call__(self, model, inputs, target):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait(5)
            except KeyboardInterrupt:
                return inputs.detach()
            raise AssertionError("not interrupted")

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        pytest.skip("Ctrl-C is handled by somebody else")
    with pytest.raises(KeyboardInterrupt):
        ek.evaluate(net, textures(3), Swallows())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def photos(folder, count=4):
    pixels = torch.randint(0, 256, (count, 24, 24), generator=generator(3), dtype=torch.uint8)
    for i, values in enumerate(pixels.numpy()):
        place = folder / ("ab"[i % 2])
        place.mkdir(exist_ok=True)
        Image.fromarray(values).save(place / f"{i}.png")


def test_folders_with_classes_and_broken_files(tmp_path, net):
    photos(tmp_path)
    (tmp_path / "b/broken.png").write_bytes(b"no image")
    gray = ek.adapt(linear(), preprocessing=Preprocessing(channels=1), class_names=("a", "b", "c"))
    found = ek.evaluate(gray, tmp_path, RIGHT, labels="folder")
    assert [image.name for image in found.images] == [
        "a/0.png", "a/2.png", "b/1.png", "b/3.png", "b/broken.png",
    ]  # fmt: skip
    assert [image.label for image in found.images] == ["a", "a", "b", "b", "b"]
    assert found.images[-1].correct is None
    assert found.results[0].verdict[-1] == "not explained"
    assert "broken.png" in found.results[0].reason[-1]
    spread = given(tmp_path, None, 2)
    assert spread.names == ("a/0.png", "b/1.png")


@pytest.mark.parametrize(
    "images",
    [
        lambda maps: maps,
        lambda maps: {f"n{i}": one for i, one in enumerate(maps)},
        lambda maps: [(one, i) for i, one in enumerate(maps)],
        lambda maps: torch.utils.data.TensorDataset(maps, torch.arange(3)),
        lambda maps: [np.uint8(one[0].numpy() * 255) for one in maps],
    ],
)
def test_images_come_in_many_forms(images):
    maps = torch.rand(3, 1, 8, 8, generator=generator(0))
    asked = given(images(maps))
    assert len(asked.names) == asked.total == 3
    value, label = asked.read(1)
    if isinstance(value, Image.Image):
        assert np.array_equal(np.asarray(value), np.uint8(maps[1, 0].numpy() * 255))
    else:
        assert torch.equal(value, maps[1])
    assert label in (None, 1)


def test_labels_come_in_many_forms(tmp_path):
    maps = {"x/1.png": torch.rand(1, 4, 4), "y/2.png": torch.rand(1, 4, 4)}
    assert [given(maps, "folder").read(i)[1] for i in range(2)] == ["x", "y"]
    assert [given(maps, [3, None]).read(i)[1] for i in range(2)] == [3, None]
    path = tmp_path / "labels.csv"
    path.write_text("image,class\nx/1.png, sad\n")
    assert [given(maps, read_labels(path)).read(i)[1] for i in range(2)] == ["sad", None]
    path.write_text("x/1.png\n")
    with pytest.raises(InputError, match="line 1: expected image,class"):
        read_labels(path)
    for labels, text in {
        "folders": "expected one per image or 'folder'",
        (1,): "labels: expected 2, one per image, got 1",
    }.items():
        with pytest.raises(InputError, match=text):
            given(maps, labels)
    with pytest.raises(InputError, match="expected names such as 'x/1.png', got 'z'"):
        given(maps, {"z": 1})
    with pytest.raises(DatasetError, match="expected at least one image"):
        given([])
    with pytest.raises(InputError, match="limit: expected at least 1"):
        given(maps, limit=0)
    with pytest.raises(InputError, match="expected a tensor, a folder"):
        given(3)
