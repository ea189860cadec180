"""Embeddings of the texts that targets compare images with."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from explainkit.errors import ModelError, TargetError
from explainkit.interfaces import spec_of


def embeddings_of(texts: Iterable[str], model: nn.Module) -> dict[str, Tensor]:
    """The embedding ``[features]`` of each text, by the model's own text tower.

    Args:
        texts: The texts.
        model: Its specification says how it embeds a text.

    Raises:
        TargetError: The model embeds no texts.
        ModelError: What it gives for a text is not one finite vector.
    """
    spec = spec_of(model)
    found = {}
    for text in texts:
        if spec is None or spec.embed is None:
            raise TargetError(
                f"similarity({text!r:.60}): expected a model that embeds texts: "
                "ek.adapt(model, tokenizer=…) makes one of a model that has both towers, or give "
                "similarity an embedding"
            )
        with torch.no_grad():
            vector = spec.embed(model, text)
        if not isinstance(vector, Tensor) or vector.dim() != 1 or not vector.isfinite().all():
            got = list(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
            raise ModelError(
                f"expected one finite vector [features] as the embedding of {text!r:.60}, got {got}"
            )
        found[text] = vector.detach()
    return found
