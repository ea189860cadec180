"""pytorch-grad-cam 1.5.7 beside ours: class-activation maps.

It gives each image's map cut to its positive part and scaled to [0, 1], as large as the image, in
float32. Ours are raw, and are brought to the same before they are compared.
"""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

import explainkit as ek
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
    "eigencam": "; its sign is left open, the nearer of both was taken: ours follows Σ|A|",
    "eigengradcam": "; its sign is left open, the nearer of both was taken: ours follows HiResCAM",
    "score_cam": "; align_corners=True, as the peer enlarges its masks",
    "ablation_cam": "; relative=True, a rectified layer: ours does not divide by the score by "
    "default, and sets a channel to 0 also where the layer is signed",
    "kpca_cam": "; its sign is left open, the nearer of both was taken: ours follows Σ|A|",
}
NORMALISED = "relu=True, then scaled to [0, 1] per image as the peer does; ours are raw and signed"


def rows() -> list[Row]:
    """All maps on the small network, the commonest on the trained one."""
    found = [
        Row(name, f"pytorch-grad-cam {peer}", NETWORKS.get(name, "CNN"),
            functools.partial(_cam, name), 1e-4, NORMALISED + NOTES.get(name, ""))
        for name, peer in CAMS.items()
    ]  # fmt: skip
    for name in ("gradcam", "layercam", "hirescam", "eigencam"):
        compare = functools.partial(_cam, name, trained=True)
        how = NORMALISED + NOTES.get(name, "")
        found.append(Row(name, f"pytorch-grad-cam {CAMS[name]}", "fer_hw3/cnn", compare, 1e-4, how))
    found += [
        Row("finercam", "pytorch-grad-cam FinerCAM", "CNN", _finer, 1e-4,
            NORMALISED + "; one similar class: of several, the peer also differentiates their "
            "probabilities, which ours takes as fixed weights"),
        Row("guided_backprop", "pytorch-grad-cam GuidedBackpropReLUModel", "CNN", _guided, 1e-5,
            "one image: the peer explains the first of a batch only"),
    ]  # fmt: skip
    return found


def scaled(maps: Tensor) -> Tensor:
    """Positive parts to [0, 1] per image, ``[batch, height, width]``."""
    cut = maps.double().clamp(min=0)[:, 0]
    low, high = cut.amin((1, 2), keepdim=True), cut.amax((1, 2), keepdim=True)
    return (cut - low) / (high - low).clamp(min=1e-7)


def peer_map(
    name: str, model: Any, layer: str, x: Tensor, target: Tensor | None, **options: Any
) -> Tensor:
    """The peer's map; one target per image, or its own choice.

    Its object lives for this call only: while there is one, it keeps what the layer puts out in
    every forward of the model, whoever runs it.
    """
    cams = importlib.import_module("pytorch_grad_cam")
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    chosen = None if target is None else [targets.ClassifierOutputTarget(int(t)) for t in target]
    layers = [] if name == "FullGrad" else [model.get_submodule(layer)]
    with getattr(cams, name)(model, layers, **options) as cam:
        # where the weights are frozen it finds no gradient unless the images want one
        found = torch.as_tensor(cam(x.clone().requires_grad_(), chosen)).double()
        # its own release fails on gradients that are views, which ShapleyCAM's may be
        cam.activations_and_grads.gradients.clear()
        return found


def _cam(name: str, *, trained: bool = False) -> tuple[Tensor, Tensor]:
    model, x = faces() if trained else (cnn(curved=name == "shapleycam"), images())
    return beside(name, model, "15" if trained else LAST, x, predicted(model, x))


def beside(name: str, model: Any, layer: str, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Our map, made comparable, and the peer's."""
    theirs = peer_map(CAMS[name], model, layer, x, target)
    signed = "eigen" in name or "kpca" in name
    layers = {"layer": layer} | ({} if signed else {"relu": True}) | FIELDS.get(name, {})
    # it cuts before it enlarges, and the sign must be known before that
    candidates = []
    for turn in (1, -1) if signed else (1,):
        ours = _enlarged(name, model, x, target, layers, turn)
        candidates.append(scaled(ours))
    gaps = torch.stack([(one - theirs).abs().amax((1, 2)) for one in candidates])
    chosen = torch.stack(candidates)[gaps.argmin(0), torch.arange(len(x))]
    return chosen, theirs


def _enlarged(
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
    cut: Tensor = (turn * small).clamp(min=0)[:, None]
    return torch.nn.functional.interpolate(cut, x.shape[2:], mode="bilinear")


def _finer() -> tuple[Tensor, Tensor]:
    from explainkit.methods.cam.gradient import GradCAM

    cams = importlib.import_module("pytorch_grad_cam")
    model, x = cnn(), images()
    target, base = predicted(model, x), GradCAM(layer=LAST, relu=True)
    ours = ek.explain(model, x, target, "finercam", base=base, similar=1).attribution
    cam = cams.FinerCAM(model, [model.get_submodule(LAST)])
    return scaled(ours), torch.as_tensor(cam(x.clone(), comparison_categories=[1])).double()


def _guided() -> tuple[Tensor, Tensor]:
    cams = importlib.import_module("pytorch_grad_cam")
    model, x = cnn().float(), images(count=1).float()
    target = predicted(model, x)
    ours = ek.explain(model, x, target, "guided_backprop").attribution
    peer = cams.GuidedBackpropReLUModel(model, torch.device("cpu"))
    theirs = torch.as_tensor(peer(x.clone(), int(target)))
    return ours, theirs.permute(2, 0, 1)[None]
