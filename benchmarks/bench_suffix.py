"""Incremental recomputation: occlusion on boxes and CAMs on suffixes, against full runs.

Rounds are interleaved, a warm-up round is dropped and the median is reported; ours is the whole
public call, tracing included. The floor counts the multiply-adds inside the box that each window
affects, which every exact method needs; the bound is its inverse. ``bare`` runs the network on
every occluded image and does nothing else, in the default layout and in channels-last.
pytorch-grad-cam is measured where it is installed (`make peers`).
"""

import argparse
import time
from collections.abc import Callable

import torch
from memory import peak_mb, printed_by
from networks import mobilenet_v2, resnet50, vgg16
from peer_rows.gradcam_rows import CAMS, peer_map, scaled
from timing import Calls, Lazy, attempt, interleaved, parse
from torch import Tensor, nn

import explainkit as ek
from explainkit.graph.incremental.regions import Boxes, Span
from explainkit.graph.incremental.run import Variants, make_plan
from explainkit.methods.perturbation.windows import Windows
from explainkit_fer_hw3.models import build_cnn

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "FER CNN": (build_cnn, (1, 48, 48), 16),
    "VGG-16": (vgg16, (3, 224, 224), 16),
    "ResNet-50": (resnet50, (3, 224, 224), 4),
    "MobileNetV2": (mobilenet_v2, (3, 224, 224), 32),
}
"""Builder, image shape, and the batch size at which full runs are fastest."""

CASES = [
    ("FER CNN", 8, 4), ("FER CNN", 4, 2), ("VGG-16", 32, 16), ("ResNet-50", 32, 16),
    ("MobileNetV2", 32, 16),
]  # fmt: skip
SMOKE = [("FER CNN", 24, 24)]

captum = Lazy("captum.attr")


def prepare(name: str) -> tuple[nn.Module, Tensor, int]:
    torch.manual_seed(0)
    build, shape, batch = NETWORKS[name]
    return build().eval().requires_grad_(False), torch.randn(1, *shape), batch


def occluded(image: Tensor, windows: Windows) -> Tensor:
    copies = image.repeat(len(windows), 1, 1, 1)
    for copy, (top, left, bottom, right) in zip(copies, windows.boxes(), strict=True):
        copy[:, top:bottom, left:right] = 0
    return copies


def bare(
    model: nn.Module, image: Tensor, windows: Windows, batch: int, layout: torch.memory_format
) -> Tensor:
    with torch.inference_mode():
        images = occluded(image, windows).split(batch)
        return torch.cat([model(part.contiguous(memory_format=layout)) for part in images])


def floor(model: nn.Module, image: Tensor, windows: Windows) -> float:
    """The share of multiply-adds left when only the box of each window is recomputed."""
    network = Variants(model, image[0])._network
    left = whole = 0.0
    for top, left_, bottom, right in windows.boxes():
        rows = Span(torch.tensor([top]), bottom - top)
        columns = Span(torch.tensor([left_]), right - left_)
        boxes = make_plan(network, Boxes(rows, columns)).boxes
        for step in network.steps:
            for action in step.actions:
                # the global means at the end have no box
                if action.result in boxes and step.work.operations:
                    sources = [boxes[source] for source in action.sources]
                    left += action.operator.work(sources, boxes[action.result]).operations
                    whole += step.work.operations
    return left / whole


def candidates(name: str, window: int, stride: int) -> Calls:
    model, image, batch = prepare(name)
    windows = Windows(image.shape[2:], (window, window), (stride, stride))
    sliding = {"window": window, "stride": stride}
    channels = image.shape[1]
    return {
        "bare": lambda: bare(model, image, windows, batch, torch.contiguous_format),
        "bare, channels last": lambda: bare(model, image, windows, batch, torch.channels_last),
        "captum tuned": lambda: captum.Occlusion(model).attribute(
            image, (channels, window, window), (channels, stride, stride), target=0,
            perturbations_per_eval=batch,
        ),
        "explainkit": lambda: ek.explain(model, image, 0, "occlusion", **sliding),
    }  # fmt: skip


def peak(name: str, window: int, stride: int, what: str) -> float:
    """Megabytes above the level before the call, in this fresh process."""
    call = candidates(name, window, stride)[what]
    small = candidates("FER CNN", 24, 24)
    for candidate, warm in small.items():
        attempt(candidate, warm)  # imports are not the method's memory
    model, image, _ = prepare(name)
    model(image)
    before = peak_mb()
    call()
    return peak_mb() - before


def difference(name: str, window: int, stride: int) -> float:
    """Largest difference between our scores and full runs, relative to the largest score."""
    model, image, batch = prepare(name)
    windows = Windows(image.shape[2:], (window, window), (stride, stride))
    expected = bare(model, image, windows, batch, torch.contiguous_format)
    corners = torch.tensor(windows.boxes())[:, :2]
    patches = image.new_zeros(len(corners), image.shape[1], window, window)
    found = Variants(model, image[0]).run(corners, patches)
    return float((found - expected).abs().max() / expected.abs().max())


def occlusion(name: str, window: int, stride: int, rounds: int, *, smoke: bool) -> None:
    model, image, _ = prepare(name)
    windows = Windows(image.shape[2:], (window, window), (stride, stride))
    share = floor(model, image, windows)
    times, failed = interleaved(candidates(name, window, stride), rounds)
    print(
        f"\n{name}, window {window}, stride {stride}: {len(windows)} windows, floor {share:.3f} "
        f"(bound {1 / share:.1f}), largest difference {difference(name, window, stride):.1e}"
    )
    for what, value in times.items():
        print(f"  {what:22}{value:9.3f} s{times['bare'] / value:8.2f} x", end="")
        if not smoke or what == "bare":  # a process for each call takes seconds
            flags = ["--smoke"] if smoke else []
            memory = printed_by(__file__, *flags, "--peak", name, window, stride, what)
            print(f"{memory:9.0f} MB peak", end="")
        print()
    for what, why in failed.items():
        print(f"  {what:22}  {why}")


def beside_peer(method: str, model: nn.Module, images: Tensor, ours: float, **fields: bool) -> None:
    """One call of pytorch-grad-cam, which is too slow here for more."""

    def compare() -> None:
        # clipped before it is upsampled, as in the peer
        found = ek.explain(model, images, 0, method, relu=True, placement="stretch", **fields)
        assert found.layer is not None
        target = torch.zeros(len(images), dtype=torch.int64)
        start = time.perf_counter()
        theirs = peer_map(CAMS[method], model, found.layer, images, target)
        seconds = time.perf_counter() - start
        gap = float((scaled(found.attribution) - theirs).abs().max())
        print(
            f"  grad-cam, one call: {seconds:.2f} s ({seconds / ours:.1f} x), largest "
            f"difference of the scaled maps {gap:.1e}"
        )

    if why := attempt("grad-cam", compare):
        print(f"  grad-cam: {why}")


def ablation(name: str, count: int, rounds: int) -> None:
    """Every channel of the layer before the pooling set to zero in turn."""
    model, image, batch = prepare(name)
    images = torch.randn(count, *image.shape[1:])
    found = ek.explain(model, images, 0, "ablation_cam")

    def forward() -> None:
        with torch.inference_mode():
            model(image.repeat(batch, 1, 1, 1))

    times, _ = interleaved(
        {"ours": lambda: ek.explain(model, images, 0, "ablation_cam"), "forward": forward}, rounds
    )
    channels, runs = found.diagnostics["channels"], int(found.diagnostics["runs"].sum())
    full = times["forward"] / batch * channels * count
    print(
        f"\n{name}, Ablation-CAM, {channels} channels of layer {found.layer!r}, {count} images: "
        f"{times['ours']:.3f} s with {runs} runs of the suffix, {full:.2f} s of bare "
        f"forwards ({full / times['ours']:.0f} x)"
    )
    beside_peer("ablation_cam", model, images, times["ours"], relative=True)


def score_cam(layer: str | None, rounds: int) -> None:
    """The trained FER CNN, whose layers have dead channels, on a synthetic face."""
    model = ek.load_model("fer_hw3/cnn").requires_grad_(False)
    image = ek.load_dataset("fer_hw3/synthetic", split="all").images[:1]
    found = ek.explain(model, image, 0, "score_cam", layer=layer)
    channels, runs = found.diagnostics["channels"], int(found.diagnostics["runs"])
    masked = image * torch.rand(runs, 1, *image.shape[2:])

    def forwards() -> None:
        with torch.inference_mode():
            for part in masked.split(64):
                model(part)

    times, _ = interleaved(
        {
            "ours": lambda: ek.explain(model, image, 0, "score_cam", layer=layer),
            "forwards": forwards,
        },
        rounds,
    )
    print(
        f"\nFER CNN, Score-CAM, {runs} distinct of {channels} channels of layer {found.layer!r}: "
        f"{times['ours']:.3f} s, {times['ours'] / times['forwards']:.3f} x their bare forwards, "
        f"{times['ours'] / times['forwards'] * runs / channels:.3f} x the forwards of all channels"
    )
    beside_peer("score_cam", model, image, times["ours"], align_corners=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--cams", action="store_true", help="skip occlusion")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parse(parser, rounds=0, only=["FER CNN"])
    if options.peak:
        name, window, stride, what = options.peak
        print(peak(name, int(window), int(stride), what))
        return
    threads = torch.get_num_threads()
    print(f"{options.rounds} interleaved rounds, {threads} threads, torch {torch.__version__}")
    for name, window, stride in SMOKE if options.smoke else CASES:
        if name in options.only and not options.cams:
            occlusion(name, window, stride, options.rounds, smoke=options.smoke)
    if "FER CNN" in options.only:
        ablation("FER CNN", 1 if options.smoke else 4, options.rounds)
        score_cam("1" if options.smoke else None, options.rounds)  # a layer of few channels
    print(f"peak of the process {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
