"""What one call adds to its passes for boxes, segments, similarities, two inputs and volumes.

Run ``make bench``. Networks of transformers and timm with random, frozen weights, one image of
224 × 224 pixels, or a volume. "bare" is a forward and the gradient of the same score by hand.
One process, two threads, interleaved calls, medians, a warm-up call dropped. It prints a table.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import third_party
import torch
from timing import interleaved, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit.expressions import similarity

Score = Callable[[Any], Tensor]


class Fusion(nn.Module):
    """A ResNet-18 of an image and its depth."""

    def __init__(self) -> None:
        super().__init__()
        self.network = third_party.library("timm").create_model("resnet18", in_chans=4)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        found: Tensor = self.network(torch.cat([rgb, depth], 1))
        return found


def volumetric() -> nn.Module:
    """Four convolutions of volumes."""
    widths = (1, 16, 32, 64, 64)
    layers = [
        layer
        for before, width in pairwise(widths)
        for layer in (nn.Conv3d(before, width, 3, 2, 1), nn.BatchNorm3d(width), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 10))


def families(side: int) -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...], Any, Score]]:
    """For each kind its name, a model, its inputs, a target, and the target's score by hand."""
    library = third_party.library("transformers")
    image, size = torch.randn(1, 3, side, side), {"image_size": side}
    boxes = library.YolosConfig(
        image_size=[side, side], hidden_size=192, num_attention_heads=3, intermediate_size=768,
        num_labels=91,
    )  # fmt: skip
    yield (
        "a box of YOLOS-Ti", library.YolosForObjectDetection(boxes), (image,),
        "box_score(7, 3)", lambda out: out.logits[:, 7, 3],
    )  # fmt: skip
    masks = library.SegformerConfig(num_labels=19)
    yield (
        "a segment of SegFormer-B0", library.SegformerForSemanticSegmentation(masks), (image,),
        "mask(3, [0, 0, 1, 1])", lambda out: out.logits[:, 3].mean((1, 2)),
    )  # fmt: skip
    tower = library.CLIPVisionModelWithProjection(library.CLIPVisionConfig(**size))
    text = torch.randn(512)
    yield (
        "a similarity of CLIP ViT-B/32", tower, (image,), similarity(text),
        lambda out: torch.cosine_similarity(out.image_embeds, text),
    )  # fmt: skip
    depth = torch.randn(1, 1, side, side)
    yield "two inputs of ResNet-18", Fusion(), (image, depth), 0, lambda out: out[:, 0]
    scan = torch.randn(1, 1, side // 4, side // 2, side // 2)
    yield "a volume, four convolutions", volumetric(), (scan,), 0, lambda out: out[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--side", type=int, default=224, help="of the image")
    options = parse(parser, rounds=0, side=64)
    print("| saliency of | bare ms | explainkit ms | / bare |")
    print("|---|---:|---:|---:|")
    torch.manual_seed(0)
    for title, model, inputs, target, score in families(options.side):
        model.eval().requires_grad_(False)
        given: Any = inputs if len(inputs) > 1 else inputs[0]

        def bare(model: nn.Module = model, inputs: Any = inputs, score: Score = score) -> None:
            leaves = [one.clone().requires_grad_() for one in inputs]
            torch.autograd.grad(score(model(*leaves)).sum(), leaves)

        def ours(model: nn.Module = model, given: Any = given, target: Any = target) -> None:
            ek.explain(model, given, target, "saliency")

        seconds, _ = interleaved({"bare": bare, "explainkit": ours}, options.rounds)
        first, second = seconds["bare"], seconds["explainkit"]
        print(f"| {title} | {1000 * first:.1f} | {1000 * second:.1f} | {second / first:.2f} |")


if __name__ == "__main__":
    main()
