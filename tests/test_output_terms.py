"""Terms of a model's outputs: boxes, masks, embeddings and values, against plain arithmetic."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explainkit.errors import TargetError
from explainkit.expressions import (
    Scope,
    box_coordinate,
    box_score,
    evaluate_each,
    feature,
    logit,
    mask,
    output,
    parse,
    similarity,
)
from explainkit.expressions.regions import coverage, mask_of, region_of, run_lengths

BATCH, NAMES = 3, ("cat", "dog")
torch.manual_seed(0)
L = torch.randn(BATCH, 5, 3, dtype=torch.float64)  # two classes and "no object"
B = torch.rand(BATCH, 5, 4, dtype=torch.float64)
S = torch.randn(BATCH, 2, 4, 6, dtype=torch.float64)
M = torch.randn(BATCH, 3, 4, 6, dtype=torch.float64)
E = torch.randn(BATCH, 7, dtype=torch.float64)
T = torch.randn(BATCH, 7, dtype=torch.float64)
IMAGES = torch.zeros(BATCH, 3, 8, 12, dtype=torch.float64)


def scope(returned, **more):
    return Scope(None, {}, IMAGES, NAMES, output=returned, **more)


DETECTOR = scope(SimpleNamespace(logits=L, pred_boxes=B))
SEGMENTER = scope({"out": S, "aux": S + 1})
V5 = torch.randn(BATCH, 2, 3, 4, 6, dtype=torch.float64)
SCANNER = scope({"out": V5})  # depth, height, width
ENCODER = scope({"image_embeds": E, "text_embeds": T, "pooler_output": T})
V = [1.0, 0, -2, 0.5, 0, 0, 3]
PIXELS = torch.zeros(4, 6, dtype=torch.bool)
PIXELS[1:3, 2:] = True
VOXELS = torch.zeros(3, 4, 6, dtype=torch.bool)
VOXELS[1:, 1:3, 2:] = True
BEST = L.softmax(2)[:, :, 1].argmax(1)
ROWS = torch.arange(BATCH)


def cosine(v):
    return (E * v).sum(1) / (E.norm(dim=1) * v.norm(dim=-1))


TERMS = [
    (output("pred_boxes", [3, 0]), DETECTOR, B[:, 3, 0]),
    (output("pred_boxes", 3), DETECTOR, B[:, 3].mean(1)),
    (output("aux"), SEGMENTER, (S + 1).mean((1, 2, 3))),
    (output(index=[2]), scope(E), E[:, 2]),
    (output(1, [2]), scope((S, E)), E[:, 2]),
    (output("heads.0", [2]), scope({"heads": [E]}), E[:, 2]),
    (box_score(4, "dog"), DETECTOR, L[:, 4, 1]),
    (box_score(4, 2), DETECTOR, L[:, 4, 2]),
    (box_score("best", "dog"), DETECTOR, L[ROWS, BEST, 1]),
    (box_score("best", 1), replace(DETECTOR, class_names=()), L[:, :, 1].amax(1)),
    (
        box_score("best", 0),  # one class without a name is not "no object"
        replace(DETECTOR, class_names=(), output=SimpleNamespace(logits=L[:, :, :1])),
        L[:, :, 0].amax(1),
    ),
    (box_score(0, "cat") - box_score(0, 2), DETECTOR, L[:, 0, 0] - L[:, 0, 2]),
    (box_score(4, 1, 0), scope((L, B)), L[:, 4, 1]),
    (box_coordinate(2, "x"), DETECTOR, B[:, 2, 0]),
    (box_coordinate(2, "left"), DETECTOR, B[:, 2, 0] - B[:, 2, 2] / 2),
    (box_coordinate(2, "bottom"), DETECTOR, B[:, 2, 1] + B[:, 2, 3] / 2),
    (box_coordinate("best", "y", "dog"), DETECTOR, B[ROWS, BEST, 1]),
    (box_coordinate(2, "width", box_format="xyxy"), DETECTOR, B[:, 2, 2] - B[:, 2, 0]),
    (box_coordinate(2, "y", box_format="xywh"), DETECTOR, B[:, 2, 1] + B[:, 2, 3] / 2),
    (mask("dog", [0, 0, 0.5, 1]), SEGMENTER, S[:, 1, :, :3].mean((1, 2))),
    (mask("dog", [0, 0.25, 1, 0.375]), SEGMENTER, S[:, 1, 1].mean(1)),
    (mask(0, PIXELS, "aux"), SEGMENTER, S[:, 0, 1:3, 2:].mean((1, 2)) + 1),
    (mask("cat"), SEGMENTER, (S[:, 0] - S[:, 1]).relu().mean((1, 2))),
    (mask("dog"), scope({"out": M}), (M[:, 1] - M[:, ::2].amax(1)).relu().mean((1, 2))),
    (mask(0), scope({"out": M[:, :1]}), M[:, 0].relu().mean((1, 2))),
    (mask("dog", VOXELS), SCANNER, V5[:, 1, 1:, 1:3, 2:].mean((1, 2, 3))),
    (
        mask("dog", [0, 0.25, 1 / 3, 0.5, 1, 1]),  # left, top, front, right, bottom, back
        SCANNER,
        V5[:, 1, 1:, 1:, :3].mean((1, 2, 3)),
    ),
    (mask("cat"), SCANNER, (V5[:, 0] - V5[:, 1]).relu().mean((1, 2, 3))),
    (feature(6), ENCODER, E[:, 6]),
    (feature(6, "text_embeds"), ENCODER, T[:, 6]),
    (feature(6), scope(E), E[:, 6]),
    (similarity(V), ENCODER, cosine(torch.tensor(V).double())),
    (similarity(torch.tensor(V)), ENCODER, cosine(torch.tensor(V).double())),
    (similarity(output("text_embeds")), ENCODER, cosine(T)),
    (similarity("a dog"), replace(ENCODER, embeddings={"a dog": T[0]}), cosine(T[0])),
]


@pytest.mark.parametrize(("term", "known", "wanted"), TERMS, ids=[str(t) for t, *_ in TERMS])
def test_terms_are_their_formulas_and_their_text(term, known, wanted):
    found = evaluate_each([term] * BATCH, known)
    torch.testing.assert_close(found, wanted)
    assert parse(str(term)) == term
    assert hash(parse(str(term))) == hash(term)
    assert term.uses_output
    assert not term.uses_logits
    assert not term.layers
    # the value of an image does not depend on the others
    alone = replace(known, images=IMAGES[1:2], output=first_rows(known.output, slice(1, 2)))
    torch.testing.assert_close(evaluate_each([term], alone), wanted[1:2])


def first_rows(returned, rows):
    if isinstance(returned, torch.Tensor):
        return returned[rows]
    if isinstance(returned, dict):
        return {key: first_rows(value, rows) for key, value in returned.items()}
    if isinstance(returned, tuple | list):
        return type(returned)(first_rows(value, rows) for value in returned)
    return SimpleNamespace(**first_rows(vars(returned), rows))


def test_images_can_have_different_queries_classes_and_sides():
    found = evaluate_each([box_score(0, 1), box_score("best", "dog"), box_score(2, 0)], DETECTOR)
    torch.testing.assert_close(found, torch.stack([L[0, 0, 1], L[1, BEST[1], 1], L[2, 2, 0]]))
    sides = [box_coordinate(0, "x"), box_coordinate(1, "right"), box_coordinate(1, "height")]
    found = evaluate_each(sides, DETECTOR)
    right = B[1, 1, 0] + B[1, 1, 2] / 2
    torch.testing.assert_close(found, torch.stack([B[0, 0, 0], right, B[2, 1, 3]]))
    found = evaluate_each([mask("cat"), mask("dog"), mask("cat")], SEGMENTER)
    wanted = [(S[i, c] - S[i, 1 - c]).relu().mean() for i, c in enumerate((0, 1, 0))]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_gradients_reach_the_outputs_that_terms_name_and_no_others():
    logits, boxes = L.clone().requires_grad_(), B.clone().requires_grad_()
    known = scope(SimpleNamespace(logits=logits, pred_boxes=boxes))
    term = box_coordinate("best", "left", "dog")
    evaluate_each([term] * BATCH, known).sum().backward()
    assert logits.grad is None  # the choice of the query has no gradient
    wanted = torch.zeros_like(B)
    wanted[ROWS, BEST, 0], wanted[ROWS, BEST, 2] = 1, -0.5
    assert torch.equal(boxes.grad, wanted)


def test_where_a_class_is_predicted_its_score_is_continuous_and_knows_no_offset():
    """Logits of a softmax are the same with any number added to all classes of a pixel."""
    moved = scope({"out": M + torch.randn(BATCH, 1, 4, 6, dtype=torch.float64)})
    term = [mask("cat")] * BATCH
    torch.testing.assert_close(evaluate_each(term, moved), evaluate_each(term, scope({"out": M})))
    tied = M.clone()
    tied[0, :, 0, 0] = torch.tensor([2.0, 2, 1])
    values = []
    for step in (-1e-9, 1e-9):  # one pixel changes its class
        tied[0, 0, 0, 0] = 2 + step
        values.append(evaluate_each(term, scope({"out": tied}))[0])
    assert abs(values[1] - values[0]) < 1e-9


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**20))
def test_run_lengths_hold_a_mask(height, width, bits):
    flat = [bool(bits >> i & 1) for i in range(height * width)]
    given_mask = torch.tensor(flat).view(height, width)
    assert torch.equal(mask_of((height, width), run_lengths(given_mask)), given_mask)


@settings(max_examples=60)
@given(
    st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.01, 1), st.floats(0.01, 1),
    st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip
def test_a_box_covers_its_area_at_any_resolution(left, top, wide, high, rows, columns):
    box = region_of((left, top, min(left + wide, 1), min(top + high, 1)))
    found = coverage(box, (rows, columns), torch.empty(0, dtype=torch.float64))
    area = (box[2] - box[0]) * (box[3] - box[1])
    assert found.mean().item() == pytest.approx(area, abs=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12


def test_a_mask_of_another_resolution_covers_parts_of_cells():
    voxels = torch.zeros(2, 8, 12, dtype=torch.bool)
    voxels[0, :2, 0] = True
    found = coverage(region_of(voxels), (1, 4, 6), torch.empty(0, dtype=torch.float64))
    assert found[0, 0, 0] == found.sum() == 0.25
    fine = torch.zeros(8, 12, dtype=torch.bool)
    fine[0, 0] = fine[1, 0] = True
    found = coverage(region_of(fine), (4, 6), torch.empty(0, dtype=torch.float64))
    assert found[0, 0] == 0.5
    assert found.sum() == 0.5
    coarse = torch.tensor([[True, False]])
    found = coverage(region_of(coarse), (2, 4), torch.empty(0))
    assert found.tolist() == [[1, 1, 0, 0]] * 2


def test_boxes_are_shown_in_fractions_of_the_image():
    left, top = B[:, 2, 0] - B[:, 2, 2] / 2, B[:, 2, 1] - B[:, 2, 3] / 2
    wanted = torch.stack([left, top, left + B[:, 2, 2], top + B[:, 2, 3]], 1)
    both = box_score(2, "cat") - box_score(2, 2) + box_coordinate(2, "x")
    torch.testing.assert_close(both.shown_boxes(DETECTOR), wanted[:, None])
    assert (box_score(2, 0) + box_score(3, 0)).shown_boxes(DETECTOR).shape == (BATCH, 2, 4)
    pixels = scope({"logits": L, "boxes": torch.tensor([3.0, 2, 9, 4]).expand(BATCH, 5, 4)})
    term = box_score(1, 0, box_format="xyxy")
    wanted = torch.tensor([0.25, 0.25, 0.75, 0.5])  # the image has 8 rows and 12 columns
    torch.testing.assert_close(term.shown_boxes(pixels), wanted.expand(BATCH, 1, 4))
    assert mask(0, [0, 0, 0.5, 1]).shown_boxes(SEGMENTER)[0].tolist() == [[0, 0, 0.5, 1]]
    for term, known in ((mask(0), SEGMENTER), (mask(0, PIXELS), SEGMENTER), (feature(0), ENCODER)):
        assert term.shown_boxes(known) is None
    assert box_score(1, 0).shown_boxes(scope({"logits": L})) is None


WRONG = [
    ("box_score(-1, 0)", "query: expected an integer from 0, got -1"),
    ('box_score("first", 0)', "query: expected an integer from 0"),
    ('box_coordinate("best", "x")', "expected a label with query 'best'"),
    ('box_coordinate(0, "middle")', "side: expected one of x, y, width"),
    ('box_coordinate(0, "x", box_format="yolo")', "expected boxes as cxcywh, xyxy, xywh"),
    ('mask("cat", [0.5, 0, 0.2, 1])', "expected left < right"),
    ('mask("cat", [0, 0, 12, 8])', "in fractions of the image"),
    ('mask("cat", [0, 0, 0.5, 1, 1, 0.4])', "front < back"),
    ('mask("cat", [[2, 2, 2], [1, 2]])', "region: expected"),
    ('mask("cat", "all")', "region: expected 'predicted', a box"),
    ('mask("cat", [[2, 2], [1, 2]])', "region: expected"),
    ('mask("cat", [[2, 2], [4]])', "at least one pixel"),
    ("similarity([])", "expected a vector, a text or an output"),
    ('similarity("")', "expected a text, got an empty one"),
    ("similarity(logit(0))", "expected a vector, a text or an output"),
    ("feature(1.5)", "expected an integer from 0"),
    ('output("a", ["b"])', "expected an integer from 0"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG, ids=[text for text, _ in WRONG])
def test_what_no_term_can_be_is_an_error(text, reason):
    with pytest.raises(TargetError, match=reason) as error:
        parse(text)
    assert "\n" not in str(error.value)


MISSING = [
    (box_score(5, 0), DETECTOR, "expected a query from 0 to 4, got 5"),
    (box_score(0, "bird"), DETECTOR, "expected a class name of the model"),
    (box_score(0, 0), SEGMENTER, "expected an output .batch, query, class., got float64"),
    (box_coordinate(0, "x"), SEGMENTER, "an output named pred_boxes or boxes, got dict with out"),
    (mask(0, [0, 0, 1, 1]), SCANNER, "expected an output .batch, class, height, width., got"),
    (mask(0, VOXELS), SEGMENTER, "expected an output .batch, class, depth, height, width., got"),
    (mask(0), DETECTOR, "class, height, width. or .batch, class, depth, height, width., got"),
    (output("masks"), DETECTOR, "expected output='masks' in what the model returns"),
    (output("pred_boxes", [5]), DETECTOR, "expected an index within .5, 4., got .5."),
    (output(), ENCODER, "name another"),
    (feature(7), ENCODER, "expected a feature from 0 to 6, got 7"),
    (similarity([1.0, 2.0]), ENCODER, "expected an embedding of 7 features, got .2."),
    (similarity("a cat"), ENCODER, "expected a model with a text tower"),
    (feature(0), replace(ENCODER, output=None), "expected the model's output, got none"),
    (output("n", []), scope({"n": torch.arange(BATCH)}), "expected an output .batch, …., got int"),
]


@pytest.mark.parametrize(("term", "known", "reason"), MISSING, ids=[str(t) for t, *_ in MISSING])
def test_what_the_model_does_not_return_is_an_error(term, known, reason):
    with pytest.raises(TargetError, match=reason):
        evaluate_each([term] * BATCH, known)


def test_the_output_alone_is_enough():
    known = replace(DETECTOR, images=None)
    torch.testing.assert_close(evaluate_each([box_score(1, 1)] * BATCH, known), L[:, 1, 1])
    nested = replace(scope((torch.arange(BATCH), {"e": E})), images=None)
    torch.testing.assert_close(evaluate_each([feature(0, "1.e")] * BATCH, nested), E[:, 0])


def test_only_terms_of_the_same_outputs_share_a_batch():
    assert box_score(0, 1).form == box_score(3, "cat").form
    assert mask("cat").form == mask("dog").form
    for one, other in (
        (box_score(0, 1), box_score(0, 1, "aux")),
        (mask(0), mask(0, [0, 0, 1, 1])),
        (similarity("a"), similarity("b")),
        (output("a", 1), output("a", 2)),
        (feature(0), logit(0)),
    ):
        assert one.form != other.form
