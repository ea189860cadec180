"""The architectures of the transformers package, with small configurations and random weights."""

import warnings

import pytest
import torch
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.attention.libragrad import LibraGrad
from explainkit.methods.gradient import InputXGradient

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        ConvNextConfig,
        ConvNextForImageClassification,
        DeiTConfig,
        DeiTForImageClassification,
        DeiTForImageClassificationWithTeacher,
        DetrConfig,
        DetrForObjectDetection,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersModel,
        HieraConfig,
        HieraForImageClassification,
        MobileViTConfig,
        MobileViTForImageClassification,
        ResNetConfig,
        SwinConfig,
        SwinForImageClassification,
        Swinv2Config,
        Swinv2ForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

PLAIN = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
SWIN = {
    "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
    "window_size": 4, "num_labels": 5,
}  # fmt: skip
CONVNEXT = {
    "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "patch_size": 2, "image_size": 16,
    "num_labels": 5,
}  # fmt: skip

BUILD = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**PLAIN)),
    "vit eager": lambda: ViTForImageClassification(ViTConfig(**PLAIN, attn_implementation="eager")),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**PLAIN)),
    "deit teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**PLAIN)),
    "swin": lambda: SwinForImageClassification(SwinConfig(**SWIN)),
    "swin v2": lambda: Swinv2ForImageClassification(Swinv2Config(**SWIN)),
    "registers": lambda: Dinov2WithRegistersForImageClassification(
        Dinov2WithRegistersConfig(**PLAIN, mlp_ratio=2)
    ),
    "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(**CONVNEXT)),
}
GLOBAL = ["vit", "vit eager", "deit", "deit teacher", "registers"]


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BUILD[name]().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4  # as initialized, every image has nearly the same scores
    return model


def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BUILD)
def test_additive_methods_are_complete(name):
    model, x = build(name), images()
    for method in ("deeplift", "full_gradient"):
        e = ek.explain(model, x, 1, method)
        assert e.diagnostics["completeness_gap"].max() < 1e-4, method
        assert not e.coverage["fallbacks"]
    # near an image of zeros these networks, all biases zero, normalize by next to nothing
    e = ek.explain(model, x, 1, "integrated_gradients", baseline=2.0, steps=100)
    assert e.diagnostics["completeness_gap"].max() < 0.01


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("method", ["guided_backprop", "lrp", "attn_lrp", "libragrad", "gradcam"])
def test_every_operator_is_known(name, method):
    e = ek.explain(build(name), images(), 1, method)
    assert (e.attribution != 0).flatten(1).any(1).all()
    assert not (e.coverage or {}).get("fallbacks")


@pytest.mark.parametrize("name", ["vit", "deit", "convnext"])
def test_libragrad_is_complete_without_biases(name):
    model = build(name).double()
    for key, parameter in model.named_parameters():
        if key.endswith("bias") or "token" in key or "position" in key:
            parameter.data.zero_()
    e = ek.explain(model, images().double(), 1, LibraGrad(InputXGradient()))
    total = e.attribution.sum((1, 2, 3))
    torch.testing.assert_close(total, e.score, rtol=1e-6, atol=1e-9)
    plain = ek.explain(model, images().double(), 1, "input_x_gradient").attribution.sum((1, 2, 3))
    assert ((plain - e.score).abs() > 0.05 * e.score.abs()).all()


def upsampled(rows, prefix):
    grid = rows[:, prefix:].reshape(2, 1, 4, 4)
    return F.interpolate(grid, (16, 16), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", ["vit eager", "deit teacher"])
def test_rollouts_are_those_of_the_matrices_that_the_model_gives(name):
    model, x = build(name), images()
    model.set_attn_implementation("eager")
    output = model(x, output_attentions=True)
    attentions = output.attentions
    gradients = torch.autograd.grad(output.logits[:, 1].sum(), attentions)
    prefix = attentions[0].shape[-1] - 16
    rollout = relevance = torch.eye(16 + prefix)
    for a, g in zip(attentions, gradients, strict=True):
        rollout = (a.mean(1) + torch.eye(16 + prefix)) / 2 @ rollout
        relevance = relevance + (a * g).clamp(min=0).mean(1) @ relevance
    for method, wanted in (("attention_rollout", rollout), ("gradient_rollout", relevance)):
        found = ek.explain(build(name), x, 1, method).attribution
        # of two heads on two tokens, the mean of both tokens' rows
        wanted = upsampled(wanted[:, :prefix].mean(1), prefix).detach()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout", "legrad"])
def test_fused_and_eager_attention_have_the_same_map(method):
    maps = []
    for implementation in ("eager", "sdpa"):
        model = build("deit")
        model.set_attn_implementation(implementation)
        maps.append(ek.explain(model, images(), 1, method).attribution)
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-6)
    assert maps[0].abs().max() > 0


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout", "legrad"])
def test_windows_and_convolutions_are_refused(method):
    for name in ("swin", "swin v2"):
        with pytest.raises(MethodError, match="within groups .windows of an image"):
            ek.explain(build(name), images(), 1, method)
    with pytest.raises(MethodError, match="expected a model with attention"):
        ek.explain(build("convnext"), images(), 1, method)


@pytest.mark.parametrize("name", GLOBAL)
def test_grid_and_class_tokens_are_found(name):
    e = ek.explain(build(name), images(), 1, "attention_rollout", upsample="nearest")
    assert e.diagnostics["patch_grid"] == [4, 4]
    total = e.attribution.sum((1, 2, 3)) / 16 + e.diagnostics["elsewhere"]
    torch.testing.assert_close(total, torch.ones(2))


def hiera():
    return HieraForImageClassification(
        HieraConfig(
            image_size=[32, 32], embed_dim=8, num_heads=[1, 2], depths=[1, 2], num_query_pool=1,
            masked_unit_size=[4, 4], masked_unit_attention=[True, False], num_labels=5,
        )
    )  # fmt: skip


def detr():
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    return DetrForObjectDetection(
        DetrConfig(
            backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False,
            backbone=None, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=16,
            decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
            num_queries=16, num_labels=5,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "target", "layer", "grid"),
    [
        (lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**PLAIN)),
         lambda out: out.pooler_output[:, 0], "encoder.layer.0", [4, 4]),
        (lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**PLAIN)),
         lambda out: out.last_hidden_state[:, 5:].mean((1, 2)), "encoder.layer.1", [4, 4]),
        (lambda: CLIPVisionModel(CLIPVisionConfig(**PLAIN)),
         lambda out: out.pooler_output[:, 0], "encoder.layers.0", [4, 4]),
        (hiera, 1, "hiera.encoder.stages.1", [4, 4]),
        (detr, lambda out: out.logits[:, 3, 1], "model.encoder.layers.1", [4, 4]),
    ],
    ids=["class token", "patches", "clip", "hiera", "detr"],
)  # fmt: skip
def test_the_default_layer_is_what_the_score_reads_last(build, target, layer, grid):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    x = images() if model.config.model_type != "hiera" else torch.rand(2, 3, 32, 32)
    x = torch.rand(2, 3, 32, 32) if model.config.model_type == "detr" else x
    found = ek.explain(model, x, target, "gradcam")
    assert (found.layer, found.diagnostics["patch_grid"]) == (layer, grid)
    assert (found.attribution != 0).flatten(1).any(1).all()


def test_attention_within_every_other_pixel_is_refused():
    sizes = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]}
    model = MobileViTForImageClassification(MobileViTConfig(image_size=64, num_labels=5, **sizes))
    with pytest.raises(MethodError, match="as in MobileViT"):
        ek.explain(model.eval(), torch.rand(1, 3, 64, 64), 1, "attention_rollout")
