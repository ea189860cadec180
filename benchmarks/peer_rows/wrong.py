"""Networks small enough to be explained by hand, on which a peer is wrong.

Every image has one row. Each model's docstring derives the truth.
"""

import importlib
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
import torch.nn.functional as F
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn

import explainkit as ek
from peer_rows.gradcam_rows import peer_map, scaled
from peer_rows.rows import LAST, Fault, cnn, images
from peer_rows.zennit_rows import through

GUIDED = "functional ReLU: guided backprop of 2 max(x, 0) − max(x, 0) at x = 2"
RESIDUAL = "residual sum: ε-LRP of x + max(2 x, 0) at x = 1, no biases"


class Rectify(nn.Module):
    """A ReLU as a function, as a module, or in place."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.module = nn.ReLU(inplace=how == "in place") if how != "functional" else None

    def forward(self, x: Tensor) -> Tensor:
        """``max(x, 0)``."""
        return F.relu(x) if self.module is None else self.module(x)


class TwoUnits(nn.Module):
    """``2 max(x, 0) − max(x, 0)``: of the gradients 2 and −1, guided backprop keeps 2."""

    def __init__(self, how: str = "functional") -> None:
        super().__init__()
        self.first, self.relu, self.last = _linear([[1.0], [1.0]]), Rectify(how), _linear([[2, -1]])

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 1]``."""
        out: Tensor = self.last(self.relu(self.first(x.flatten(1))))
        return out


class Shifted(nn.Module):
    """``f(x − 1)``: the change from 0 to x is f(x − 1) − f(−1)."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.activation, self.last = _linear([[1]], [-1]), activation, _linear([[1]])

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 1]``."""
        out: Tensor = self.last(self.activation(self.first(x.flatten(1))))
        return out


class Reused(nn.Module):
    """``max(2 max(x − 1, 0) − 1, 0)`` with one ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = _linear([[1]], [-1]), _linear([[2]], [-1]), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 1]``."""
        out: Tensor = self.relu(self.second(self.relu(self.first(x.flatten(1)))))
        return out


class Residual(nn.Module):
    """``x + max(2 x, 0)``: without biases, ε-LRP assigns the whole score to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.relu = _linear([[1]]), _linear([[2]]), nn.ReLU()
        self.last = _linear([[1]])

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 1]``."""
        y = self.stem(x.flatten(1))
        out: Tensor = self.last(y + self.relu(self.branch(y)))
        return out


def _linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight.data = torch.tensor(weight).float()
    if bias is not None:
        layer.bias.data = torch.tensor(bias).float()
    return layer


def pooled(*, rectified_first: bool) -> nn.Module:
    """``max(max_i x_i − 1, 0)`` or ``max_i max(x_i, 0)``: a ReLU next to max pooling."""
    shift = nn.Conv2d(1, 1, 1)
    shift.weight.data.fill_(1)
    shift.bias.data.fill_(0 if rectified_first else -1)  # type: ignore[union-attr]
    steps = [nn.ReLU(), nn.MaxPool2d((1, 2))]
    return nn.Sequential(
        shift, *steps[:: 1 if rectified_first else -1], nn.Flatten(), _linear([[1]])
    )


def overwritten() -> nn.Module:
    """``Σ_i max(2 x_i, 0) + max(−x_i, 0)``: the ReLU overwrites the two channels 2 x and −x.

    Their mean gradients are 1/3 each at x = (1, −1, 0), so Grad-CAM's map is x / 3.
    """
    layer = nn.Conv2d(1, 2, 1, bias=False)
    layer.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.Flatten(), _linear([[1] * 6]))


def row(*values: float) -> Tensor:
    """An image with one row."""
    return torch.tensor(values).float().view(1, 1, 1, -1)


def shown(values: Tensor) -> str:
    """Numbers as text for a table cell."""
    rounded = [round(float(v), 4) + 0.0 for v in values.detach().flatten()]
    return ", ".join(f"{v:g}" for v in rounded)


def _ours(model: nn.Module, x: Tensor, method: str, **fields: Any) -> str:
    return shown(ek.explain(model.eval(), x, 0, method, task="regression", **fields).attribution)


def _captum(name: str, model: nn.Module, x: Tensor, **fields: Any) -> str:
    peer = getattr(captum.attr, name)(model.eval())
    return shown(peer.attribute(x.clone().requires_grad_(), target=0, **fields))


def _captum_lrp(model: nn.Module, x: Tensor) -> str:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.rule = EpsilonRule()
    return shown(captum.attr.LRP(model.eval()).attribute(x.clone(), 0))


def _zennit(name: str, model: nn.Module, x: Tensor, start: Callable[[Tensor], Tensor]) -> str:
    composites = importlib.import_module("zennit.composites")
    return shown(through(getattr(composites, name)(), model.eval(), x, start))


def captum_faults() -> list[Fault]:
    """Module hooks miss functional and reused activations, and fail next to pooling."""
    return [
        Fault(GUIDED, "map", "2", lambda: _ours(TwoUnits(), row(2), "guided_backprop"),
              "Captum GuidedBackprop", lambda: _captum("GuidedBackprop", TwoUnits(), row(2))),
        Fault("functional ReLU: DeepLIFT of max(x − 1, 0) from 0 to x = 3", "map", "2",
              lambda: _ours(Shifted(F.relu), row(3), "deeplift"),
              "Captum DeepLift", lambda: _captum("DeepLift", Shifted(F.relu), row(3))),
        Fault("reused ReLU: DeepLIFT of max(2 max(x − 1, 0) − 1, 0) from 0 to x = 3", "map", "3",
              lambda: _ours(Reused(), row(3), "deeplift"),
              "Captum DeepLift", lambda: _captum("DeepLift", Reused(), row(3))),
        Fault("MaxPool right before ReLU: DeepLIFT of max(max_i x_i − 1, 0) from 0 to x = (3, 1.5)",
              "map", "2, 0",
              lambda: _ours(pooled(rectified_first=False), row(3, 1.5), "deeplift"),
              "Captum DeepLift",
              lambda: _captum("DeepLift", pooled(rectified_first=False), row(3, 1.5))),
        Fault("ReLU right before MaxPool: DeepLIFT of max_i max(x_i, 0) from (3, 2) to "
              "x = (0.5, 1.5), where the score is 1.5 lower",
              "map", "-1.5, 0",
              lambda: _ours(pooled(rectified_first=True), row(0.5, 1.5), "deeplift",
                                baseline=row(3, 2)[0]),
              "Captum DeepLift",
              lambda: _captum("DeepLift", pooled(rectified_first=True), row(0.5, 1.5),
                                baselines=row(3, 2))),
        Fault("GELU: DeepLIFT of gelu(x − 1) from 0 to x = 3", "map (= the score's change)",
              shown(F.gelu(torch.tensor(2.0)) - F.gelu(torch.tensor(-1.0))),
              lambda: _ours(Shifted(nn.GELU()), row(3), "deeplift"),
              "Captum DeepLift", lambda: _captum("DeepLift", Shifted(nn.GELU()), row(3))),
        Fault(RESIDUAL, "map (= the score)", "3",
              lambda: _ours(Residual(), row(1), "lrp", composite="epsilon"),
              "Captum LRP", lambda: _captum_lrp(Residual(), row(1))),
        Fault("compiled model after a run: Grad-CAM", "largest difference to the plain model's",
              "0", lambda: _compiled(ours=True), "Captum LayerGradCam",
              lambda: _compiled(ours=False)),
    ]  # fmt: skip


def _run_compiled() -> tuple[nn.Module, Any, Tensor]:
    """A model, its compiled version after runs with and without gradients, and images."""
    model, x = cnn(), images()
    compiled: Any = torch.compile(model, backend="eager")
    compiled(x)
    with torch.no_grad():
        compiled(x)
    return model, compiled, x


def _compiled(*, ours: bool) -> str:
    model, compiled, x = _run_compiled()

    def explained(of: Any, prefix: str = "") -> Tensor:
        if ours:
            return ek.explain(of, x, 0, "gradcam", layer=prefix + LAST).attribution
        found: Tensor = captum.attr.LayerGradCam(of, of.get_submodule(prefix + LAST)).attribute(
            x, 0
        )
        return found

    gap = (explained(compiled, "_orig_mod.") - explained(model)).abs().max()
    return shown(gap)


def zennit_faults() -> list[Fault]:
    """Module hooks, as in Captum."""
    return [
        Fault(GUIDED, "map", "2",
              lambda: _ours(TwoUnits(), row(2), "guided_backprop"),
              "zennit GuidedBackprop",
              lambda: _zennit("GuidedBackprop", TwoUnits(), row(2), torch.ones_like)),
        Fault(RESIDUAL, "map (= the score)", "3",
              lambda: _ours(Residual(), row(1), "lrp"),
              "zennit EpsilonPlus",
              lambda: _zennit("EpsilonPlus", Residual(), row(1), torch.Tensor.clone)),
        Fault("functional GELU: ε-LRP of gelu(x − 1) at x = 3", "map (x / (x − 1) of the score)",
              shown(1.5 * F.gelu(torch.tensor(2.0))),
              lambda: _ours(Shifted(F.gelu), row(3), "lrp"), "zennit EpsilonPlus",
              lambda: _zennit("EpsilonPlus", Shifted(F.gelu), row(3), torch.Tensor.clone)),
    ]  # fmt: skip


def gradcam_faults() -> list[Fault]:
    """Targets dropped silently, and outputs read after they were overwritten."""
    return [
        Fault("one target for a batch of four: Grad-CAM", "nonzero maps", "4",
              lambda: _lit(ours=True), "pytorch-grad-cam GradCAM",
              lambda: _lit(ours=False)),
        Fault("batch size 1 or more on a signed layer: Ablation-CAM",
              "largest difference of maps in [0, 1]", "0", lambda: _ablation(ours=True),
              "pytorch-grad-cam AblationCAM", lambda: _ablation(ours=False)),
        Fault("in-place ReLU after the layer: Grad-CAM of Σ max(2 x_i, 0) + max(−x_i, 0) at "
              "x = (1, −1, 0)", "map, clipped and scaled to [0, 1]", "1, 0, 0",
              lambda: _overwritten(ours=True), "pytorch-grad-cam GradCAM",
              lambda: _overwritten(ours=False)),
        Fault("compiled model after a run: Grad-CAM", "largest difference to the plain model's",
              "0", lambda: _compiled(ours=True), "pytorch-grad-cam GradCAM",
              _compiled_peer),
    ]  # fmt: skip


def _lit(*, ours: bool) -> str:
    model, x = cnn(), images()
    if ours:
        found = ek.explain(model, x, 1, "gradcam", layer=LAST).attribution[:, 0]
    else:
        found = peer_map("GradCAM", model, LAST, x, torch.tensor([1]))
    return str(int((found != 0).flatten(1).any(1).sum()))


def _ablation(*, ours: bool) -> str:
    model, x, layer = cnn(), images(), "features.3"
    if ours:
        maps = [
            scaled(
                ek.explain(model, x, 1, "ablation_cam", layer=layer, batch_size=size).attribution
            )
            for size in (1, 4)
        ]
    else:
        target = torch.ones(len(x))
        maps = [
            peer_map("AblationCAM", model, layer, x, target, batch_size=size) for size in (1, 32)
        ]
    return shown((maps[0] - maps[1]).abs().max())


def _compiled_peer() -> str:
    model, compiled, x = _run_compiled()
    target = torch.zeros(len(x))
    found = peer_map("GradCAM", compiled, "_orig_mod." + LAST, x, target)
    return shown((found - peer_map("GradCAM", model, LAST, x, target)).abs().max())


def _overwritten(*, ours: bool) -> str:
    model, x = overwritten().eval(), row(1, -1, 0)
    if ours:
        return shown(
            scaled(
                ek.explain(
                    model,
                    x,
                    0,
                    "gradcam",
                    layer="0",
                    relu=True,
                    placement="stretch",
                    task="regression",
                ).attribution
            )
        )
    return shown(peer_map("GradCAM", model, "0", x, torch.tensor([0])))
