"""Writing a method.

A method is a frozen dataclass that is called with a model, the images and the targets, and
returns a map. Its fields are its parameters. The rest is the engine's: checks, chunks, the record,
the command line.

Topic: Extending
Order: 30
Needs: fer_hw3
"""

# %% Fifteen lines
# This one hides a square of gray at every place in turn, and gives each pixel the mean fall of the
# score over the squares that covered it.
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import explainkit as ek


@dataclass(frozen=True)
class GraySquare:
    """Mean fall of the score under a gray square."""

    side: int = 8
    stride: int = 4

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            score = model(inputs).gather(1, target[:, None])[:, 0]
            falls = torch.zeros_like(inputs[:, :1])
            covered = torch.zeros_like(falls)
            for top in range(0, inputs.shape[2] - self.side + 1, self.stride):
                for left in range(0, inputs.shape[3] - self.side + 1, self.stride):
                    place = (..., slice(top, top + self.side), slice(left, left + self.side))
                    hidden = inputs.clone()
                    hidden[place] = 0
                    fall = score - model(hidden).gather(1, target[:, None])[:, 0]
                    falls[place] += fall[:, None, None, None]
                    covered[place] += 1
        return falls / covered.clamp(min=1)


# %% Used like any other
# Nothing has to be registered to use it from Python; a plugin's hook gives it a name for the
# command line.
#
# Alt: A drawn surprised face and its map by the new method, made of overlapping squares: red where
# hiding them lowers the score, blue where it raises it.
model = ek.load_model("fer_hw3/cnn")
faces = ek.load_dataset("fer_hw3/synthetic", split="all")
explanation = ek.explain(model, faces.images[[12]], method=GraySquare())
explanation.plot()

# %% Checked like any other
# `check_method` asks what every method must keep: the shape, no trace on the model, the same result
# whatever the batch, no silent zeros. It raises where one is broken. In a plugin's test it goes
# through all toy models; one is enough to see it work.
from explainkit.testing import check_method, toy_models

check_method(GraySquare(side=6, stride=6), {"plain": toy_models()["plain"]})
print("GraySquare keeps the contract.")

# %% Beside the built-in one
# The core's occlusion does the same with fewer passes: it runs only what a square can change.
#
# Alt: The face under the new method and the built-in occlusion, both made of squares; beside them
# the pixel-fine map of integrated gradients.
ek.explain(
    model, faces.images[[12]], method=[GraySquare(), "occlusion", "integrated_gradients"]
).plot()
