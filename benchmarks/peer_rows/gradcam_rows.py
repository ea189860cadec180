"""Parity with pytorch-grad-cam 1.5.7: class activation maps.

It returns each image's map clipped to its positive part, scaled to [0, 1] and upsampled to the
image, in float32. Ours are raw, and are processed in the same way before they are compared.
"""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import explainkit as ek
from explainkit.interfaces import Attribution
from explainkit.methods.cam.gradient import GradCAM
from peer_rows.rows import LAST, Row, cnn, faces, images, predicted

CAMS = {
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
    "score_cam": "ScoreCAM",
    "ablation_cam": "AblationCAM",
}
FIELDS = {"score_cam": {"align_corners": True}, "ablation_cam": {"relative": True}}
NETWORKS = {"shapleycam": "CNN with tanh"}
NOTES = {
    "gradcam_plus_plus": "; the peer adds 1e-6 to the denominator",
    "xgradcam": "; the peer adds 1e-7 to the denominator",
    "eigencam": "; the peer's sign is arbitrary, the closer one was taken: ours follows Σ|A|",
    "eigengradcam": "; the peer's sign is arbitrary, the closer one was taken: ours follows "
    "HiResCAM",
    "score_cam": "; align_corners=True, as the peer upsamples its masks",
    "ablation_cam": "; relative=True, on a layer after ReLU: by default ours does not divide by "
    "the score, and it sets a channel to 0 on signed layers too",
    "kpca_cam": "; the peer's sign is arbitrary, the closer one was taken: ours follows Σ|A|",
}
READ = 33
"""Rows and columns of a face on which only positions that the score reads are interpolated."""
NORMALIZED = "relu=True, then scaled to [0, 1] per image as the peer does; ours are raw and signed"


def rows() -> list[Row]:
    """All maps on the small network, the most common ones on the trained network."""
    found = [
        Row(name, f"pytorch-grad-cam {peer}", NETWORKS.get(name, "CNN"),
            functools.partial(_cam, name), 1e-4, NORMALIZED + NOTES.get(name, ""))
        for name, peer in CAMS.items()
    ]  # fmt: skip
    for name in ("gradcam", "layercam", "hirescam", "eigencam"):
        compare = functools.partial(_cam, name, trained=True)
        how = NORMALIZED + NOTES.get(name, "") + "; on the part of the image that the score reads"
        found.append(Row(name, f"pytorch-grad-cam {CAMS[name]}", "fer_hw3/cnn", compare, 1e-4, how))
    found += [
        Row("finercam", "pytorch-grad-cam FinerCAM", "CNN", _finer, 1e-4,
            NORMALIZED + "; one similar class: with several, the peer also differentiates their "
            "probabilities, which ours treats as fixed weights"),
        Row("aug_smooth", "pytorch-grad-cam GradCAM, aug_smooth=True", "CNN", _augmented, 1e-4,
            "flips and factors 0.9, 1, 1.1 in both; with a base that scales each of the six maps "
            "to [0, 1] before their mean, as the peer does: ours averages raw maps"),
        Row("guided_backprop", "pytorch-grad-cam GuidedBackpropReLUModel", "CNN", _guided, 1e-5,
            "one image: the peer explains only the first of a batch"),
    ]  # fmt: skip
    return found


def scaled(maps: Tensor) -> Tensor:
    """Positive parts scaled to [0, 1] per image, ``[batch, height, width]``."""
    clipped = maps.double().clamp(min=0)[:, 0]
    low, high = clipped.amin((1, 2), keepdim=True), clipped.amax((1, 2), keepdim=True)
    return (clipped - low) / (high - low).clamp(min=1e-7)


def peer_map(
    name: str,
    model: Any,
    layer: str,
    x: Tensor,
    target: Tensor | None,
    *,
    called: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """The peer's map, for one target per image or for its default targets.

    ``options`` make its object, which is called with ``called``.
    Its object lives for this call only: it stores the layer's output in every forward of the model.
    """
    cams = importlib.import_module("pytorch_grad_cam")
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    chosen = None if target is None else [targets.ClassifierOutputTarget(int(t)) for t in target]
    layers = [] if name == "FullGrad" else [model.get_submodule(layer)]
    with getattr(cams, name)(model, layers, **options) as cam:
        # with frozen weights it finds no gradient unless the images require one, which its examples
        # do not ask for: it would also make a compiled model compile again, with the peer's hooks
        frozen = not any(weight.requires_grad for weight in model.parameters())
        found = torch.as_tensor(cam(x.clone().requires_grad_(frozen), chosen, **(called or {})))
        # its own cleanup fails on gradients that are views, which ShapleyCAM's may be
        cam.activations_and_grads.gradients.clear()
        return found.double()


def _cam(name: str, *, trained: bool = False) -> tuple[Tensor, Tensor]:
    model, x = faces() if trained else (cnn(curved=name == "shapleycam"), images())
    maps = compared(name, model, "15" if trained else LAST, x, predicted(model, x))
    if not trained:
        return maps
    # the network's score reads 4 × 4 of the layer's 5 × 5 positions; ours draws the others nowhere
    ours, theirs = (scaled(one[:, None, :READ, :READ]) for one in maps)
    return ours, theirs


def compared(name: str, model: Any, layer: str, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Our map, made comparable, and the peer's."""
    theirs = peer_map(CAMS[name], model, layer, x, target)
    signed = "eigen" in name or "kpca" in name
    layers = (
        {"layer": layer, "placement": "stretch"}
        | ({} if signed else {"relu": True})
        | FIELDS.get(name, {})
    )
    # the peer clips before it upsamples, so the sign must be chosen before
    candidates = []
    for turn in (1, -1) if signed else (1,):
        ours = _upsampled(name, model, x, target, layers, turn)
        candidates.append(scaled(ours))
    gaps = torch.stack([(one - theirs).abs().amax((1, 2)) for one in candidates])
    chosen = torch.stack(candidates)[gaps.argmin(0), torch.arange(len(x))]
    return chosen, theirs


def _upsampled(
    name: str, model: Any, x: Tensor, target: Tensor, fields: dict[str, Any], turn: int
) -> Tensor:
    if "relu" in fields:
        return ek.explain(model, x, target, name, **fields).attribution
    from explainkit.catalog.factories import load_method
    from explainkit.engine.passes import activations, gradients

    method: Any = load_method(name, **fields)
    layer = fields["layer"]
    if name == "eigengradcam":
        found = gradients(model, x, target, (layer,))
        small = method.combine(found.activations[layer], found.layers[layer])
    else:
        small = method.combine(activations(model, x, (layer,))[layer])
    clipped: Tensor = (turn * small).clamp(min=0)[:, None]
    return torch.nn.functional.interpolate(clipped, x.shape[2:], mode="bilinear")


def _finer() -> tuple[Tensor, Tensor]:
    cams = importlib.import_module("pytorch_grad_cam")
    model, x = cnn(), images()
    base = GradCAM(layer=LAST, relu=True, placement="stretch")
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "finercam", base=base, similar=1).attribution
    cam = cams.FinerCAM(model, [model.get_submodule(LAST)])
    return scaled(ours), torch.as_tensor(cam(x.clone(), comparison_categories=[1])).double()


@dataclass(frozen=True)
class _Scaled(GradCAM):
    """Grad-CAM as the peer returns it."""

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        found = super().__call__(model, inputs, target)
        return replace(found, values=scaled(found.values)[:, None].to(inputs.dtype))


def _augmented() -> tuple[Tensor, Tensor]:
    model, x = cnn(), images()
    target = predicted(model, x)
    base = _Scaled(layer=LAST, relu=True, placement="stretch")
    ours = ek.explain(model, x, target, "aug_smooth", base=base).attribution
    return ours[:, 0], peer_map("GradCAM", model, LAST, x, target, called={"aug_smooth": True})


def _guided() -> tuple[Tensor, Tensor]:
    cams = importlib.import_module("pytorch_grad_cam")
    model, x = cnn().float(), images(count=1).float()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "guided_backprop").attribution
    peer = cams.GuidedBackpropReLUModel(model, torch.device("cpu"))
    theirs = torch.as_tensor(peer(x.clone(), int(target)))
    return ours, theirs.permute(2, 0, 1)[None]
