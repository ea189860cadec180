"""Class-activation maps beside the passes they need, Captum, and pytorch-grad-cam.

pytorch-grad-cam imports OpenCV and torchvision; install it without its dependencies into an
environment of its own, with stand-ins for the names it imports, and run this file there. Without it
its rows are left out, which the output says.

One process, two threads, interleaved rounds, medians, a warm-up round dropped. "bare" is a forward
and the gradient to the layer; for the maps without gradients, a forward. The largest difference to
a peer is of maps scaled to [0, 1] per image as the peer scales them, up to the sign where the peer
leaves it open.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

import explainkit as ek
from explainkit_fer_hw3.models import build_cnn

LAYER = "15"
PEERS = {
    "gradcam": "GradCAM",
    "gradcam_plus_plus": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "elementwise_cam": "GradCAMElementWise",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "kpca_cam": "KPCA_CAM",
    "shapleycam": "ShapleyCAM",
}
FIVE = ["gradcam", "gradcam_plus_plus", "xgradcam", "layercam", "hirescam"]
WITHOUT_GRADIENT = ("eigencam", "kpca_cam")
HAS_PEER = importlib.util.find_spec("pytorch_grad_cam") is not None

Calls = dict[str, Callable[[], Any]]


def bare(model: nn.Module, images: Tensor, target: Tensor, *, gradient: bool = True) -> None:
    """A forward, and the gradient to the layer: what no gradient CAM can do without."""
    kept: list[Tensor] = []
    hook = model.get_submodule(LAYER).register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.set_grad_enabled(gradient):
        scores = model(images.clone().requires_grad_(gradient))
        if gradient:
            torch.autograd.grad(scores.gather(1, target[:, None]).sum(), kept[0])
    hook.remove()


def peer(name: str, model: nn.Module, images: Tensor, target: Tensor) -> Callable[[], Any]:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    made = getattr(pytorch_grad_cam, PEERS[name])(model, [model.get_submodule(LAYER)])
    targets = [ClassifierOutputTarget(int(label)) for label in target]
    return lambda: made(images, targets)


def candidates(model: nn.Module, images: Tensor, target: Tensor) -> dict[str, Calls]:
    def ours(methods: Any, **params: object) -> Callable[[], Any]:
        return lambda: ek.explain(model, images, target, methods, layer=LAYER, **params)

    found: dict[str, Calls] = {}
    for name in PEERS:
        gradient = name not in WITHOUT_GRADIENT
        found[name] = {
            "bare": lambda gradient=gradient: bare(model, images, target, gradient=gradient),
            "explainkit": ours(name),
        }
        if HAS_PEER:
            found[name]["grad-cam"] = peer(name, model, images, target)
    layer = captum.attr.LayerGradCam(model, model.get_submodule(LAYER))
    found["gradcam"]["captum"] = lambda: layer.attribute(images, target)
    five: Calls = {
        "bare": lambda: bare(model, images, target),
        "explainkit": ours(FIVE),
    }
    eight: Calls = {
        "bare": lambda: ek.explain(model, images, target, "saliency"),
        "explainkit": ours([*FIVE, "eigengradcam", "saliency", "input_x_gradient"]),
    }
    if HAS_PEER:
        calls = [found[name]["grad-cam"] for name in FIVE]
        five["grad-cam"] = lambda: [call() for call in calls]
    found["five gradient CAMs"] = five
    found["eight methods / dearest"] = eight
    for name in ("recipro_cam", "guided_gradcam"):
        found[name] = {"bare": lambda: bare(model, images, target)}
    found["recipro_cam"]["explainkit"] = ours("recipro_cam")
    found["guided_gradcam"]["explainkit"] = lambda: ek.explain(
        model, images, target, "guided_gradcam"
    )
    guided = captum.attr.GuidedGradCam(model, model.get_submodule(LAYER))
    leaf = images.clone().requires_grad_()
    found["guided_gradcam"]["captum"] = lambda: guided.attribute(leaf, target)
    return found


def scaled(maps: Tensor) -> Tensor:
    """To [0, 1] per image, after cutting to the positive part."""
    flat = maps.clamp(min=0).flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return (flat - low) / (high - low).clamp(min=1e-7)


def difference(name: str, calls: Calls) -> float | None:
    """Largest difference to pytorch-grad-cam's map; of an eigenvector's two signs, the nearer."""
    if "grad-cam" not in calls or name not in PEERS:
        return None
    ours = calls["explainkit"]().attribution
    theirs = torch.as_tensor(calls["grad-cam"]()).flatten(1)
    signs = (1, -1) if "eigen" in name or "kpca" in name else (1,)
    gaps = torch.stack([(scaled(sign * ours) - theirs).abs().amax(1) for sign in signs])
    return float(gaps.amin(0).max())


def prepare(batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    # Captum and pytorch-grad-cam compute the gradients of all weights unless they are frozen
    model = build_cnn().eval().requires_grad_(False)
    return model, torch.rand(batch, 1, 48, 48), torch.arange(batch) % 7


def seconds(calls: Calls, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for method, calls in candidates(*prepare(options.batch)).items():
        times = seconds(calls, options.rounds)
        gap = difference(method, calls)
        for name, value in times.items():
            rows.append(
                {
                    "method": method,
                    "what": name,
                    "ms_per_image": 1000 * value / options.batch,
                    "ratio_to_bare": value / times["bare"],
                    "largest_difference": gap if name == "grad-cam" else None,
                }
            )
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"batch {options.batch}, {options.rounds} interleaved rounds, torch {torch.__version__}")
    if not HAS_PEER:
        print("pytorch-grad-cam is not installed: its rows are left out")
    print(f"\n{'method':26}{'':12}{'ms/image':>10}{'/ bare':>9}{'difference':>12}")
    for row in rows:
        gap = row["largest_difference"]
        shown = "" if gap is None else f"{gap:.1e}"
        print(
            f"{row['method']:26}{row['what']:12}{row['ms_per_image']:10.2f}"
            f"{row['ratio_to_bare']:9.3f}{shown:>12}"
        )


if __name__ == "__main__":
    main()
