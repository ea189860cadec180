"""Image classifiers of torchvision, timm and transformers with random weights, at small sizes.

The Makefile installs timm and torchvision into a folder of their own: transformers, where it finds
torchvision, imports it, which fails beside a torch that it was not built for.
"""

import importlib
import sys
import warnings
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from networks import ready
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

FOLDER = Path(sys.prefix) / "networks"
CLASSES = 10
PLAIN = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip
WINDOWS = {
    "image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4],
    "window_size": 4,
}  # fmt: skip
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}

NETWORKS: dict[str, dict[str, Any]] = {
    "torchvision/alexnet": {},
    "torchvision/vgg11_bn": {},
    "torchvision/googlenet": {"init_weights": False},
    "torchvision/inception_v3": {"init_weights": False},
    "torchvision/resnet18": {},
    "torchvision/densenet121": {},
    "torchvision/squeezenet1_1": {},
    "torchvision/shufflenet_v2_x0_5": {},
    "torchvision/mobilenet_v2": {},
    "torchvision/mobilenet_v3_small": {},
    "torchvision/regnet_y_400mf": {},
    "torchvision/swin_t": {},
    "timm/efficientnet_b0": {},
    "timm/repvgg_a0": {},
    "timm/ghostnet_050": {},
    "timm/convnext_atto": {},
    "timm/test_nfnet": {},
    "timm/poolformer_s12": {},
    "timm/mobilevit_xxs": {},
    "timm/resmlp_12_224": {"img_size": 64},
    "timm/vit_tiny_patch16_224": {"img_size": 64},
    "timm/deit_tiny_distilled_patch16_224": {"img_size": 64},
    "timm/vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 4},
    "timm/eva02_tiny_patch14_224": {"img_size": 56},
    "timm/cait_xxs24_224": {"img_size": 64, "depth": 6},
    "timm/xcit_nano_12_p16_224": {},
    "timm/crossvit_tiny_240": {},
    "timm/levit_128s": {},
    "timm/efficientvit_m0": {},
    "timm/test_maxvit": {},
    "transformers/ViT": PLAIN | {"attn_implementation": "eager"},
    "transformers/Dinov2WithRegisters": PLAIN | {"mlp_ratio": 2},
    "transformers/Beit": PLAIN | {"use_relative_position_bias": True},
    "transformers/Swin": WINDOWS,
    "transformers/Swinv2": WINDOWS,
    "transformers/ConvNextV2": STAGES | {"num_stages": 4, "image_size": 64},
    "transformers/ResNet": STAGES | {"embedding_size": 16, "layer_type": "basic"},
    "transformers/MobileViT": {"image_size": 64},
    "transformers/PvtV2": STAGES | {
        "hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 3, 4], "image_size": 64,
    },
    "transformers/Segformer": STAGES | {
        "hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 3, 4],
        "decoder_hidden_size": 32,
    },
}  # fmt: skip
"""Options of each network's constructor."""

SIZES = {
    "torchvision/inception_v3": 75, "timm/crossvit_tiny_240": 240, "timm/levit_128s": 224,
    "timm/efficientvit_m0": 224, "timm/test_maxvit": 160,
    "timm/vit_small_patch14_reg4_dinov2": 56, "timm/eva02_tiny_patch14_224": 56,
}  # fmt: skip
"""Sides of images where they are not 64."""


def library(name: str) -> ModuleType:
    """Imports torchvision, timm or transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "transformers":
            return importlib.import_module(name)
        if str(FOLDER) not in sys.path:
            sys.path.append(str(FOLDER))
        try:
            importlib.import_module("torchvision")
        except RuntimeError:  # built for another torch: its operators are missing, and unused here
            for module in [key for key in sys.modules if key.startswith("torchvision")]:
                del sys.modules[module]
            boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", boxes)
        return importlib.import_module(name)


def version(package: str) -> str:
    """Its version, without importing it."""
    return next(iter(distributions(name=package, path=[*sys.path, str(FOLDER)]))).version


def build(name: str, seed: int = 0) -> nn.Module:
    """One of `NETWORKS` in eval mode; the same seed gives the same weights.

    As they initialize themselves, many give all images the same scores: weights vanish with depth,
    and the last scale of a block is zero or close to it. Here weights are those of He, scales are
    moved at random, and BatchNorm has the statistics of eight images.
    """
    owner, _, kind = name.partition("/")
    found, options = library(owner), NETWORKS[name]
    torch.manual_seed(seed)
    if owner == "torchvision":
        model = found.models.get_model(kind, weights=None, num_classes=CLASSES, **options)
    elif owner == "timm":
        model = found.create_model(kind, num_classes=CLASSES, **options)
    else:
        config = getattr(found, f"{kind}Config")(num_labels=CLASSES, **options)
        model = getattr(found, f"{kind}ForImageClassification")(config)
    with torch.no_grad():
        for values in model.parameters():
            if values.dim() == 1 or not values.any():
                values += 0.1 * torch.randn_like(values)
    model = ready(model, seed)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train().momentum = None
    with torch.no_grad():
        model(images(name, 8))
    return model.eval()


def images(name: str, count: int = 3) -> torch.Tensor:
    """``[count, 3, side, side]``."""
    side = SIZES.get(name, 64)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
