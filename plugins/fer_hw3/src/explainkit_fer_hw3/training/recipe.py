"""Training recipes: every hyper-parameter that affects the result."""

from dataclasses import dataclass
from typing import Literal

from explainkit.errors import ModelError


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a training run.

    Attributes:
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adam`` (as published, β 0.9 and 0.999).
        lr: Learning rate after the warm-up.
        warmup: Steps of linear warm-up.
        decay: Final share of the run over which the learning rate falls linearly to 0.
        batch: Images of the data set per step.
        synthetic: Synthetic faces added in each step.
        weight_decay: On weight matrices and kernels, not on biases or normalization.
        smoothing: Label smoothing (Szegedy et al., 2016, arXiv:1512.00567).
        average: Decay of the running average of the weights, per step; 0: no average.
        batch_norm: Normalize after every convolution while training (Ioffe and Szegedy, 2015,
            arXiv:1502.03167); folded into the convolutions on export.
        augment: Strength of the random flips, rotations, shifts and lighting changes; 0: none.
        cutout: Share of the images in which random 8×8 cells are deleted, so that the network
            knows images like those of deletion metrics.
        mix: Parameter of the Beta distribution that mixes pairs of photographs and their labels
            (mixup, Zhang et al., 2018, arXiv:1710.09412); 0: none.
        self_distillation: Share of the initial network's prediction (averaged over the image and
            its mirror image) in a photograph's target; the rest is the label (Furlanello et al.,
            2018, arXiv:1805.04770). It counters noisy labels. Unused from random weights.
        sam_rho: Radius ρ of sharpness-aware minimization: the gradient is taken after a step of
            length ρ up the loss, which favors flat minima and memorizes noisy labels less (Foret et
            al., 2021, arXiv:2010.01412); 0: off. A quarter of the photographs sets the direction.
        repeat: How often each image of a class is shown per epoch; 1 for classes not named.
        first_block_every: The first block is trained in every n-th step only; 0: never. It costs
            more than half of the backward pass and changes least (compare Brock et al., 2017,
            arXiv:1706.04983).
        weight_interpolation: Share of the initial weights in the saved ones: interpolated weights
            are often better on unseen images than either end (Wortsman et al., 2022,
            arXiv:2109.01903). Unused from random weights.
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
    repeat: tuple[tuple[str, int], ...] = (("disgust", 3),)
    first_block_every: int = 1
    weight_interpolation: float = 0.0

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate at a step of a run of ``steps``: warm-up, constant, linear to 0.

        Examples:
            >>> recipe = Recipe(lr=1.0, warmup=10, decay=0.5)
            >>> [recipe.lr_at(step, 100) for step in (0, 9, 40, 75)]
            [0.1, 1.0, 1.0, 0.5]
        """
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        falling = self.decay * steps
        fall = min(1.0, (steps - step) / falling) if falling else 1.0
        return self.lr * min(warm, fall)


CNN_RECIPE = Recipe(first_block_every=4)
"""The default for the CNN; a good starting point for convolutional networks of this size."""

DNN_RECIPE = Recipe(
    lr=0.05, decay=0.5, batch=192, synthetic=24, batch_norm=False, augment=0.6,
    mix=0.0, self_distillation=0.0, sam_rho=0.0, repeat=(("disgust", 2),),
)  # fmt: skip
"""The default for the DNN: the same ideas with weaker augmentation and larger batches."""

STUDY = Recipe(
    optimizer="adam", lr=1e-3, warmup=0, decay=0.0, batch=128, synthetic=0, weight_decay=0.0,
    smoothing=0.0, average=0.0, batch_norm=False, augment=0.0, cutout=0.0, mix=0.0,
    self_distillation=0.0, sam_rho=0.0, repeat=(),
)  # fmt: skip
"""The study's recipe: plain Adam on unmodified images."""

CNN_FINISH = Recipe(
    lr=0.02, decay=1.0, synthetic=8, average=0.998, augment=0.6, cutout=0.2,
    mix=0.0, self_distillation=0.0, sam_rho=0.0, first_block_every=0, weight_interpolation=0.5,
)  # fmt: skip
"""The end of the CNN's training: a few epochs of weaker augmentation, then the mean of the weights
before and after."""

_RECIPES = {
    ("cnn", "default"): CNN_RECIPE,
    ("dnn", "default"): DNN_RECIPE,
    ("cnn", "study"): STUDY,
    ("dnn", "study"): STUDY,
    ("cnn", "finish"): CNN_FINISH,
}

EPOCHS = {"default": 60, "study": 200, "finish": 5}
"""Default number of epochs of each recipe; the study trained for 200."""


def recipe_for(model: str, name: str) -> Recipe:
    """A recipe by name: ``default``, ``study``, or, for the CNN, ``finish``.

    Examples:
        >>> recipe_for("dnn", "study").optimizer
        'adam'
    """
    if (model, name) not in _RECIPES:
        known = ", ".join(recipe for network, recipe in _RECIPES if network == model)
        raise ModelError(f"expected a recipe for the {model} ({known}), got {name}")
    return _RECIPES[model, name]
