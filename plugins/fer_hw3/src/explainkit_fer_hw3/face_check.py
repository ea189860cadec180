"""A check of images that people bring along: do they look like the faces of FER2013?"""

import torch
from torch import Tensor, nn

from explainkit_fer_hw3.models import build_cnn, packaged_weights

DEPTH = 10
"""Number of the CNN's layers that are used: up to the ReLU of the fourth convolution."""


def features(network: nn.Sequential, images: Tensor) -> Tensor:
    """The square root of each channel's mean after the fourth convolution.

    Args:
        network: The CNN.
        images: Normalized, ``[n, 1, 48, 48]``.

    Returns:
        float32 ``[n, 256]``.
    """
    with torch.inference_mode():
        parts = [network[:DEPTH](part).mean((2, 3)) for part in torch.split(images, 64)]
    return torch.cat(parts).sqrt()


def face_distance(images: Tensor) -> Tensor:
    """How far images are from FER2013's training faces, in units of what is usual for these.

    The root mean square of the z-scores of `features`, divided by the value that 1.5 % of the
    training faces exceed. Above 1, an image may not be a face, or not a cropped one. It is a hint:
    a cat's face is below 1. Fitted on faces alone, by ``benchmarks/face_check.py``; the CNN's model
    card has the shares of other images that it notices.

    Args:
        images: Normalized, ``[n, 1, 48, 48]``, on the CPU.

    Returns:
        float32 ``[n]``.

    References:
        Lee et al. (2018), "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", arXiv:1807.03888; here with a diagonal covariance and no classes.

    Examples:
        >>> from explainkit_fer_hw3.data import load_synthetic
        >>> faces = load_synthetic(split="all", count=3).images
        >>> (face_distance(torch.stack([*faces, torch.zeros(1, 48, 48)])) > 1).tolist()
        [False, False, False, True]
    """
    network = build_cnn().eval()
    network.load_state_dict(dict(packaged_weights("cnn.safetensors")))
    faces = packaged_weights("faces.safetensors")
    z_scores = (features(network, images) - faces["mean"]) / faces["std"]
    return z_scores.square().mean(1).sqrt() / faces["limit"]
