"""A training run: steps, a running average, and a state from which it goes on to the bit."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from explainkit.errors import ExplainkitError, ModelError, StorageError
from explainkit.guard import preserve_process
from explainkit.weights import ARCHITECTURE
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.models import build_cnn, build_dnn
from explainkit_fer_hw3.training import checkpoint
from explainkit_fer_hw3.training.batches import Batches
from explainkit_fer_hw3.training.batchnorm import folded, normalised
from explainkit_fer_hw3.training.recipe import Recipe

MEASURED_ON = 1024
"""Pictures whose statistics fill the normalisation of a network that starts from weights."""


class Training:
    """One run, from its first step or from where it stopped.

    The state after a step is a function of the fields alone: batches, augmentation and dropout
    are drawn from the seed and the number of the step. So a run that was stopped, or killed, and
    resumed ends in the same bits as one that was not (on the same machine and thread count).

    Attributes:
        step: Steps done.
        history: One row per finished epoch.

    Args:
        model: ``cnn`` or ``dnn``.
        data: The pictures to learn.
        recipe: How.
        epochs: Length of the run; the rate falls towards its end.
        seed: Of weights, order, augmentation and dropout.
        device: Where to train.
        start: Weights to start from instead of random ones.
    """

    def __init__(
        self,
        model: str,
        data: FaceDataset,
        recipe: Recipe,
        *,
        epochs: int,
        seed: int = 0,
        device: torch.device | None = None,
        start: nn.Sequential | None = None,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.seed = seed
        self.device = device or torch.device("cpu")
        self.batches = Batches(data, recipe, seed)
        self.steps = epochs * self.batches.per_epoch
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, right, pictures of this epoch
        self._seconds = 0.0
        with preserve_process(seed):
            plain = start or _build(model)
            images = data.subset(range(min(MEASURED_ON, len(data)))).images if start else None
            network = normalised(plain, images) if recipe.batch_norm else plain
        self.network = network.to(self.device, memory_format=torch.channels_last).train()
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimizer = _optimizer(self.network, recipe)
        self.dtype = _fast_dtype(self.device)
        self.facts = {
            "model": model,
            "recipe": asdict(recipe),
            "seed": seed,
            "pictures": hashlib.sha256(data.pixels.numpy().tobytes()).hexdigest()[:16],
        }

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.step / self.batches.per_epoch

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.recipe.rate_at(self.step, self.steps)

    def advance(self) -> dict[str, float]:
        """Makes one step.

        Returns:
            Loss and accuracy of its batch, the rate, and the pictures it held.

        Raises:
            ModelError: Loss or gradient is no longer finite; the state is that of the step before.
        """
        began = time.perf_counter()
        images, labels = self.batches[self.step]
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = labels.to(self.device)
        rate = self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed((self.seed * 1_000_003 + self.step) % 2**63)  # dropout
        self.optimizer.zero_grad(set_to_none=True)
        loss, logits = self._loss(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        size = nn.utils.get_total_norm(p.grad for p in self.network.parameters() if p.grad is not None)
        if not math.isfinite(float(loss.detach() + size)):
            raise ModelError(
                f"expected a finite loss and gradient in step {self.step}, got loss "
                f"{float(loss):g} and gradient {float(size):g} at rate {rate:g}: the run diverged; "
                "start again with a lower --rate"
            )
        self.optimizer.step()
        self.step += 1
        self._update_average()
        right = (logits.argmax(1) == labels).sum()
        batch = torch.stack([loss.detach() * len(labels), right, torch.tensor(len(labels))])
        self._sums += batch.double().cpu()
        self._seconds += time.perf_counter() - began
        return {
            "loss": float(loss.detach()),
            "accuracy": float(right) / len(labels),
            "rate": rate,
            "pictures": len(labels),
        }

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        block = _first_block(self.network) if self.step % self.recipe.first_block_every else 0
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            with torch.no_grad():
                inner = self.network[:block](images)
            logits = self.network[block:](inner).float()
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.smoothing), logits

    def _update_average(self) -> None:
        keep = min(self.recipe.average, self.step / (self.step + 9))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if keep and value.is_floating_point():
                    self.average[name].lerp_(value, 1 - keep)
                else:
                    self.average[name].copy_(value)

    def close_epoch(self, validation: FaceDataset) -> dict[str, float]:
        """Measures the averaged network and adds the epoch's row to the history."""
        loss, right, count = self._sums.tolist()
        held_loss, held_right = self._measure(validation)
        self.history.append(
            {
                "epoch": round(self.epoch),
                "step": self.step,
                "rate": self.recipe.rate_at(self.step - 1, self.steps),
                "loss": loss / count,
                "accuracy": right / count,
                "validation_loss": held_loss,
                "validation_accuracy": held_right,
                "pictures_per_second": round(count / self._seconds, 1),
                "seconds": round(self._seconds, 1),
            }
        )
        self._sums.zero_()
        self._seconds = 0.0
        return self.history[-1]

    def _measure(self, data: FaceDataset) -> tuple[float, float]:
        network = self.export().to(self.device)
        loss = right = 0.0
        with torch.inference_mode():
            for start in range(0, len(data), 96):
                part = data.subset(range(start, min(start + 96, len(data))))
                logits = network(part.images.to(self.device)).cpu()
                loss += float(F.cross_entropy(logits, part.labels, reduction="sum"))
                right += int((logits.argmax(1) == part.labels).sum())
        return loss / len(data), right / len(data)

    def export(self) -> nn.Sequential:
        """The averaged network without normalisation, exactly the study's, in eval mode."""
        with preserve_process(0):
            plain = _build(self.model)
            chain = normalised(_build(self.model)) if self.recipe.batch_norm else _build(self.model)
        chain.load_state_dict({name: value.cpu() for name, value in self.average.items()})
        return folded(chain, plain).eval()

    def save(self, folder: Path) -> None:
        """Writes the state into a folder, atomically.

        Raises:
            StorageError: It can't be written.
        """
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        for parameter, values in self.optimizer.state.items():
            for key, value in values.items():
                tensors[f"optimizer.{names[parameter]}.{key}"] = torch.as_tensor(value)
        tensors["sums"] = self._sums
        progress = {"step": self.step, "history": self.history, "seconds": self._seconds}
        checkpoint.save(folder / checkpoint.FILE, tensors, self.facts | progress)

    def resume(self, folder: Path) -> None:
        """Goes on from a folder's state.

        Raises:
            StorageError: There is none, or it is of another run.
        """
        path = folder / checkpoint.FILE
        tensors, saved = checkpoint.load(path)
        for key, value in self.facts.items():
            wanted = _plain(value)
            if saved.get(key) != wanted:
                raise StorageError(
                    f"{path} is of another run: expected {key} {wanted}, got {saved.get(key)}; "
                    "resume with the options it was started with, or choose another --out"
                )
        self.network.load_state_dict(_under(tensors, "network."))
        for name, value in _under(tensors, "average.").items():
            self.average[name].copy_(value)
        state = _under(tensors, "optimizer.")
        for name, parameter in self.network.named_parameters():
            values = {k: v.to(parameter.device if v.dim() else "cpu") for k, v in _under(state, f"{name}.").items()}
            if values:
                self.optimizer.state[parameter] = {
                    k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v  # noqa: PLR2004
                    for k, v in values.items()
                }
        self._sums.copy_(tensors["sums"])
        self.step, self.history, self._seconds = saved["step"], saved["history"], saved["seconds"]

    def save_weights(self, path: Path) -> None:
        """Writes the averaged network as weights that ``--model`` and `load_model` take."""
        metadata = {ARCHITECTURE: f"fer_hw3/{self.model}"}
        part = path.with_suffix(".part")
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in self.export().state_dict().items()}, part, metadata)
        part.replace(path)


def _build(model: str) -> nn.Sequential:
    return build_cnn() if model == "cnn" else build_dnn()


def _first_block(network: nn.Sequential) -> int:
    """Number of layers up to the first pooling, which is the end of the first block."""
    kinds = [isinstance(layer, nn.MaxPool2d) for layer in network]
    return kinds.index(True) + 1 if True in kinds else 0


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it, else None: single precision."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else None


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    kernels = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.rate)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _plain(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))
