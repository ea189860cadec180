"""One call on one image: what `explain` adds to its passes, and Captum beside it.

Run ``make bench``. The networks are timm's with random, frozen weights, the image has 224 × 224
pixels. "bare" is a forward and the gradient that the method needs; for integrated gradients one per
step; for occlusion the forwards. Our class activation map finds its layer in each call; Captum is
given it. One process, two threads, interleaved calls, medians, a warm-up call dropped. It prints
the table of docs/reference/benchmarks.md.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import third_party
import torch
from timing import Calls, Lazy, interleaved, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit.layers import capture

NETWORKS = {
    "ResNet-18": "resnet18",
    "ConvNeXt-Atto": "convnext_atto",
    "EfficientNet-B0": "efficientnet_b0",
    "ViT-S": "vit_small_patch16_224",
}
TUNED = 8
"""Images per forward at which Captum is fastest."""

captum = Lazy("captum.attr")


def prepare(name: str, side: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    options = {"img_size": side} if name.startswith("vit") else {}
    model = third_party.library("timm").create_model(name, **options)
    return model.eval().requires_grad_(False), torch.randn(1, 3, side, side)


def gradient(model: nn.Module, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)


def layer_gradient(model: nn.Module, image: Tensor, layer: str) -> None:
    with capture(model, [layer]) as outputs:
        score = model(image.clone().requires_grad_())[0, 0]
    torch.autograd.grad(score, outputs[layer][-1])


def forwards(model: nn.Module, image: Tensor, count: int) -> None:
    with torch.inference_mode():
        for part in image.repeat(count, 1, 1, 1).split(TUNED):
            model(part)


def candidates(
    model: nn.Module, image: Tensor, steps: int, *, tokens: bool
) -> Iterator[tuple[str, Calls]]:
    def ours(method: str, **params: object) -> Callable[[], Any]:
        return lambda: ek.explain(model, image, 0, method, **params)

    side = image.shape[-1]
    leaf = image.clone().requires_grad_()
    yield (
        "saliency",
        {
            "bare": lambda: gradient(model, image),
            "explainkit": ours("saliency"),
            "captum": lambda: captum.Saliency(model).attribute(leaf, 0, abs=False),
        },
    )
    if not tokens:  # Captum averages over the axes of an image
        layer = ek.explain(model, image, 0, "gradcam").layer
        module = model.get_submodule(layer)
        yield (
            "gradcam",
            {
                "bare": lambda: layer_gradient(model, image, layer),
                "explainkit": ours("gradcam"),
                "captum": lambda: captum.LayerAttribution.interpolate(
                    captum.LayerGradCam(model, module).attribute(image, 0), (side, side), "bilinear"
                ),
            },
        )
    yield (
        f"integrated_gradients, {steps} steps",
        {
            "bare": lambda: [
                gradient(model, part) for part in image.repeat(steps, 1, 1, 1).split(TUNED)
            ],
            "explainkit": ours("integrated_gradients", steps=steps),
            "captum": lambda: captum.IntegratedGradients(model).attribute(
                image, target=0, n_steps=steps, internal_batch_size=TUNED
            ),
        },
    )
    if tokens:
        window, stride = side * 2 // 7, side // 7
        yield f"occlusion, {window} every {stride}", {
            "bare": lambda: forwards(model, image, ((side - window) // stride + 1) ** 2 + 1),
            "explainkit": ours("occlusion", window=window, stride=stride),
            "captum": lambda: captum.Occlusion(model).attribute(
                image, (3, window, window), (3, stride, stride), target=0,
                perturbations_per_eval=TUNED,
            ),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--side", type=int, default=224, help="of the image")
    parser.add_argument("--steps", type=int, default=32, help="of integrated gradients")
    options = parse(parser, rounds=0, side=64, steps=2)
    print("| method | network | bare ms | explainkit ms | Captum ms | / bare | / Captum |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for title in options.only:
        try:
            model, image = prepare(NETWORKS[title], options.side)
        except ImportError as error:
            print(f"| | {title}: {error} | | | | | |")
            continue
        for method, calls in candidates(
            model, image, options.steps, tokens=title.startswith("ViT")
        ):
            seconds, failed = interleaved(calls, options.rounds)
            bare, mine = seconds["bare"], seconds["explainkit"]
            theirs = seconds.get("captum")
            there = failed["captum"] if theirs is None else f"{1000 * theirs:.1f}"
            ratio = "" if theirs is None else f"{mine / theirs:.2f}"
            print(
                f"| {method} | {title} | {1000 * bare:.1f} | {1000 * mine:.1f} | {there} "
                f"| {mine / bare:.2f} | {ratio} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
