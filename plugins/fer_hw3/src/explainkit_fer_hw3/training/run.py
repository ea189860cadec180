"""One training run: its steps, averaged weights, and state for bit-identical resumption."""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.catalog.weights import ARCHITECTURE
from explainkit.errors import ModelError, StorageError
from explainkit.isolation import preserve_process
from explainkit.progress import progress
from explainkit_fer_hw3.data import FaceDataset
from explainkit_fer_hw3.models import REACH, build_cnn, build_dnn
from explainkit_fer_hw3.training import checkpoint
from explainkit_fer_hw3.training.batches import Batches
from explainkit_fer_hw3.training.batchnorm import folded, frozen_statistics, normalized
from explainkit_fer_hw3.training.recipe import Recipe

STATISTICS_ON = 1024
"""Images on which batch-normalization statistics are measured when training starts from weights."""

EVALUATED = 96
"""Batch size of evaluation."""

SAM_SHARE = 0.25
"""Share of the photographs of a batch that sets the direction of sharpness-aware minimization."""

_BUILDERS = {"cnn": build_cnn, "dnn": build_dnn}


class Training:
    """One training run, new or resumed.

    The state after a step depends on the arguments alone: batches, augmentation and dropout are
    drawn from the seed and the step number. A run that was interrupted and resumed is therefore
    bit-identical to an uninterrupted one (on the same machine, torch and number of threads).

    Attributes:
        step: Steps completed.
        steps: Steps of the whole run.
        history: One row per completed epoch.

    Args:
        model: ``cnn`` or ``dnn``.
        data: The training images, all labeled.
        recipe: The hyper-parameters.
        epochs: Length of the run; it also sets when the learning rate falls.
        seed: Seed of weights, order, augmentation and dropout.
        device: Where to train; by default the CPU.
        start: A network of that kind whose weights to start from, instead of random ones. With
            `Recipe.self_distillation` its predictions are part of the targets, and with
            `Recipe.weight_interpolation` its weights are part of the saved ones.

    Examples:
        >>> from explainkit_fer_hw3.data import load_synthetic
        >>> from explainkit_fer_hw3.training.recipe import STUDY
        >>> training = Training("dnn", load_synthetic(count=14), STUDY, epochs=1)
        >>> while not training.at_epoch_end:
        ...     step = training.advance()
        >>> training.close_epoch(load_synthetic(split="validation", count=7))["epoch"]
        1
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
        start: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.seed = seed
        self.epochs = epochs
        self.device = device or torch.device("cpu")
        self.dtype = _fast_dtype(self.device)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, images of this epoch
        self._seconds = 0.0
        with preserve_process(seed):
            plain = _BUILDERS[model]()
            images = taught = None
            self._initial: dict[str, Tensor] = {}
            if start is not None:
                plain.load_state_dict(start.state_dict())
                images = data.subset(range(min(STATISTICS_ON, len(data)))).images
                if recipe.self_distillation:
                    taught = self._predicted(plain, data)
                if recipe.weight_interpolation:
                    self._initial = {k: v.detach().clone() for k, v in plain.state_dict().items()}
            network = normalized(plain, images) if recipe.batch_norm else plain
        self.batches = Batches(data, recipe, seed, taught)
        self.steps = epochs * self.batches.per_epoch
        self.network = _fast(network.to(self.device)).train()
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimizer = _optimizer(self.network, recipe)
        self._facts = {
            "model": model,
            "recipe": asdict(recipe),
            "seed": seed,
            "images": hashlib.sha256(data.pixels.numpy().tobytes()).hexdigest()[:16],
        }

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step of an epoch is done, so that `close_epoch` is due."""
        return self.step == (len(self.history) + 1) * self.batches.per_epoch

    @property
    def running(self) -> dict[str, float]:
        """Loss, accuracy and images per second over the steps of this epoch so far."""
        loss, correct, count = self._sums.tolist()
        return {
            "loss": loss / count,
            "accuracy": correct / count,
            "images_per_second": count / self._seconds,
        }

    def advance(self) -> dict[str, float]:
        """Runs one optimization step.

        Returns:
            Loss and accuracy on the batch, the learning rate, and the number of images.

        Raises:
            ModelError: The loss or gradient is not finite. The step is not taken, and the state
                must not be saved.
        """
        began = time.perf_counter()
        images, targets = self.batches[self.step]
        images = self._cropped(images).to(self.device, memory_format=torch.channels_last)
        targets = targets.to(self.device)
        lr = self.recipe.lr_at(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        dropout = preserve_process((self.seed * 1_000_003 + self.step) % 2**63)
        with dropout, self._perturbed(images, targets) if self.recipe.sam_rho else nullcontext():
            loss, logits = self._backward(images, targets)
        norm = nn.utils.get_total_norm(self._gradients().values())
        if not math.isfinite(float(loss + norm)):
            raise ModelError(
                f"expected a finite loss and gradient in step {self.step}, got loss "
                f"{float(loss):g} and gradient norm {float(norm):g} at learning rate {lr:g}: the "
                "run diverged (its last checkpoint is unchanged); start a new run with a lower --lr"
            )
        self.optimizer.step()
        self.step += 1
        self._update_average()
        count = len(targets)
        correct = int((logits.argmax(1) == targets.argmax(1)).sum())
        self._sums += torch.tensor([float(loss * count), correct, count], dtype=torch.float64)
        self._seconds += time.perf_counter() - began
        return {"loss": float(loss), "accuracy": correct / count, "lr": lr, "images": count}

    def _predicted(self, plain: nn.Sequential, data: FaceDataset) -> Tensor:
        """Class probabilities ``[n, 7]``, averaged over each image and its mirror image."""
        network = _fast(copy.deepcopy(plain).to(self.device)).eval()
        found = []
        with torch.no_grad(), self._autocast(), progress("targets", len(data)) as advance:
            for part in data.split(EVALUATED):
                images = part.images
                views = [self._cropped(view).to(self.device) for view in (images, images.flip(3))]
                predicted = torch.stack([network(view).float().softmax(1) for view in views])
                found.append(predicted.mean(0).cpu())
                advance(len(images), "")
        return torch.cat(found)

    def _cropped(self, images: Tensor) -> Tensor:
        """The part of the images that the output depends on; the rest would only cost time."""
        return images[..., : REACH[self.model], : REACH[self.model]]

    @contextmanager
    def _perturbed(self, images: Tensor, targets: Tensor) -> Iterator[None]:
        """Moves the weights up the loss on some photographs (SAM) and restores them on exit."""
        few = slice(max(1, round(SAM_SHARE * self.recipe.batch)))
        with frozen_statistics(self.network):
            self._backward(images[few], targets[few])
        gradients = self._gradients()
        norm = nn.utils.get_total_norm(gradients.values())
        before = {parameter: parameter.detach().clone() for parameter in gradients}
        with torch.no_grad():
            for parameter, gradient in gradients.items():
                parameter.add_(gradient * (self.recipe.sam_rho / (norm + 1e-12)))
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in before.items():
                    parameter.copy_(value)

    def _backward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits; afterwards the parameters hold the gradient of this loss only."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, logits = self._loss(images, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

    def _gradients(self) -> dict[nn.Parameter, Tensor]:
        return {p: p.grad for p in self.network.parameters() if p.grad is not None}

    def _loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        every = self.recipe.first_block_every
        frozen = not every or self.step % every
        block = _first_block(self.network) if frozen else 0
        with self._autocast():
            with torch.no_grad():
                inner = self.network[:block](images)
            logits = self.network[block:](inner).float()
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.smoothing), logits

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _update_average(self) -> None:
        decay = min(self.recipe.average, self.step / (self.step + 9))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if decay and value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def close_epoch(self, validation: FaceDataset) -> dict[str, float]:
        """Evaluates the averaged network and adds the epoch's row to the history.

        Raises:
            ModelError: The validation loss is not finite.
        """
        held_loss, held_accuracy = self.measure(validation)
        if not math.isfinite(held_loss):
            raise ModelError(
                f"expected a finite validation loss after step {self.step}, got {held_loss:g}: "
                "the run diverged (its last checkpoint is unchanged); start a new run with a lower "
                "--lr"
            )
        running = self.running
        self.history.append(
            {
                "epoch": self.step // self.batches.per_epoch,
                "step": self.step,
                "lr": self.recipe.lr_at(self.step - 1, self.steps),
                "loss": running["loss"],
                "accuracy": running["accuracy"],
                "validation_loss": held_loss,
                "validation_accuracy": held_accuracy,
                "images_per_second": round(running["images_per_second"], 1),
                "seconds": round(self._seconds, 1),
            }
        )
        self._sums.zero_()
        self._seconds = 0.0
        return self.history[-1]

    def measure(self, data: FaceDataset) -> tuple[float, float]:
        """Cross-entropy and accuracy of the averaged network, in single precision."""
        network = _fast(self.export().to(self.device))
        loss = correct = 0.0
        with torch.inference_mode():
            for part in data.split(EVALUATED):
                logits = network(self._cropped(part.images).to(self.device)).cpu()
                loss += float(F.cross_entropy(logits, part.labels, reduction="sum"))
                correct += int((logits.argmax(1) == part.labels).sum())
        return loss / len(data), correct / len(data)

    def export(self) -> nn.Sequential:
        """The averaged network in the study's architecture (normalization folded), in eval mode.

        With `Recipe.weight_interpolation` it is interpolated with the initial weights.
        """
        with preserve_process(0):
            chain = _BUILDERS[self.model]()
            if self.recipe.batch_norm:
                chain = normalized(chain)
        chain.load_state_dict({name: value.cpu() for name, value in self.average.items()})
        plain = folded(chain).eval()
        for name, value in self._initial.items():
            plain.state_dict()[name].lerp_(value, self.recipe.weight_interpolation)
        return plain

    def save_weights(self, path: Path) -> None:
        """Writes the averaged network as weights for ``--model`` and `load_model`.

        Raises:
            StorageError: The file can't be written.
        """
        metadata = {ARCHITECTURE: f"fer_hw3/{self.model}"}
        checkpoint.write(path, self.export().state_dict(), metadata)

    def save(self, folder: Path) -> None:
        """Writes a checkpoint into a folder, atomically.

        Raises:
            StorageError: The file can't be written.
        """
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        names: dict[Tensor, str] = {p: name for name, p in self.network.named_parameters()}
        for parameter, values in self.optimizer.state.items():
            for key, value in values.items():
                tensors[f"optimizer.{names[parameter]}.{key}"] = torch.as_tensor(value)
        tensors["sums"] = self._sums
        if self.batches.taught is not None:
            tensors["taught"] = self.batches.taught
        tensors |= {f"initial.{k}": v for k, v in self._initial.items()}
        progress = {
            "epochs": self.epochs,
            "step": self.step,
            "history": self.history,
            "seconds": self._seconds,
        }
        checkpoint.save(folder / checkpoint.FILE, tensors, self._facts | progress)

    def resume(self, folder: Path) -> None:
        """Continues from the checkpoint in a folder.

        Raises:
            StorageError: There is no checkpoint, it is damaged, it belongs to a different run or
                another version, or it is beyond the end of this run.
        """
        path = folder / checkpoint.FILE
        tensors, saved = checkpoint.load(path)
        differing = checkpoint.differing(self._facts, saved)
        if differing:
            raise StorageError(
                f"{path} belongs to a different run ({'; '.join(differing)}): resume with the "
                "options it was started with, or choose another --out"
            )
        if saved["step"] > self.steps:
            raise StorageError(
                f"expected at least {-(-saved['step'] // self.batches.per_epoch)} epochs, which "
                f"{path} has already begun, got --epochs {self.epochs}"
            )
        self.network.load_state_dict(checkpoint.under(tensors, "network."))
        for name, value in checkpoint.under(tensors, "average.").items():
            self.average[name].copy_(value)
        state = checkpoint.under(tensors, "optimizer.")
        for name, parameter in self.network.named_parameters():
            values = checkpoint.under(state, f"{name}.")
            if values:
                self.optimizer.state[parameter] = {
                    # Adam counts its steps on the CPU
                    key: torch.empty_like(parameter).copy_(value) if value.dim() else value
                    for key, value in values.items()
                }
        self.batches.taught = tensors.get("taught")
        self._initial = checkpoint.under(tensors, "initial.")
        self._sums.copy_(tensors["sums"])
        self.step, self.history, self._seconds = saved["step"], saved["history"], saved["seconds"]


def _first_block(network: nn.Sequential) -> int:
    """Number of layers in the first block, which ends with the first pooling."""
    kinds = [isinstance(layer, nn.MaxPool2d) for layer in network]
    return kinds.index(True) + 1 if True in kinds else 0


def _fast(network: nn.Sequential) -> nn.Sequential:
    """Converts a network to channels-last memory format, in which convolutions run fastest."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware supports it, else None (single precision)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else None


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = [
        {
            "params": [p for p in network.parameters() if p.dim() > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
