"""A complete plugin: one saliency method. torch is imported only when the method runs."""

from dataclasses import dataclass

from explainkit import hookimpl


@dataclass(frozen=True)
class GradientXInput:
    """Gradient of the target's score times the image (Shrikumar et al., 2016)."""

    def __call__(self, model, inputs, target):
        import torch

        score = model(inputs).gather(1, target[:, None]).sum()
        return torch.autograd.grad(score, inputs)[0] * inputs


@hookimpl
def explainkit_methods():
    return {"gradient_x_input": GradientXInput}
