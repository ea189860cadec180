"""What a row of the parity table is, and the small seeded networks that it is measured on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.testing import toy_models

CLASSES = 5
RELATIVE = "of the largest value"
SAME = "same formula"


@dataclass(frozen=True)
class Row:
    """One method of ours beside one of a peer.

    Attributes:
        method: Our registered name.
        peer: The class of the peer.
        network: What both explain.
        compare: Gives our map and the peer's, made comparable.
        tolerance: Largest difference allowed, in ``unit``.
        how: What was done to make them comparable, and where ours differs on purpose, and why.
        unit: What the difference is measured in.
        requires: A module that the peer needs beyond its own dependencies.
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
        """The largest difference of the two maps.

        Raises:
            AssertionError: The maps have other shapes, or the peer's says nothing.
        """
        ours, theirs = (one.detach().double() for one in self.compare())
        assert ours.shape == theirs.shape, f"{self.method}, {self.peer}: {ours.shape}"
        gap = float((ours - theirs).abs().max())
        if self.unit != RELATIVE:
            return gap
        scale = float(theirs.abs().max())
        assert scale > 0, f"{self.method}, {self.peer}: the peer's map is zero"
        return gap / scale


class Cnn(nn.Module):
    """Three convolutions and two linear layers; modules where peers look for modules, none reused.

    No activation stands next to pooling, where Captum's DeepLIFT loses a factor, unless asked for.

    Args:
        bias: Whether layers have biases.
        norm: Whether the first convolution has a BatchNorm.
        rectified: Whether every hidden layer's input is rectified.
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
"""The last layer of `Cnn` whose output has places."""


def cnn(**options: bool) -> nn.Module:
    """A `Cnn` in float64 and eval mode, its statistics not trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Cnn(**options).double().eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # so that the classes of the images differ: the usual ones hardly see the image
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
    drawn = torch.rand if positive else torch.randn
    return drawn(count, 3, 12, 10, generator=generator, dtype=torch.float64)


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """The class with the largest score: a positive one, in these networks."""
    with torch.no_grad():
        found: Tensor = model(x).argmax(1)
    return found


def transformer() -> tuple[nn.Module, Tensor]:
    """Two blocks of attention, GELU and LayerNorm, float64, and images for it."""
    model, x = toy_models()["vit"]
    return model.double(), x.double()


def faces(count: int = 2) -> tuple[nn.Module, Tensor]:
    """The trained network of the fer_hw3 plugin, float32, and synthetic faces for it."""
    import explainkit as ek

    drawn = ek.load_dataset("fer_hw3/synthetic")
    return ek.load_model("fer_hw3/cnn"), torch.stack([drawn[i][0] for i in range(count)])
