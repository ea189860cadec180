"""A detector and a segmenter of a few convolutions, whose parts are known."""

from collections import OrderedDict

import torch
from torch import nn


class Detector(nn.Module):
    """Four queries, one for each quarter of the image; query q sees its quarter alone.

    Returns ``logits`` ``[batch, 4, 3]`` of two classes and "no object", and ``pred_boxes``, the
    quarters.
    """

    def __init__(self, channels=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Conv2d(channels, 6, 2, 2)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Conv2d(6, 3, 1)
        half = 0.5
        corners = [(x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]
        self.register_buffer("quarters", torch.tensor([(*c, half, half) for c in corners]))

    def forward(self, x):
        grid = self.head(self.pool(self.act(self.features(x))))
        boxes = self.quarters + 0 * grid.flatten(2).transpose(1, 2)[..., :1]
        return {"logits": grid.flatten(2).transpose(1, 2), "pred_boxes": boxes}


class Segmenter(nn.Module):
    """Two classes at half resolution, each a function of the pixels below alone."""

    def __init__(self, channels=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Conv2d(channels, 4, 2, 2)
        self.act = nn.ReLU()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        scores = self.head(self.act(self.features(x)))
        return OrderedDict(out=scores, aux=-scores)


class Encoder(nn.Module):
    """An embedding of five features."""

    def __init__(self, channels=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Conv2d(channels, 4, 3, 2)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        hidden = self.pool(self.act(self.features(x))).flatten(1)
        return {"last_hidden_state": hidden[:, None], "pooler_output": self.head(hidden)}
