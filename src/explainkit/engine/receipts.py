"""Receipts: hashes of what an explanation was made from, so that it can be made again."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from explainkit.adapters.images import preprocessing_of
from explainkit.errors import InputError
from explainkit.hashes import pixels_hash, plain_params, tensor_hash, weights_hash
from explainkit.layers import Members, members_of, versions_of

if TYPE_CHECKING:
    from explainkit.adapters.images import ImageBatch
    from explainkit.results.explanation import Explanation

Receipts = Callable[["Explanation", Sequence[int]], dict[str, Any]]


def receipts(
    model: Callable[[], nn.Module | None], members: Members, batch: "ImageBatch | None"
) -> Receipts:
    """What gives the receipt of an explanation, from it and its images' rows in the call.

    Hashing takes time, so it waits until a result is saved. The weights, with buffers, are
    hashed if the model is still there and they have been neither written nor converted since.

    Args:
        model: Gives the model then.
        members: Of the model of the call, restored.
        batch: Where the images come from; None: the caller gave a tensor.
    """
    files = batch.files if batch else ()
    preprocessing = batch.preprocessing if batch else None  # without the batch's images
    then = _state_of(members)
    weights: list[str] = []  # of all explanations of the call, hashed once

    def receipt(explanation: "Explanation", rows: Sequence[int]) -> dict[str, Any]:
        now = model()
        whole = now is not None and _state_of(members_of(now)) == then
        if now is not None and whole and not weights:
            weights.append(weights_hash(now))
        own = None if now is None else described_preprocessing(now)
        applied = own if preprocessing is None else plain_params(preprocessing.to_dict())
        return {
            "weights": weights[0] if whole else None,
            "preprocessing": own,
            # of images that were loaded in another way than the model's own
            **({} if applied == own else {"applied": applied}),
            "images": [
                _image(explanation, i, files[row] if files else None) for i, row in enumerate(rows)
            ],
            "device": str(explanation.inputs.device),
            "dtype": str(explanation.inputs.dtype).removeprefix("torch."),
        }

    return receipt


def _image(explanation: "Explanation", index: int, file: tuple[str, str] | None) -> dict[str, str]:
    """The hash of one image: of its file, its pixels, or the model's input."""
    if file is not None:
        return {"path": file[0], "sha256": file[1]}
    if explanation.originals is not None:
        return {"pixels": pixels_hash(explanation.originals[index])}
    return {"tensor": tensor_hash(explanation.inputs[index])}


def described_preprocessing(module: nn.Module) -> dict[str, Any] | None:
    """What happens to an image before a model sees it; None for models of other inputs."""
    try:
        return dict(plain_params(preprocessing_of(module).to_dict()))
    except InputError:
        return None


def _state_of(members: Members) -> tuple[list[torch.dtype], list[int]]:
    """Differs once a parameter or buffer has been converted or written."""
    tensors = [*members.parameters, *members.buffers]
    return [tensor.dtype for tensor in tensors], versions_of(tensors)
