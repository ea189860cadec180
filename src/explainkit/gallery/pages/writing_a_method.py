"""Writing a method.

A method is a frozen dataclass that is called with a model, images and targets, and returns a map.
Its fields are its parameters. The library does the rest: checks, chunks, provenance, command line.

Topic: Extending
Order: 30
Needs: fer_hw3
"""

# %% Fifteen lines
# This method covers one position after another with a gray square. Each pixel gets the mean drop of
# the score over the squares that covered it.
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import explainkit as ek


@dataclass(frozen=True)
class GraySquare:
    """Mean drop of the score under a gray square."""

    side: int = 8
    stride: int = 4

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            score = model(inputs).gather(1, target[:, None])[:, 0]
            drops = torch.zeros_like(inputs[:, :1])
            covered = torch.zeros_like(drops)
            for top in range(0, inputs.shape[2] - self.side + 1, self.stride):
                for left in range(0, inputs.shape[3] - self.side + 1, self.stride):
                    square = (..., slice(top, top + self.side), slice(left, left + self.side))
                    hidden = inputs.clone()
                    hidden[square] = 0
                    drop = score - model(hidden).gather(1, target[:, None])[:, 0]
                    drops[square] += drop[:, None, None, None]
                    covered[square] += 1
        return drops / covered.clamp(min=1)


# %% Use it
# Python needs no registration; a plugin's hook gives the method a name for the command line. The
# built-in occlusion does the same with less work: it recomputes only what a square can change.
#
# Alt: A synthetic surprised face, its maps by the new method and by the built-in occlusion, both
# made of overlapping squares, red where hiding them lowers the score and blue where it raises the
# score, and the finer map of DeepLIFT.
model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
ek.explain(model, faces.images[[12]], method=[GraySquare(), "occlusion", "deeplift"]).plot()

# %% Test it
# `check_method` checks what every method must satisfy: the shape, no side effects on the model, the
# same result for every batch, no silent zeros. It raises an error otherwise. A plugin's test uses
# all toy models; this page uses one.
from explainkit.testing import check_method, toy_models

check_method(GraySquare(side=6, stride=6), {"plain": toy_models()["plain"]})
print("GraySquare passes all checks.")
