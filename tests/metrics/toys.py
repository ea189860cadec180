"""Networks whose hiding effects are known, and maps that know nothing of them."""

import torch
import torch.nn.functional as F
from torch import nn


def generator(seed):
    return torch.Generator().manual_seed(seed)


def textures(count, channels=1, size=(24, 24), seed=0):
    """Images without structure: what is hidden is filled with about zero."""
    return torch.randn(count, channels, *size, generator=generator(seed))


def linear(classes=3, channels=1, size=(24, 24), seed=1):
    """A linear model without biases."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(net[1].weight.shape, generator=generator(seed)))
    return net.eval()


CROSS = torch.tensor([[1.0, -1, 1, -1, 1], [-1, 1, 0, 1, -1]] * 2 + [[1.0, -1, 1, -1, 1]])
STRIPES = torch.tensor([[1.0, -1, 1, -1, 1]]).repeat(5, 1)


def detector():
    """Two classes, each the strength of one pattern anywhere in the image."""
    conv = nn.Conv2d(1, 2, 5)
    with torch.no_grad():
        conv.weight.copy_(torch.stack([CROSS, STRIPES])[:, None])
        conv.bias.fill_(-9.0)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()


def planted(count, size=(36, 36), seed=0):
    """Smooth images with both patterns, and the corners of the patterns ``[count, 2, 2]``."""
    random = generator(seed)
    images = smooth(torch.randn(count, *size, generator=random))[:, None] * 0.3
    places = []
    for image in images:
        spots = torch.randperm(16, generator=random)[:2]
        corners = torch.stack([spots // 4, spots % 4], 1) * 9 + torch.randint(
            0, 4, (2, 2), generator=random
        )
        for (top, left), pattern in zip(corners.tolist(), (CROSS, STRIPES), strict=True):
            image[0, top : top + 5, left : left + 5] = pattern
        places.append(corners)
    return images, torch.stack(places)


def smooth(maps, width=7):
    """Maps ``[n, height, width]`` blurred by a box, with the same deviation again."""
    kernel = torch.ones(1, 1, width, width) / width**2
    padded = F.pad(maps[:, None], [width // 2] * 4, mode="reflect")
    blurred = F.conv2d(padded, kernel)[:, 0]
    return blurred / blurred.std((1, 2), keepdim=True)
