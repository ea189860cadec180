"""Boxes, masks and embeddings as targets: of every kind of method, and all that takes a target."""

import math

import numpy as np
import pytest
import torch
from output_toys import Detector, Encoder, Segmenter

import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
from explainkit.errors import ModelError, TargetError
from explainkit.expressions import box_score, feature, mask, output, parse, similarity
from explainkit.render.shown_image import shown_images

X = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
METHODS = {
    "saliency": {}, "integrated_gradients": {"steps": 16}, "smoothgrad": {"samples": 3},
    "lrp": {}, "deeplift": {}, "gradcam": {}, "scorecam": {}, "ablationcam": {},
    "occlusion": {"window": 4, "stride": 4}, "rise": {"samples": 8}, "kernel_shap": {"samples": 120},
}  # fmt: skip
LAYER = {"gradcam", "scorecam", "ablationcam"}
TARGETS = [
    (Detector, 'box_score(1, "cat") - box_score(1, 2)', (slice(0, 8), slice(12, 24))),
    (Segmenter, 'mask("cat", [0.5, 0, 1, 0.5])', (slice(0, 8), slice(12, 24))),
]


def adapted(kind, **more):
    return ek.adapt(kind().eval(), class_names=["cat", "dog"], **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "target", "region"), TARGETS, ids=["box", "mask"])
def test_every_kind_of_method_explains_a_region_by_that_region(kind, target, region, method):
    params = METHODS[method] | ({"layer": "act"} if method in LAYER else {})
    found = ek.explain(adapted(kind), X, target, method, batch_size=2, **params)
    assert found.expression == target
    returned = kind().eval()(X)
    if kind is Detector:
        wanted = returned["logits"][:, 1, 0] - returned["logits"][:, 1, 2]
    else:
        wanted = returned["out"][:, 0, :4, 6:].mean((1, 2))
    torch.testing.assert_close(found.score, wanted.detach())
    inside = torch.zeros(16, 24, dtype=torch.bool)
    inside[region] = True
    values = found.heatmap("abs_sum")
    if method in {"saliency", "integrated_gradients", "lrp", "deeplift", "occlusion"}:
        assert values[:, ~inside].abs().max() < 1e-6
    assert (values[:, inside].amax(1) > 0).all()
    if method == "integrated_gradients":
        rest = ek.explain(adapted(kind), torch.zeros_like(X), target).score
        gap = found.attribution.sum((1, 2, 3)) - (found.score - rest)
        assert gap.abs().max() < 0.05 * (found.score - rest).abs().max()


@pytest.mark.parametrize("target", ["feature(3)", "similarity([1, 0, -2, 0.5, 1])"])
def test_embeddings_are_explained_the_same_in_any_batch(target):
    together = ek.explain(adapted(Encoder), X, target, "integrated_gradients", batch_size=2)
    for i in range(3):
        alone = ek.explain(
            adapted(Encoder), X[i : i + 1], target, "integrated_gradients", batch_size=2
        )
        assert torch.equal(alone.attribution[0], together.attribution[i])
    assert together.logits.shape == (3, 1)  # two outputs could be embeddings: none are logits


def test_python_and_text_are_one_target_and_several_share_a_call():
    model, term = adapted(Detector), box_score("best", "dog")
    one = ek.explain(model, X, term, "input_x_gradient")
    with pytest.warns(match="zero everywhere"):
        both = ek.explain(model, X, targets=[str(term), output("pred_boxes", [0, 2])])
    assert both.get(target=term).expression == one.expression == str(term)
    # the gradient of a constant is zero, and says so
    assert "zero everywhere" in both[1].diagnostics["warnings"][0]


def test_names_of_classes_belong_to_the_model_and_not_to_its_score(tmp_path):
    found = ek.explain(adapted(Detector), X, 'box_score(0, "dog")')
    assert found.class_names == ("cat", "dog")
    assert found.task == "regression"
    assert found.predicted is None
    again = ek.Explanation.load(found.save(tmp_path))
    assert again.class_names == ("cat", "dog")
    assert torch.equal(again.diagnostics["boxes"], found.diagnostics["boxes"])
    with pytest.raises(TargetError, match="one of|cat, dog"):
        ek.explain(adapted(Detector), X, 'box_score(0, "bird")')


def test_a_scorecard_says_that_there_is_no_other_class(tmp_path):
    model = adapted(Detector)
    x = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    target = 'box_coordinate(2, "x") + box_score(2, "cat")'
    found = ek.explain(model, x, target, "input_x_gradient")
    card = found.scorecard()
    assert math.isnan(float(card.p[0, 2]))
    assert "The target is not a class" in card.sentence(0)
    assert card.target == (target,)
    # the text is enough to judge a saved one
    loaded = ek.Explanation.load(found.save(tmp_path)).scorecard(model=model)
    assert torch.equal(loaded.statistic.nan_to_num(), card.statistic.nan_to_num())


def test_boxes_are_drawn_on_inputs_and_on_originals():
    model = adapted(Detector)
    found = ek.explain(model, X, "box_score(3, 0)")
    wanted = torch.tensor([0.5, 0.5, 1, 1]).expand(3, 1, 4)
    torch.testing.assert_close(found.diagnostics["boxes"], wanted)
    image = shown_images(found)[0]
    amber = (image.pixels == [1, 0.8, 0]).all(2)
    outline = np.zeros((16, 24), bool)
    outline[8, 12:] = outline[15, 12:] = outline[8:, 12] = outline[8:, 23] = True
    assert (amber == outline).all()
    over = np.asarray(found.overlays()[0])
    assert ((over == [255, 204, 0]).all(2) == outline).all()

    photo = np.zeros((60, 40, 3), np.uint8)
    crop = Preprocessing((Resize(20), CenterCrop(16)))  # 30 × 20, cropped to 16 × 16
    found = ek.explain(adapted(Detector, preprocessing=crop), photo, "box_score(0, 0)")
    over = np.asarray(found.overlays()[0])
    rows, columns = (over == [255, 204, 0]).all(2).nonzero()
    # the input's first quarter is rows 14 to 30 and columns 4 to 20 of the original
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 29, 4, 19)


def test_a_report_and_figures_show_each_map_with_its_own_box(tmp_path):
    both = ek.explain(adapted(Detector), X, targets=["box_score(0, 0)", "box_score(3, 0)"])
    page = both.report(tmp_path / "report.html").read_text()
    assert "box_score(0, 0)" in page
    assert "box_score(3, 0)" in page
    from explainkit.render.report.content import gather

    content = gather(both, None, None, "sum")
    counts = [(one.pixels == [1, 0.8, 0]).all(2).sum() for one in (content.shown[0],)]
    own = [(under[0].pixels == [1, 0.8, 0]).all(2).sum() for under in content.under]
    assert counts == [sum(own)]
    assert "box_score" in both._repr_html_()
    both.plot()
    both[0].plot()


def test_a_data_set_takes_a_box_as_target(tmp_path):
    images = {f"{i}": image for i, image in enumerate(X)}
    store = ek.batch(
        images, adapted(Detector), "input_x_gradient", tmp_path / "store",
        target='box_score("best", "dog")',
    )  # fmt: skip
    wanted = ek.explain(adapted(Detector), X, 'box_score("best", "dog")', "input_x_gradient")
    [stored] = store[1]
    torch.testing.assert_close(stored.attribution, wanted.attribution[1:2])
    assert stored.expression == 'box_score("best", "dog")'
    assert torch.equal(stored.diagnostics["boxes"], wanted.diagnostics["boxes"][1:2])


def test_maximize_takes_outputs():
    model = Encoder().eval()
    found = ek.maximize(model, feature(2), shape=(3, 12, 12), steps=6, maximizer="plain")
    start = float(found.trace[0, 0])
    assert float(found.score[0]) > start
    assert found.layer is None
    both = ek.maximize(
        Detector().eval(), 'box_score(1, 0) - 0.1 * channel("act", 2)', shape=(3, 12, 12),
        steps=2, maximizer="plain",
    )  # fmt: skip
    text = both.objective[0]
    assert parse(text).uses_output
    net = Detector().eval()
    with torch.no_grad():
        wanted = net(both.images)["logits"][0, 1, 0]
        wanted -= 0.1 * net.act(net.features(both.images))[0, 2].mean()
    torch.testing.assert_close(both.score[0], wanted)


def test_functions_and_classes_of_such_models_still_say_what_is_missing():
    with pytest.raises(ModelError, match="pass a function|choose one"):
        ek.explain(Detector().eval(), X)
    with pytest.raises(TargetError, match=r"ek.adapt\(model, tokenizer=…\)"):
        ek.explain(Encoder().eval(), X, similarity("a cat"))
    with pytest.raises(TargetError, match="expected an output .batch, class, height, width."):
        ek.explain(Detector().eval(), X, mask(0))


def test_a_vector_of_many_numbers_is_kept_whole_and_shown_short():
    class Wide(Encoder):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(4, 300)

    vector = torch.randn(300, generator=torch.Generator().manual_seed(0))
    found = ek.explain(Wide().eval(), X, similarity(vector))
    assert torch.equal(torch.tensor(parse(found.expression).to), vector)
    assert len(found.expression) > 4000
    assert len(repr(found)) < 2000
    assert len(found._repr_html_()) < len(
        ek.explain(Wide().eval(), X, feature(0))._repr_html_()
    ) + (4000)
