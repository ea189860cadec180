"""From a JPEG to a saved Grad-CAM overlay: lines of code and seconds, beside two other libraries.

Every candidate is the code that a user types, run as it stands: ResNet-50 of torchvision and the
preprocessing of its weights, which cuts off the borders of a photo. Lines are those of code,
imports included. Seconds are those of the whole code less the time to load the model and less one
forward pass. Weights are random, in place of the download.

The examples of torch-cam and pytorch-grad-cam stretch the map of the crop over the whole photo; the
second variant of each carries it back to where it belongs. "off by" is the distance between the
two, at most, in pixels of the photo. The command also draws a figure with the probabilities.

One process, two threads, interleaved rounds, medians, a warm-up round dropped.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import third_party
import torch
from PIL import Image
from timing import interleaved, parse
from torch import nn

import explainkit as ek
from explainkit.cli.app import app

MODEL = "torchvision:resnet50"
COMMAND = f"explainkit explain photo.jpg --model {MODEL}"

OURS = f"""
import explainkit as ek
ek.explain("{MODEL}", "photo.jpg", method="gradcam").overlays()[0].save("overlay.png")
"""

TORCH_CAM = """
from PIL import Image
from torchcam.explain import explain
from torchvision.models import ResNet50_Weights, resnet50
weights = ResNet50_Weights.DEFAULT
model = resnet50(weights=weights).eval()
image = Image.open("photo.jpg").convert("RGB")
found = explain(model, weights.transforms()(image)[None], class_names=weights.meta["categories"])
found.save("torch-cam", image)
"""

BACK = """
width, height = image.size
scale = 232 / min(width, height)
wide, high = int(width * scale), int(height * scale)
left, top = round((wide - 224) / 2), round((high - 224) / 2)
canvas = np.zeros((high, wide), np.float32)
canvas[top:top + 224, left:left + 224] = crop
canvas = np.asarray(Image.fromarray(canvas).resize((width, height), Image.Resampling.BILINEAR))
"""
"""Undoes the resize and the crop of a map."""

TORCH_CAM_BACK = f"""
import numpy as np
from PIL import Image
from torchcam.explain import explain
from torchcam.utils import overlay_mask
from torchvision.models import ResNet50_Weights, resnet50
weights = ResNet50_Weights.DEFAULT
model = resnet50(weights=weights).eval()
image = Image.open("photo.jpg").convert("RGB")
found = explain(model, weights.transforms()(image)[None])
small = Image.fromarray(found.cams[found.predicted_class_idx][0].numpy())
crop = np.asarray(small.resize((224, 224), Image.Resampling.BILINEAR))
{BACK}
overlay_mask(image, Image.fromarray(canvas), alpha=0.5).save("overlay.png")
"""

GRAD_CAM = """
import numpy as np
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from torchvision.models import ResNet50_Weights, resnet50
weights = ResNet50_Weights.DEFAULT
model = resnet50(weights=weights).eval()
image = Image.open("photo.jpg").convert("RGB")
with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:
    crop = cam(weights.transforms()(image)[None], targets=None)[0]
small = np.float32(image.resize((224, 224))) / 255
Image.fromarray(show_cam_on_image(small, crop, use_rgb=True)).save("overlay.png")
"""

GRAD_CAM_BACK = (
    GRAD_CAM.partition("small =")[0]
    + BACK
    + """
rgb = np.float32(image) / 255
Image.fromarray(show_cam_on_image(rgb, canvas, use_rgb=True)).save("overlay.png")
"""
)

SNIPPETS = {
    "torch-cam (its example)": TORCH_CAM,
    "torch-cam (carried back)": TORCH_CAM_BACK,
    "grad-cam (its example)": GRAD_CAM,
    "grad-cam (carried back)": GRAD_CAM_BACK,
    "explainkit in Python": OURS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photo", default="4032x3024", help="width x height of the photo")
    options = parse(parser, rounds=0, photo="320x240")
    width, height = map(int, options.photo.split("x"))
    models = third_party.library("torchvision").models
    weights = models.ResNet50_Weights.DEFAULT
    give_random_weights(models, weights)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Image.fromarray(photo(width, height)).save("photo.jpg", quality=92)
        calls = {name: run(text) for name, text in SNIPPETS.items()}
        calls["explainkit in a shell"] = shell
        seconds, failed = interleaved(calls, options.rounds)
        model = models.resnet50(weights=weights).eval()
        image = weights.transforms()(Image.open("photo.jpg"))[None]
        times = {
            "load": median(lambda: models.resnet50(weights=weights).eval(), options.rounds),
            "forward": median(lambda: forward(model, image), options.rounds),
        }
    show(seconds, failed, times, stretched(width, height), (width, height))


def shell() -> None:
    with redirect_stdout(io.StringIO()):
        app(COMMAND.split()[1:], standalone_mode=False)


def give_random_weights(models: Any, weights: Any) -> None:
    """Lets torchvision load random weights where it would download trained ones."""
    torch.manual_seed(0)
    state = models.resnet50(weights=None).state_dict()
    type(weights).get_state_dict = lambda _self, *_args, **_kwargs: state


def photo(width: int, height: int) -> Any:
    """Clouds of color: as large as a photo when compressed, unlike plain noise."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        nn.functional.interpolate(
            torch.rand(1, 3, 3 * side, 4 * side, generator=generator), (height, width),
            mode="bicubic",
        )[0] / side
        for side in (1, 4, 16, 64)
    ]  # fmt: skip
    image = torch.stack(layers).sum(0)
    image = (image - image.min()) / (image.max() - image.min())
    return (255 * image).byte().permute(1, 2, 0).numpy()


def run(text: str) -> Callable[[], None]:
    """Runs code as a script of its own."""
    code = compile(text, "<example>", "exec")

    def call() -> None:
        if Path("torch-cam").exists():
            for file in Path("torch-cam").iterdir():
                file.unlink()
            Path("torch-cam").rmdir()  # torch-cam refuses a folder that exists
        exec(code, {})  # the code above

    return call


def forward(model: nn.Module, image: torch.Tensor) -> None:
    with torch.no_grad():
        model(image)


def median(call: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def stretched(width: int, height: int) -> float:
    """How far a map of the crop is off when it is stretched over the whole photo, in pixels."""
    image = Image.new("RGB", (width, height))
    spec: Any = ek.load_model(MODEL).explainkit_spec
    _, geometry = spec.preprocessing(image)
    seen = geometry.seen().nonzero()
    first, last = seen.min(0).values, seen.max(0).values + 1
    far = max(*first.tolist(), height - int(last[0]), width - int(last[1]))
    return float(far)


def lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def show(
    seconds: dict[str, float],
    failed: dict[str, str],
    times: dict[str, float],
    off: float,
    size: tuple[int, int],
) -> None:
    base = sum(times.values())
    print(
        f"A photo of {size[0]} × {size[1]} pixels; the model loads in {times['load']:.2f} s and "
        f"runs in {times['forward']:.2f} s.\n"
    )
    print("| | lines | seconds beyond load and forward | the overlay | off by |")
    print("|---|---:|---:|---|---:|")
    for name in (*SNIPPETS, "explainkit in a shell"):
        count = lines(SNIPPETS.get(name, COMMAND))
        small = name == "grad-cam (its example)"
        where = "224 × 224" if small else "the original"
        wrong = f"{off:.0f} px" if "example" in name else "0"
        told = failed.get(name) or f"{seconds[name] - base:.2f}"
        print(f"| {name} | {count} | {told} | {where} | {wrong} |")


if __name__ == "__main__":
    main()
