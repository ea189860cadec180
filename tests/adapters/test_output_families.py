"""Detectors, segmenters and encoders of other packages, with random weights, as targets."""

import numpy as np
import pytest
import torch
from foreign import foreign

transformers = foreign("transformers")

import explainkit as ek
from explainkit.errors import ModelError
from explainkit.expressions import mask, similarity

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
VIT = SMALL | {"image_size": 32, "patch_size": 8}
TEXT = SMALL | {
    "vocab_size": 50, "max_position_embeddings": 10, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1, "projection_size": 16,
}  # fmt: skip
NAMES = {0: "cat", 1: "dog", 2: "crane"}
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(name, **config):
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**config)).eval()


def detr():
    backbone = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    return built(
        "DetrForObjectDetection", use_timm_backbone=False, use_pretrained_backbone=False,
        backbone=None, backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=4, id2label=NAMES,
    )  # fmt: skip


def yolos():
    return built(
        "YolosForObjectDetection", **SMALL, image_size=[32, 32], patch_size=8,
        num_detection_tokens=4, id2label=NAMES,
    )  # fmt: skip


def segformer():
    return built(
        "SegformerForSemanticSegmentation", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[8, 16], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2],
        mlp_ratios=[1, 1], decoder_hidden_size=8, id2label=NAMES,
    )  # fmt: skip


def clip():
    return built("CLIPModel", text_config=TEXT, vision_config=VIT, projection_dim=8)


def siglip():
    return built("SiglipModel", text_config=TEXT, vision_config=VIT)


def tokenizer(texts, padding, max_length, truncation, return_tensors):
    """Characters as tokens, called as that of transformers is."""
    assert (padding, truncation, return_tensors) == ("max_length", True, "pt")
    rows = [[2 + ord(letter) % 40 for letter in text][: max_length - 1] for text in texts]
    rows = [[*row, *[1] * (max_length - len(row))] for row in rows]
    return {"input_ids": torch.tensor(rows)}


def gradient_of(score, model):
    x = X.clone().requires_grad_()
    return torch.autograd.grad(score(model(x)).sum(), x)[0]


CASES = {
    "detr, score": (detr, 'box_score(2, "dog")', lambda o: o.logits[:, 2, 1]),
    "detr, edge": (
        detr, 'box_coordinate(1, "right")',
        lambda o: o.pred_boxes[:, 1, 0] + o.pred_boxes[:, 1, 2] / 2,
    ),
    "yolos, best": (
        yolos, 'box_score("best", "crane")',
        lambda o: o.logits[range(2), o.logits.softmax(2)[:, :, 2].argmax(1), 2],
    ),
    "yolos, against no object": (
        yolos, "box_score(0, 1) - box_score(0, 3)", lambda o: o.logits[:, 0, 1] - o.logits[:, 0, 3],
    ),
    "segformer, box": (
        segformer, 'mask("dog", [0, 0, 0.5, 1])', lambda o: o.logits[:, 1, :, :8].mean((1, 2)),
    ),
    "segformer, predicted": (
        segformer, 'mask("cat")',
        lambda o: (o.logits[:, 0] - o.logits[:, 1:].amax(1)).relu().mean((1, 2)),
    ),
    "dinov2": (
        lambda: built("Dinov2Model", **SMALL, image_size=28, patch_size=14), "feature(5)",
        lambda o: o.pooler_output[:, 5],
    ),
    "dinov2 with registers": (
        lambda: built("Dinov2WithRegistersModel", **SMALL, image_size=28, patch_size=14),
        'neuron("layernorm", 3, 7)', lambda o: o.last_hidden_state[:, 7, 3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_formula(case):
    make, target, score = CASES[case]
    model = make()
    found = ek.explain(model, X, target, "input_x_gradient", batch_size=2)
    torch.testing.assert_close(found.score, score(model(X)).detach())
    torch.testing.assert_close(found.attribution, gradient_of(score, model) * X)
    if "detr" in case or "yolos" in case:
        left, top, right, bottom = found.diagnostics["boxes"][:, 0].unbind(1)
        assert ((left < right) & (top < bottom)).all()


@pytest.mark.parametrize("make", [clip, siglip])
def test_texts_and_images_meet_in_one_space(make):
    model = make()
    tower = ek.adapt(model, tokenizer=tokenizer)
    target = 'similarity("a cat")'
    found = ek.explain(tower, X, target, "integrated_gradients", steps=4)
    tokens = tokenizer(["a cat", "a cat"], "max_length", 10, True, "pt")
    both = model(pixel_values=X, **tokens)
    wanted = torch.cosine_similarity(both.image_embeds, both.text_embeds)
    torch.testing.assert_close(found.score, wanted.detach())
    # the vector is the same target, and needs no text tower
    vector = both.text_embeds[0].detach()
    same = ek.explain(tower, X, similarity(vector), "integrated_gradients", steps=4)
    torch.testing.assert_close(same.attribution, found.attribution)
    assert found.predicted is None
    card = found.scorecard()
    assert card.target == (target,) * 2
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_tokenizer_needs_two_towers():
    with pytest.raises(ModelError, match="get_image_features and get_text_features"):
        ek.adapt(segformer(), tokenizer=tokenizer)


def test_open_clip_is_called_as_open_clip():
    class Towers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual, self.words = torch.nn.Linear(12, 4), torch.nn.Embedding(50, 4)

        def encode_image(self, images):
            return self.visual(images.flatten(1))

        def encode_text(self, tokens):
            return self.words(tokens).mean(1)

    model, x = Towers().eval(), torch.rand(2, 3, 2, 2)
    tower = ek.adapt(model, tokenizer=lambda texts: torch.tensor([[3, 4]] * len(texts)))
    found = ek.explain(tower, x, similarity("a dog"))
    tokens = torch.tensor([[3, 4]] * 2)
    wanted = torch.cosine_similarity(model.encode_image(x), model.encode_text(tokens))
    torch.testing.assert_close(found.score, wanted.detach())


@pytest.mark.parametrize("method", ["gradcam", "occlusion", "attn_lrp", "attention_rollout"])
def test_methods_of_transformers_explain_boxes(method):
    params = {"window": 16, "stride": 16} if method == "occlusion" else {}
    found = ek.explain(yolos(), X, 'box_score(1, "dog")', method, **params)
    assert found.attribution.abs().amax((1, 2, 3)).gt(0).all()


def test_deeplab_of_torchvision_is_explained_by_its_mask():
    segmentation = foreign("torchvision.models.segmentation")
    torch.manual_seed(0)
    model = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    left = torch.zeros(32, 32, dtype=torch.bool)
    left[:, :16] = True
    target = mask(2, left)
    found = ek.explain(model, X, target)
    wanted = model(X)["out"][:, 2, :, :16].mean((1, 2)).detach()
    torch.testing.assert_close(found.score, wanted)
    assert np.isfinite(found.attribution.numpy()).all()


def test_a_segmenter_is_loaded_with_its_classes_and_its_processor(tmp_path):
    segformer().save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    transformers.SegformerImageProcessorPil(size=size).save_pretrained(tmp_path)
    model = ek.load_model(f"transformers:{tmp_path}")
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    found = ek.explain(model, photo, 'mask("dog", [0, 0, 0.5, 1])')
    assert found.class_names == ("cat", "dog", "crane")
    outlined = np.asarray(found.overlays()[0])
    rows, columns = (outlined == [255, 204, 0]).all(2).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 49, 0, 34)


def test_a_detector_is_loaded_with_its_processor_that_limits_the_longer_side(tmp_path):
    yolos().save_pretrained(tmp_path)
    size = {"shortest_edge": 32, "longest_edge": 48}
    transformers.YolosImageProcessorPil(size=size).save_pretrained(tmp_path)
    model = ek.load_model(f"transformers:{tmp_path}")
    photo = np.random.default_rng(0).integers(0, 256, (90, 50, 3), np.uint8)
    assert ek.explain(model, photo, 'box_score("best", "dog")').inputs.shape == (1, 3, 48, 16)
    found = ek.explain(model, X, 'box_score("best", "dog")')
    torch.testing.assert_close(
        found.score, model(X).logits[range(2), model(X).logits.softmax(2)[..., 1].argmax(1), 1],
    )  # fmt: skip
