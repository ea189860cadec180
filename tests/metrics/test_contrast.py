"""The contrast of boxes and masks: that of a classifier made of the same query or region."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toys import generator, textures

import explainkit as ek
from explainkit.expressions import Scope, box_coordinate, box_score, mask

NAMES = ["cat", "dog", "ape"]
X = textures(4)
WEIGHTS = torch.randn(2, 4, 24 * 24, generator=generator(3))
"""Of each query and class; the last class is "no object", the likeliest of all."""


class Head(nn.Module):
    """A linear classifier: a query of the detector, without "no object"."""

    def __init__(self, query=1):
        super().__init__()
        self.weight = nn.Parameter(WEIGHTS[query, :3].clone())

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


class Detector(nn.Module):
    """Two queries, each a linear function of the image."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(WEIGHTS.clone())

    def forward(self, x):
        logits = torch.einsum("bp,qcp->bqc", x.flatten(1), self.weight)
        no_object = torch.cat([torch.zeros(3), torch.full((1,), 1e3)])
        return {"logits": logits + no_object, "pred_boxes": logits * 0 + 0.5}


class Segmenter(nn.Module):
    """Three classes at half resolution, linear in the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 3, 5, 2, padding=2, bias=False)

    def forward(self, x):
        return {"out": self.conv(x)}


class Region(nn.Module):
    """A classifier: the mean scores of a segmenter in the upper half."""

    def __init__(self):
        super().__init__()
        self.segmenter = Segmenter()

    def forward(self, x):
        return self.segmenter(x)["out"][:, :, :6].mean((2, 3))


@pytest.mark.parametrize(
    ("model", "target", "twin", "place"),
    [
        (Detector, 'box_score(1, "cat")', Head, "for the same query"),
        (Segmenter, 'mask("cat", [0, 0, 1, 0.5])', Region, "in the same region"),
    ],
    ids=["box", "mask"],
)
def test_a_scorecard_is_that_of_the_classifier_of_the_same_query_or_region(
    model, target, twin, place
):
    made, classifier = (ek.adapt(kind().eval(), class_names=NAMES) for kind in (model, twin))
    for method in ("input_x_gradient", "occlusion"):
        params = {"window": 4, "stride": 4} if method == "occlusion" else {}
        card = ek.explain(made, X, target, method, **params).scorecard()
        wanted = ek.explain(classifier, X, "cat", method, **params).scorecard()
        torch.testing.assert_close(card.statistic, wanted.statistic, atol=1e-3, rtol=0)
        torch.testing.assert_close(card.p, wanted.p, atol=0.02, rtol=0)
        assert not card.p.isnan().any()
        assert card.contrast == tuple(f"{text} {place}" for text in wanted.contrast)
        assert len({text.partition(",")[0] for text in card.contrast}) == 2  # images differ
    assert card.verdict == wanted.verdict
    assert all(
        text.endswith(f"Compared with {other}.")
        for text, verdict, other in zip(
            map(card.sentence, range(4)), card.verdict, card.contrast, strict=True
        )
        if verdict == "supported"
    )


def test_a_map_of_any_class_is_not_specific_to_one():
    model = ek.adapt(Detector().eval(), class_names=NAMES)
    every = sum(
        found.attribution
        for found in ek.explain(
            model, X, targets=[f"box_score(1, {label})" for label in range(3)],
            method="input_x_gradient",
        )
    )  # fmt: skip
    card = ek.scorecard(model, X, every, 'box_score(1, "cat")', contrast=every)
    assert (card.p[:, 2] == 1).all()
    assert "supported" not in card.verdict


def test_a_verdict_does_not_depend_on_the_other_images():
    model = ek.adapt(Detector().eval(), class_names=NAMES)
    together = ek.explain(model, X, 'box_score("best", "dog")', "input_x_gradient").scorecard()
    for i in range(4):
        alone = ek.explain(
            model, X[i : i + 1], 'box_score("best", "dog")', "input_x_gradient"
        ).scorecard()
        assert alone.contrast == together.contrast[i : i + 1]
        torch.testing.assert_close(alone.p[0], together.p[i], atol=0.02, rtol=0)


def test_rivals_are_the_runners_up_of_the_image_as_it_is():
    logits = torch.tensor([[[5.0, 3, 4, 9], [0, 9, 8, 9]], [[5, 4, 3, 9], [7, 8, 1, 9]]])
    output = SimpleNamespace(logits=logits, pred_boxes=torch.zeros(2, 2, 4))
    images = torch.zeros(2, 1, 8, 8)
    scope = Scope(None, {}, images, NAMES, output=output)
    # the query of the highest score for "cat" is the first, then the second
    found = box_score("best", "cat").rivals(scope)
    assert [(one.score.query, one.label) for one in found] == [(0, 2), (1, 1)]
    # a model of one kind of object has no other
    single = Scope(None, {}, images, ["cat"], output=SimpleNamespace(logits=logits[..., 2:]))
    assert box_score(0, "cat").rivals(single) == [None, None]
    assert box_coordinate(0, "x").rivals(scope) == ()
    assert (box_score(0, 0) - box_score(0, 1)).rivals(scope) == ()


def test_the_rival_of_a_predicted_mask_is_scaled_like_the_mask():
    out = torch.randn(3, 3, 4, 6, generator=generator(2))
    out[2, 0] = -9.0  # predicted nowhere
    scope = Scope(None, {}, torch.zeros(3, 1, 8, 12), NAMES, output={"out": out})
    first, second, nowhere = mask("cat").rivals(scope)
    assert nowhere is None
    for i, rival in enumerate((first, second)):
        inside = out[i].argmax(0) == 0
        sums = (out[i] * inside).sum((1, 2))
        assert rival.label == 1 + int(sums[1:].argmax())
        score = rival.score.evaluate(None, {}, scope.images, NAMES, output={"out": out})[i]
        torch.testing.assert_close(score, sums[rival.label] / 24)


def test_a_detector_of_one_class_has_no_contrast():
    class Single(Detector):
        def forward(self, x):
            found = super().forward(x)
            return {**found, "logits": found["logits"][..., :1]}

    model = Single().eval()
    card = ek.explain(model, X[:1], "box_score(1, 0)", "input_x_gradient").scorecard()
    assert card.p[:, 2].isnan().all()
    assert card.reason == ("There is no next most likely class to compare with.",)
    assert card.verdict == ("partly supported",)
