"""Ablation-CAM: how much the score drops without each channel."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.engine.batching import in_chunks
from explainkit.errors import MethodError
from explainkit.graph.backward import Operator
from explainkit.graph.operators import kind_of
from explainkit.graph.tape import RecordedForward, nodes_from, recording
from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, precise
from explainkit.methods.cam.gradient import weighted
from explainkit.methods.cam.layout import Layout, spatial_axes
from explainkit.methods.cam.suffix_scores import SuffixScores
from explainkit.progress import progress

AFFINE = frozenset({
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze", "unsqueeze",
    "expand", "permute", "transpose", "t", "select", "slice", "alias", "clone", "detach", "add",
    "sub", "rsub", "neg", "mul", "div", "mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d",
    "avg_pool3d", "_adaptive_avg_pool3d", "native_batch_norm", "convolution", "addmm", "mm",
})  # fmt: skip
"""Operators that are affine in one factor and have no mask or index, through which they could
depend on the layer's output unnoticed."""


@dataclass(frozen=True)
class AblationCAM(CAM):
    """Channels of a layer, weighted by how much the score drops without them.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = S_c − S_c(A without channel k)``, where a channel of the
    layer's output A is removed by setting it to 0 at all spatial positions; class and register
    tokens are left unchanged. In units of the score times the layer's output. The paper divides by
    the score, ``w_k = (S_c − S_c(A without k)) / S_c`` (``relative=True``), which flips the sign of
    the map if the score is negative and is undefined if it is 0. pytorch-grad-cam divides too, and
    sets the channel far below its minimum instead of 0 if A has negative values.

    Only the part of the model after the layer runs, once for each channel that is not 0 everywhere.
    If that part is affine (such as mean pooling and one linear layer), nothing runs: the drop is
    ``Σ_p ∂S_c/∂A[k, p] · A[k, p]`` exactly, and ``diagnostics["runs"]`` is 0.

    Attributes:
        relative: Divide by the score, as the paper does.
        layer: As in `GradCAM`, like all other fields.

    Raises:
        MethodError: ``relative=True``, and a score is 0.

    References:
        Desai and Ramaswamy (2020), "Ablation-CAM: Visual Explanations for Deep Convolutional
        Network via Gradient-free Localization", doi:10.1109/WACV45572.2020.9093360.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["residual"], 0, "ablation_cam", layer="stem")
        >>> e.attribution.shape, e.diagnostics["runs"].tolist(), e.diagnostics["channels"]
        (torch.Size([4, 1, 12, 10]), [6, 6, 6, 6], 6)
    """

    relative: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed; runs per image in diagnostics."""
        layers = self.layers(model, inputs)
        scale, warnings = self._scale(model, inputs, target)
        maps, channels = {}, 0
        runs = torch.zeros_like(target)
        for path in layers:
            after = SuffixScores(model, path, inputs)
            layout = self.layout(after.value, path, model, inputs)
            features = precise(layout.to_nchw(after.value))
            drops = _affine_drops(after, layout, target)
            if drops is None:
                active = (features != 0).flatten(2).any(2)
                drops = _drops(after, layout, target, active)
                runs += active.sum(1)
            maps[path] = layout, weighted(drops / scale[:, None], features)
            channels += features.shape[1]
        placed = self.placed(model, inputs, maps, warnings)
        return placed.saying(runs=runs, channels=channels)

    def _scale(self, model: nn.Module, inputs: Tensor, target: Tensor) -> tuple[Tensor, list[str]]:
        """The divisor of the drops, ``[batch]``, and a warning where it is negative."""
        score = precise(model(inputs).gather(1, target[:, None])[:, 0])
        if not self.relative:
            return torch.ones_like(score), []
        if not score.all():
            raise MethodError(
                "relative=True: expected scores to divide by, got a score of 0: use relative=False"
            )
        warning = (
            "the score is negative in some image, where relative=True flips the sign of the map: "
            "use relative=False"
        )
        return score, [] if (score > 0).all() else [warning]


def _affine_drops(after: SuffixScores, layout: Layout, target: Tensor) -> Tensor | None:
    """The score's drop without each channel, ``[batch, channel]``, if it is affine in them.

    Autograd's graph shows whether it is, except for parts that run detached. So the drops without
    half of the channels, and without all, are compared with the model's.
    """
    value = after.value.detach().requires_grad_()
    every = torch.arange(len(value), device=value.device)
    with torch.enable_grad(), recording() as tape:
        scores = after(value, every)
    if not _affine(RecordedForward(value, scores, tape.records)):
        return None
    chosen = torch.zeros_like(scores).scatter_(1, target[:, None], 1)
    (slope,) = torch.autograd.grad(scores, value, chosen)
    shares = precise(layout.to_nchw(slope)) * precise(layout.to_nchw(after.value))
    drops = shares.sum(spatial_axes(shares))
    clean = scores.gather(1, target[:, None])[:, 0]
    for step in (1, 2):
        without = after.value.clone()
        layout.to_nchw(without)[:, ::step] = 0
        found = clean - after(without, every).gather(1, target[:, None])[:, 0]
        expected = drops[:, ::step]
        room = 1e3 * torch.finfo(value.dtype).eps * (clean.abs() + expected.abs().sum(1))
        if not ((found - expected.sum(1)).abs() <= room).all():
            return None
    return drops


def _affine(trace: RecordedForward) -> bool:
    """Whether every operator between the traced values and the scores is affine in the values."""
    root = trace.scores.grad_fn
    if root is None:
        return False
    users = nodes_from(root)
    reached = False
    for node in users:
        if (leaf := getattr(node, "variable", None)) is not None:
            reached |= leaf is trace.inputs
            continue
        record = trace.record_of(node)
        if record is None or record.name not in AFFINE:
            return False
        if kind_of(Operator(record.name, node, record, users)) not in ("linear", "layer"):
            return False
    return reached


def _drops(after: SuffixScores, layout: Layout, target: Tensor, active: Tensor) -> Tensor:
    """The score's drop without each active channel, ``[batch, channel]``."""
    drops = torch.zeros(active.shape, dtype=precise(after.value).dtype, device=active.device)
    with progress("AblationCAM", int(active.sum()) + len(active)) as advance:
        for i, label in enumerate(target.tolist()):
            channels = active[i].nonzero()[:, 0]
            scores = _without(after, layout, i, label, channels, advance)
            drops[i, channels] = (scores[0] - scores[1:]).to(drops)
    return drops


def _without(
    after: SuffixScores,
    layout: Layout,
    index: int,
    label: int,
    channels: Tensor,
    advance: Callable[[int, str], None],
) -> Tensor:
    """An image's score as it is, and without each of the channels: float64 ``[1 + channels]``.

    The chunks depend only on that image, and the first run is like the others, so their common
    rounding errors cancel.
    """
    whole = after.value[index : index + 1]
    runs = torch.cat([channels.new_full((1,), -1), channels])

    def scores(part: slice) -> Tensor:
        which = runs[part]
        variants = whole.repeat(len(which), *[1] * (whole.dim() - 1))
        changed = (which >= 0).nonzero()[:, 0]
        layout.to_nchw(variants)[changed, which[changed]] = 0  # a view
        found: Tensor = after(variants, torch.full_like(which, index))[:, label]
        advance(len(which), "")
        return found.double()

    return in_chunks(scores, len(runs), after.chunk)
