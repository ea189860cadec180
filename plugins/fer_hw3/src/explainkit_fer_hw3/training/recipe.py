"""How a network is trained: everything that decides the numbers, as fields."""

from dataclasses import dataclass
from typing import Literal

from explainkit.errors import ModelError


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes:
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adam`` (as published, β 0.9 and 0.999).
        lr: Learning rate after the warm-up.
        warmup: Steps of linear warm-up.
        decay: Share of the run, at its end, over which the rate falls linearly to 0.
        batch: Images of the data set in a step.
        synthetic: Synthetic faces beside them in each step.
        weight_decay: On weight matrices and kernels, not on biases or normalization.
        smoothing: Label smoothing (Szegedy et al., 2016, arXiv:1512.00567).
        average: Share of the running average of the weights that a step keeps; 0: no average.
        batch_norm: Normalize after every convolution while training (Ioffe and Szegedy, 2015,
            arXiv:1502.03167); folded into the convolutions on export.
        augment: Strength of the random flips, turns, shifts and changes of light; 0: none.
        cutout: Share of the images that lose random 8×8 cutout, so that images with deleted
            regions, on which deletion metrics stand, are no foreign ones.
        mix: Shape of the Beta distribution by which two photographs of a batch and their labels are
            mixed (mixup, Zhang et al., 2018, arXiv:1710.09412); 0: none.
        self_distillation: Share of a photograph's target that is what the network started from says of it
            and its mirror image, the rest being its label (Furlanello et al., 2018,
            arXiv:1805.04770): labels are noisy. A run from random weights has labels alone.
        sam_rho: How far the weights first move up the loss before the gradient is taken, which so
            seeks flat minima and learns noisy labels less by heart (sharpness-aware minimization,
            Foret et al., 2021, arXiv:2010.01412); 0: not.
        sam_share: Share of the photographs of a batch that tell which way is up.
        repeat: How often an epoch shows each image of a class; 1 where it is not named.
        first_block_every: The first block learns in every n-th step only, at 0 in none: it costs
            more than half of the backward pass and changes least (compare Brock et al., 2017,
            arXiv:1706.04983).
        weight_interpolation: Share in the saved weights of those that the run started from, which saw other
            images: weights between two ends are often better on unseen images than either
            (Wortsman et al., 2022, arXiv:2109.01903). A run from random weights keeps none.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.06
    warmup: int = 100
    decay: float = 0.7
    batch: int = 96
    synthetic: int = 16
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    average: float = 0.999
    batch_norm: bool = True
    augment: float = 1.4
    cutout: float = 0.3
    mix: float = 0.2
    self_distillation: float = 0.3
    sam_rho: float = 0.1
    sam_share: float = 0.25
    repeat: tuple[tuple[str, int], ...] = (("disgust", 3),)
    first_block_every: int = 1
    weight_interpolation: float = 0.0

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step of a run of ``steps``: warm-up, constant, linear to 0.

        Examples:
            >>> recipe = Recipe(lr=1.0, warmup=10, decay=0.5)
            >>> [recipe.rate_at(step, 100) for step in (0, 9, 40, 75)]
            [0.1, 1.0, 1.0, 0.5]
        """
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        falling = self.decay * steps
        fall = min(1.0, (steps - step) / falling) if falling else 1.0
        return self.lr * min(warm, fall)


CNN_RECIPE = Recipe(first_block_every=4)
"""Worth copying for a convolutional network of this size."""

DNN_RECIPE = Recipe(
    lr=0.05, decay=0.5, batch=192, synthetic=24, batch_norm=False, augment=0.6,
    mix=0.0, self_distillation=0.0, sam_rho=0.0, repeat=(("disgust", 2),),
)  # fmt: skip
"""The same ideas for a fully connected one: weaker augmentation, larger batches."""

STUDY = Recipe(
    optimizer="adam", lr=1e-3, warmup=0, decay=0.0, batch=128, synthetic=0, weight_decay=0.0,
    smoothing=0.0, average=0.0, batch_norm=False, augment=0.0, cutout=0.0, mix=0.0,
    self_distillation=0.0, sam_rho=0.0, repeat=(),
)  # fmt: skip
"""The study's: plain Adam on the images as they are."""

CNN_FINISH = Recipe(
    lr=0.02, decay=1.0, synthetic=8, average=0.998, augment=0.6, cutout=0.2,
    mix=0.0, self_distillation=0.0, sam_rho=0.0, first_block_every=0, weight_interpolation=0.5,
)  # fmt: skip
"""For the end of such a network's training: a few epochs of plainer images, and half way back."""

_RECIPES = {
    ("cnn", "default"): CNN_RECIPE,
    ("dnn", "default"): DNN_RECIPE,
    ("cnn", "study"): STUDY,
    ("dnn", "study"): STUDY,
    ("cnn", "finish"): CNN_FINISH,
}

EPOCHS = {"default": 60, "study": 200, "finish": 5}
"""Length of a run by the name of its recipe; the study's ran for 200 epochs."""


def recipe_for(model: str, name: str) -> Recipe:
    """The recipe of a network: ``default``, ``study``, or the CNN's ``finish``.

    Raises:
        ModelError: The network has no such recipe.

    Examples:
        >>> recipe_for("dnn", "study").optimizer
        'adam'
    """
    if (model, name) not in _RECIPES:
        known = ", ".join(recipe for network, recipe in _RECIPES if network == model)
        raise ModelError(f"expected a recipe of the {model}: {known}; got {name}")
    return _RECIPES[model, name]
