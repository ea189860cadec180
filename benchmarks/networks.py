"""Well-known networks with random weights: nothing to download, no torchvision."""

import torch
from torch import Tensor, nn


def vgg16(classes: int = 1000) -> nn.Module:
    """Simonyan and Zisserman (2014), configuration D, arXiv:1409.1556."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, classes),
    )  # fmt: skip
    return ready(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), head))


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1 with a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, width), nn.ReLU(inplace=True),
            *_convolution(width, width, 3, stride), nn.ReLU(inplace=True),
            *_convolution(width, 4 * width),
        )  # fmt: skip
        same = stride == 1 and inputs == 4 * width
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*_convolution(inputs, 4 * width, 1, stride))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the shortcut before the last ReLU."""
        y = self.body(x)
        y += self.shortcut(x)
        out: Tensor = self.relu(y)
        return out


def resnet50(classes: int = 1000) -> nn.Module:
    """He, Zhang, Ren and Sun (2015), arXiv:1512.03385; stride in the 3×3 convolution."""
    layers: list[nn.Module] = [
        *_convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    channels = 64
    for width, depth, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(depth):
            layers.append(Bottleneck(channels, width, first if block == 0 else 1))
            channels = 4 * width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, classes)]
    return ready(nn.Sequential(*layers, *head))


class Inverted(nn.Module):
    """Inverted residual: expanding 1×1, depthwise 3×3, projecting 1×1, shortcut if shapes match."""

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expand
        wider = [*_convolution(inputs, hidden), nn.ReLU6(inplace=True)] if expand > 1 else []
        self.body = nn.Sequential(
            *wider, *_convolution(hidden, hidden, 3, stride, hidden), nn.ReLU6(inplace=True),
            *_convolution(hidden, outputs),
        )  # fmt: skip
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Adds the input if the shapes match."""
        y: Tensor = self.body(x)
        return x + y if self.same else y


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    """Sandler, Howard, Zhu, Zhmoginov and Chen (2018), arXiv:1801.04381."""
    layers: list[nn.Module] = [*_convolution(3, 32, 3, 2), nn.ReLU6(inplace=True)]
    channels = 32
    for expand, width, depth, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(depth):
            layers.append(Inverted(channels, width, expand, first if block == 0 else 1))
            channels = width
    layers += [*_convolution(channels, 1280), nn.ReLU6(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(1280, classes)]
    return ready(nn.Sequential(*layers, *head))


def ready(model: nn.Module, seed: int = 0) -> nn.Module:
    """He-initialized weights, nontrivial BatchNorm statistics, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.4, 0.8, generator=generator)
                for values in (module.bias, module.running_mean):
                    values.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    return model.eval()
