"""Class activation maps compared with the passes they need, Captum and pytorch-grad-cam.

pytorch-grad-cam is measured where it is installed (`make peers`).

One process, two threads, interleaved rounds, medians, a warm-up round dropped. "bare" is a forward
and the gradient with respect to the layer; for maps without gradients, a forward; for FullGrad, the
gradient with respect to the image too. Eight methods in one call are compared with the slowest of
them alone. The largest difference to a peer is between maps made comparable as in the parity table;
pytorch-grad-cam's FullGrad normalizes every channel before it sums them, so no difference is given
there. Maps with one weight for each channel differ by design: their last row and column are never
read by the score, and explainkit draws nothing there. Model and images are the trained FER CNN and
synthetic faces.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from memory import peak_mb
from peer_rows.gradcam_rows import CAMS, compared, peer_map
from peer_rows.rows import faces, predicted
from timing import Calls, Lazy, interleaved, parse
from torch import Tensor, nn

import explainkit as ek

LAYER = "15"
PEERS = {name: peer for name, peer in CAMS.items() if name not in ("score_cam", "ablation_cam")}
FIVE = ["gradcam", "gradcam_plus_plus", "xgradcam", "layercam", "hirescam"]
EIGHT = [*FIVE, "eigengradcam", "saliency", "input_x_gradient"]
WITHOUT_GRADIENT = ("eigencam", "kpca_cam")
TOGETHER = "together"

captum = Lazy("captum.attr")


def bare(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    *,
    gradient: bool = True,
    image: bool = False,
) -> None:
    """A forward and the gradient with respect to the layer, which every gradient CAM needs."""
    outputs: list[Tensor] = []
    hook = model.get_submodule(LAYER).register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.set_grad_enabled(gradient):
        leaf = images.clone().requires_grad_(gradient)
        scores = model(leaf)
        if gradient:
            score = scores.gather(1, target[:, None]).sum()
            torch.autograd.grad(score, [outputs[0], *([leaf] if image else [])])
    hook.remove()


def candidates(model: nn.Module, images: Tensor, target: Tensor) -> dict[str, Calls]:
    def ours(methods: Any, **params: object) -> Callable[[], Any]:
        return lambda: ek.explain(model, images, target, methods, **params)

    found: dict[str, Calls] = {}
    for name, peer in PEERS.items():
        gradient = name not in WITHOUT_GRADIENT
        found[name] = {
            "bare": lambda gradient=gradient: bare(model, images, target, gradient=gradient),
            "explainkit": ours(name, layer=LAYER),
            "grad-cam": lambda peer=peer: peer_map(peer, model, LAYER, images, target),
        }
    layer = model.get_submodule(LAYER)
    found["gradcam"]["captum"] = lambda: captum.LayerGradCam(model, layer).attribute(images, target)
    found["five gradient CAMs"] = {
        "bare": lambda: bare(model, images, target),
        "explainkit": ours(FIVE, layer=LAYER),
        "grad-cam": lambda: [peer_map(PEERS[name], model, LAYER, images, target) for name in FIVE],
    }
    found["full_gradient"] = {
        "bare": lambda: bare(model, images, target, image=True),
        "explainkit": ours("full_gradient"),
        "grad-cam": lambda: peer_map("FullGrad", model, LAYER, images, target),
    }
    found["eight methods"] = {
        name: ours(name) if name in EIGHT[-2:] else ours(name, layer=LAYER) for name in EIGHT
    } | {TOGETHER: ours(EIGHT, layer=LAYER)}
    found["recipro_cam"] = {
        "bare": lambda: bare(model, images, target, gradient=False),
        "explainkit": ours("recipro_cam", layer=LAYER),
    }
    found["guided_gradcam"] = {
        "bare": lambda: bare(model, images, target),
        "explainkit": ours("guided_gradcam"),
        "captum": lambda: captum.GuidedGradCam(model, layer).attribute(images, target),
    }
    return found


def prepare(batch: int, *, trainable: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
    # Captum and pytorch-grad-cam compute the gradients of all weights unless they are frozen
    model, images = faces(batch)
    return model.requires_grad_(trainable), images, predicted(model, images)


def difference(name: str, batch: int) -> float:
    """Largest difference to pytorch-grad-cam's map."""
    model, images, target = prepare(batch)
    ours, theirs = compared(name, model, LAYER, images, target)
    return float((ours - theirs).abs().max())


def measured(method: str, calls: Calls, batch: int, rounds: int) -> list[dict[str, Any]]:
    times, failed = interleaved(calls, rounds)
    gap = difference(method, batch) if "grad-cam" in times and method in PEERS else None
    slowest = max(value for name, value in times.items() if name != TOGETHER)
    base = times.get("bare", slowest)
    rows = [
        {
            "method": method,
            "what": name,
            "ms_per_image": 1000 * value / batch,
            "ratio": value / base,
            "largest_difference": gap if name == "grad-cam" else None,
        }
        for name, value in times.items()
    ]
    return rows + [{"method": method, "what": name, "failed": why} for name, why in failed.items()]


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        head = f"{row['method']:22}{row['what']:19}"
        if "failed" in row:
            print(f"{head}  {row['failed']}", flush=True)
            continue
        gap = row["largest_difference"]
        shown = "" if gap is None else f"{gap:.1e}"
        print(f"{head}{row['ms_per_image']:10.2f}{row['ratio']:9.3f}{shown:>12}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="methods; all by default")
    parser.add_argument(
        "--trainable", action="store_true", help="do not freeze the weights, which the peers prefer"
    )
    parser.add_argument("--json", action="store_true")
    options = parse(parser, batch=2, rounds=0)
    if not options.json:
        print(
            f"batch {options.batch}, weights {'trainable' if options.trainable else 'frozen'}, "
            f"{options.rounds} interleaved rounds, torch {torch.__version__}"
        )
        print(f"\n{'method':22}{'':19}{'ms/image':>10}{'/ bare':>9}{'difference':>12}")
    table = []
    for method, calls in candidates(*prepare(options.batch, trainable=options.trainable)).items():
        if options.only and method not in options.only:
            continue
        rows = measured(method, calls, options.batch, options.rounds)
        table += rows
        if not options.json:
            print_rows(rows)
    if options.json:
        print(json.dumps(table, indent=2))
    else:
        print(f"\neight methods: / the slowest alone; peak of the process {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
