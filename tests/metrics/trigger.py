"""A network that is trained to tell two planted patches apart: what it looks at is known."""

import torch
from attention_toys import ViT
from torch import Tensor, nn
from torch.nn import functional as F
from toys import generator, smooth

PATCHES = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]], [[1.0, 1.0], [-1.0, -1.0]]]).repeat(1, 4, 4)
"""A checkerboard and stripes, of 8 × 8 pixels."""


def triggers(count: int, seed: int, size: int = 48) -> tuple[Tensor, Tensor]:
    """Smooth and noisy images with one of the patches somewhere, and which one."""
    random = generator(seed)
    images = 0.5 * smooth(torch.randn(count, size, size, generator=random), 9)[:, None]
    images += 0.2 * torch.randn(images.shape, generator=random)
    labels = torch.randint(2, (count,), generator=random)
    corners = torch.randint(2, size - 10, (count, 2), generator=random).tolist()
    for image, label, (top, left) in zip(images, labels.tolist(), corners, strict=True):
        image[0, top : top + 8, left : left + 8] = 1.2 * PATCHES[label]
    return images, labels


def trained_trigger(count: int = 1536, batch_size: int = 64) -> nn.Module:
    """A small CNN that tells the patches apart, trained on so many images, three times."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
        )  # fmt: skip
        _train(net, torch.optim.Adam(net.parameters(), 3e-3), count, batch_size, 3)
    return net.eval()


def trained_vit() -> nn.Module:
    """A small vision transformer that tells the patches apart, from patches of 4 × 4 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ViT(channels=1, image=(48, 48), width=32, classes=2)
        with torch.no_grad():
            net.position *= 0.1  # a patch may be anywhere
        _train(net, torch.optim.AdamW(net.parameters(), 2e-3), 2048, 64, 1)
    return net.eval()


def _train(
    net: nn.Module, optimizer: torch.optim.Optimizer, count: int, batch_size: int, epochs: int
) -> None:
    images, labels = triggers(count, seed=1)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch_size):
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
