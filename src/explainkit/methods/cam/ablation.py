"""Ablation-CAM: what the score loses without each channel."""

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
from explainkit.methods.cam.base import CAM, layers_of, precise, unwrapped
from explainkit.methods.cam.gradient import weighted
from explainkit.methods.cam.layout import Layout
from explainkit.methods.cam.suffix_scores import SuffixScores
from explainkit.progress import progress

AFFINE = frozenset({
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze", "unsqueeze",
    "expand", "permute", "transpose", "t", "select", "slice", "alias", "clone", "detach", "add",
    "sub", "rsub", "neg", "mul", "div", "mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d",
    "native_batch_norm", "convolution", "addmm", "mm",
})  # fmt: skip
"""Operators that are affine in one factor, and have neither mask nor index: those could depend on
the layer's output unseen."""


@dataclass(frozen=True)
class AblationCAM(CAM):
    """Channels weighted by what the score loses without them.

    ``L[p] = Σ_k w_k A[k, p]`` with ``w_k = S_c − S_c(A without channel k)``, where a channel of the
    layer's output A is taken away by setting it to 0 at all places; class and register tokens are
    kept. In units of the score times the layer's output. The paper divides by the score,
    ``w_k = (S_c − S_c(A without k)) / S_c`` (``relative=True``), which turns the map's sign where
    the score is negative and has no value where it is 0. pytorch-grad-cam, which divides too, sets
    a channel far below its minimum instead where A has negative values.

    Only the part of the model after the layer runs, once for each channel that is not 0 everywhere.
    Where that part is affine (mean pooling and one linear layer, say), nothing runs: the loss is
    ``Σ_p ∂S_c/∂A[k, p] · A[k, p]`` exactly, and ``diagnostics["runs"]`` is 0.

    Attributes:
        relative: Divide by the score, as the paper does.
        layer: As in `GradCAM`, like all other fields.

    Raises:
        MethodError: The score that is to be divided by is 0.

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
        layers = layers_of(self.layer, unwrapped(model), inputs)
        scale, remarks = self._scale(model, inputs, target)
        maps, channels = [], 0
        runs = torch.zeros_like(target)
        for path in layers:
            after = SuffixScores(model, path, inputs)
            layout = self.layout(after.value, path, model, inputs)
            features = precise(layout.to_nchw(after.value))
            losses = _affine_losses(after, layout, target)
            if losses is None:
                alive = (features != 0).flatten(2).any(2)
                losses = _losses(after, layout, target, alive)
                runs += alive.sum(1)
            maps.append(weighted(losses / scale[:, None], features))
            channels += features.shape[1]
        upsampled = self.upsampled(maps, layers, inputs, remarks)
        return upsampled.saying(runs=runs, channels=channels)

    def _scale(self, model: nn.Module, inputs: Tensor, target: Tensor) -> tuple[Tensor, list[str]]:
        """What the losses are divided by, ``[batch]``, and what a reader must know of it."""
        score = precise(model(inputs).gather(1, target[:, None])[:, 0])
        if not self.relative:
            return torch.ones_like(score), []
        if not score.all():
            raise MethodError(
                "relative=True: expected scores to divide by, got a score of 0: use relative=False"
            )
        if (score > 0).all():
            return score, []
        remark = (
            "the score is negative in some image, where relative=True turns the sign of the map: "
            "use relative=False"
        )
        return score, [remark]


def _affine_losses(after: SuffixScores, layout: Layout, target: Tensor) -> Tensor | None:
    """What the score loses without each channel, ``[batch, channel]``, where it is affine in them.

    Autograd's record says whether it is. It doesn't see what runs detached; so the loss of half of
    the channels, and of all, is compared with the model's.
    """
    value = after.value.detach().requires_grad_()
    every = torch.arange(len(value), device=value.device)
    with torch.enable_grad(), recording() as tape:
        scores = after(value, every)
    if not _affine(RecordedForward(value, scores, tape.records)):
        return None
    chosen = torch.zeros_like(scores).scatter_(1, target[:, None], 1)
    (slope,) = torch.autograd.grad(scores, value, chosen)
    losses = (precise(layout.to_nchw(slope)) * precise(layout.to_nchw(after.value))).sum((2, 3))
    clean = scores.gather(1, target[:, None])[:, 0]
    for step in (1, 2):
        without = after.value.clone()
        layout.to_nchw(without)[:, ::step] = 0
        found = clean - after(without, every).gather(1, target[:, None])[:, 0]
        expected = losses[:, ::step]
        room = 1e3 * torch.finfo(value.dtype).eps * (clean.abs() + expected.abs().sum(1))
        if not ((found - expected.sum(1)).abs() <= room).all():
            return None
    return losses


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


def _losses(after: SuffixScores, layout: Layout, target: Tensor, alive: Tensor) -> Tensor:
    """What the score loses without each channel that is alive, ``[batch, channel]``."""
    losses = torch.zeros(alive.shape, dtype=precise(after.value).dtype, device=alive.device)
    with progress("AblationCAM", int(alive.sum()) + len(alive)) as advance:
        for i, label in enumerate(target.tolist()):
            channels = alive[i].nonzero()[:, 0]
            scores = _without(after, layout, i, label, channels, advance)
            losses[i, channels] = (scores[0] - scores[1:]).to(losses)
    return losses


def _without(
    after: SuffixScores,
    layout: Layout,
    index: int,
    label: int,
    channels: Tensor,
    advance: Callable[[int, str], None],
) -> Tensor:
    """An image's score as it is, and without each of the channels: float64 ``[1 + channels]``.

    The chunks depend on nothing but that image, and the first run is like the others, so that the
    rounding that they share cancels.
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
