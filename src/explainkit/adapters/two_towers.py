"""Models of images and texts, such as CLIP and SigLIP: the image's part as a model of its own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from explainkit.errors import ModelError


class ImageTower(nn.Module):
    """The embedding of an image, by a model that embeds images and texts.

    It is what ``get_image_features`` of transformers or ``encode_image`` of OpenCLIP gives. Layers
    are those of the whole model, after ``"model."``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``[batch, features]`` of images."""
        model: Any = self.model
        if hasattr(model, "get_image_features"):
            return _vectors(model.get_image_features(pixel_values=images))
        found: Tensor = model.encode_image(images)
        return found


def embedder(model: nn.Module, tokenizer: Callable[..., Any]) -> Callable[[nn.Module, str], Tensor]:
    """A function from an `ImageTower` and a text to the text's embedding ``[features]``.

    Args:
        model: The model with both towers.
        tokenizer: That of transformers or OpenCLIP which belongs to it.

    Raises:
        ModelError: The model has not both towers.
    """
    ours = all(hasattr(model, f"get_{kind}_features") for kind in ("image", "text"))
    if not ours and not all(hasattr(model, f"encode_{kind}") for kind in ("image", "text")):
        raise ModelError(
            "tokenizer: expected a model with get_image_features and get_text_features, as in "
            "transformers, or encode_image and encode_text, as in OpenCLIP, got "
            f"{type(model).__name__}"
        )

    def embed(tower: nn.Module, text: str) -> Tensor:
        whole: Any = tower.model
        device = next(whole.parameters()).device
        if not ours:
            found: Tensor = whole.encode_text(tokenizer([text]).to(device))
            return found[0]
        # SigLIP was trained on texts padded to full length; a mask hides the padding from CLIP
        longest = whole.config.text_config.max_position_embeddings
        tokens = tokenizer(
            [text], padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        return _vectors(whole.get_text_features(**{k: v.to(device) for k, v in tokens.items()}))[0]

    return embed


def _vectors(found: Any) -> Tensor:
    """The embeddings in what transformers returns, which depends on its version."""
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors
