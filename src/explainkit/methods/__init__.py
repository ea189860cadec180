"""Saliency methods. Each is a frozen dataclass that is called with a model, images and targets."""
