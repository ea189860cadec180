"""Rows of the parity tables, and the small seeded networks that they are measured on."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.testing import toy_models

CLASSES = 5
MODULES = {
    "pytorch-grad-cam": "pytorch_grad_cam",
    "Captum": "captum",
    "Quantus": "quantus",
    "zennit": "zennit",
}
"""A row's peer starts with a library's name; the module that it needs."""

RELATIVE = "of the largest value"
SAME = "same formula"


def missing(peer: str) -> bool:
    """Whether the library of a row's peer is not installed."""
    return importlib.util.find_spec(MODULES[peer.partition(" ")[0]]) is None


@dataclass(frozen=True)
class Row:
    """One of our methods or metrics compared with one of a peer.

    Attributes:
        method: Our name.
        peer: The peer's library and name.
        network: The network that both explain.
        compare: Returns our values and the peer's, made comparable.
        tolerance: The largest difference allowed, in ``unit``.
        how: How they were made comparable, and where ours differs on purpose.
        unit: The unit of the difference.
        requires: A module that the peer needs beyond its declared dependencies.
    """

    method: str
    peer: str
    network: str
    compare: Callable[[], tuple[Tensor, Tensor]]
    tolerance: float
    how: str = ""
    unit: str = RELATIVE
    requires: str = ""

    def difference(self) -> float:
        """The largest difference of the two.

        Raises:
            AssertionError: Their shapes differ, or the peer's values are zero.
        """
        ours, theirs = (one.detach().double() for one in self.compare())
        assert ours.shape == theirs.shape, f"{self.method}, {self.peer}: {ours.shape}"
        gap = float((ours - theirs).abs().max())
        if self.unit != RELATIVE:
            return gap
        scale = float(theirs.abs().max())
        assert scale > 0, f"{self.method}, {self.peer}: the peer's values are zero"
        return gap / scale


@dataclass(frozen=True)
class Fault:
    """A case with a known truth, on which a peer is wrong.

    Attributes:
        case: The network or the data, and the method or the metric.
        measured: What the numbers measure.
        truth: The value of the formula, derived by hand.
        ours: Runs ours.
        peer: The peer's library and name.
        theirs: Runs the peer.
    """

    case: str
    measured: str
    truth: str
    ours: Callable[[], object]
    peer: str
    theirs: Callable[[], object]

    def results(self) -> tuple[str, str]:
        """Our result and the peer's; if the peer raises, the name of its exception."""
        try:
            theirs = str(self.theirs())
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
            theirs = type(error).__name__
        return str(self.ours()), theirs


class Cnn(nn.Module):
    """Three convolutions and two linear layers; every activation is a module, none is reused.

    Unless ``rectified``, no activation stands next to pooling, where Captum's DeepLIFT is wrong.

    Args:
        bias: Whether layers have biases.
        norm: Whether BatchNorm follows the first convolution.
        rectified: Whether the input of every hidden layer is non-negative.
        curved: Whether the last activation is tanh, so that the score has curvature.
    """

    def __init__(
        self,
        *,
        bias: bool = True,
        norm: bool = False,
        rectified: bool = False,
        curved: bool = False,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias),
            nn.BatchNorm2d(6) if norm else nn.Dropout(0.1),
            nn.ReLU(), nn.Conv2d(6, 6, 1, bias=bias), nn.ReLU() if rectified else nn.Dropout(0.1),
            nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, bias=bias), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(8 * 4 * 3, 12, bias=bias)
        self.relu = nn.Tanh() if curved else nn.ReLU()
        self.head = nn.Linear(12, CLASSES, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[batch, 5]`` of images ``[batch, 3, 12, 10]``."""
        out: Tensor = self.head(self.relu(self.hidden(self.features(x).flatten(1))))
        return out


LAST = "features.7"
"""The last layer of `Cnn` whose output has spatial positions."""


def cnn(**options: bool) -> nn.Module:
    """A `Cnn` in float64 and eval mode, with nontrivial BatchNorm statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Cnn(**options).double().eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # default weights hardly depend on the image: all would have the same class
                module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                for values in (module.weight, module.running_var):
                    values.data.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                for values in (module.bias, module.running_mean):
                    values.data.normal_()  # type: ignore[union-attr]
    return model


def images(*, positive: bool = False, count: int = 4) -> Tensor:
    """``[count, 3, 12, 10]``, float64."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.rand if positive else torch.randn
    return sample(count, 3, 12, 10, generator=generator, dtype=torch.float64)


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """The class with the largest score, which is positive in these networks."""
    with torch.no_grad():
        found: Tensor = model(x).argmax(1)
    return found


def transformer() -> tuple[nn.Module, Tensor]:
    """A float64 vision transformer with two blocks (GELU, LayerNorm), and its images."""
    model, x = toy_models()["vit"]
    return model.double(), x.double()


def faces(count: int = 2) -> tuple[nn.Module, Tensor]:
    """The trained network of the fer_hw3 plugin, float32, and synthetic faces for it."""
    import explainkit as ek

    data = ek.load_dataset("fer_hw3/synthetic")
    return ek.load_model("fer_hw3/cnn"), torch.stack([data[i][0] for i in range(count)])
