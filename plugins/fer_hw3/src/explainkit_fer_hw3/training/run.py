"""A training run: steps, a running average, and a state from which it goes on to the bit."""

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
from explainkit_fer_hw3.training.convolution import with_patches
from explainkit_fer_hw3.training.recipe import Recipe

MEASURED_ON = 1024
"""Images whose statistics fill the normalization of a network that starts from weights."""

EVALUATED = 96
"""Images at once when a data set is measured."""

_BUILDERS = {"cnn": build_cnn, "dnn": build_dnn}


class Training:
    """One run, from its first step or from where it stopped.

    The state after a step is a function of the arguments alone: batches, augmentation and dropout
    are drawn from the seed and the number of the step. So a run that was stopped, or killed, and
    resumed ends in the same bits as one that was not (on the same machine and thread count).

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        history: One row per finished epoch.

    Args:
        model: ``cnn`` or ``dnn``.
        data: The images to learn, all with labels.
        recipe: How.
        epochs: Length of the run; the rate falls towards its end.
        seed: Of weights, order, augmentation and dropout.
        device: Where to train; by default the CPU.
        start: A network of that kind whose weights to start from, instead of random ones, and
            whose predictions are part of the targets and whose weights are part of what is saved,
            as the recipe says.

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
        self._sums = torch.zeros(3, dtype=torch.float64)  # loss, right, images of this epoch
        self._seconds = 0.0
        with preserve_process(seed):
            plain = _BUILDERS[model]()
            images = taught = None
            self._kept: dict[str, Tensor] = {}
            if start is not None:
                plain.load_state_dict(start.state_dict())
                images = data.subset(range(min(MEASURED_ON, len(data)))).images
                if recipe.self_distillation:
                    taught = self._predicted(plain, data)
                if recipe.weight_interpolation:
                    self._kept = {k: v.detach().clone() for k, v in plain.state_dict().items()}
            network = normalized(plain, images) if recipe.batch_norm else plain
        self.batches = Batches(data, recipe, seed, taught)
        self.steps = epochs * self.batches.per_epoch
        if self.dtype == torch.bfloat16 and self.device.type == "cpu":
            network = with_patches(network)
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
        """Whether an epoch's last step is done and `close_epoch` is due."""
        return self.step == (len(self.history) + 1) * self.batches.per_epoch

    @property
    def running(self) -> dict[str, float]:
        """Loss, accuracy and images per second of this epoch's steps so far."""
        loss, right, count = self._sums.tolist()
        return {
            "loss": loss / count,
            "accuracy": right / count,
            "images_per_second": count / self._seconds,
        }

    def advance(self) -> dict[str, float]:
        """Makes one step.

        Returns:
            Loss and accuracy of its batch, the learning rate, and the images it held.

        Raises:
            ModelError: Loss or gradient is no longer finite: nothing was learnt from it, but the
                state is not to be saved any more.
        """
        began = time.perf_counter()
        images, targets = self.batches[self.step]
        images = self._seen(images).to(self.device, memory_format=torch.channels_last)
        targets = targets.to(self.device)
        rate = self.recipe.rate_at(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        dropout = preserve_process((self.seed * 1_000_003 + self.step) % 2**63)
        with dropout, self._climbed(images, targets) if self.recipe.sam_rho else nullcontext():
            loss, logits = self._backward(images, targets)
        length = nn.utils.get_total_norm(self._gradients().values())
        if not math.isfinite(float(loss + length)):
            raise ModelError(
                f"expected a finite loss and gradient in step {self.step}, got loss "
                f"{float(loss):g} and a gradient of length {float(length):g} at rate {rate:g}: "
                "the run diverged; its last checkpoint stays; start a new one with a lower --lr"
            )
        self.optimizer.step()
        self.step += 1
        self._update_average()
        count = len(targets)
        right = int((logits.argmax(1) == targets.argmax(1)).sum())
        self._sums += torch.tensor([float(loss * count), right, count], dtype=torch.float64)
        self._seconds += time.perf_counter() - began
        return {
            "loss": float(loss),
            "accuracy": right / count,
            "lr": rate,
            "images": count,
        }

    def _predicted(self, plain: nn.Sequential, data: FaceDataset) -> Tensor:
        """Probabilities ``[n, 7]``, the mean of those for an image and for its mirror image."""
        network = _fast(copy.deepcopy(plain).to(self.device)).eval()
        found = []
        with torch.no_grad(), self._autocast(), progress("targets", len(data)) as advance:
            for start in range(0, len(data), EVALUATED):
                images = data.subset(range(start, min(start + EVALUATED, len(data)))).images
                views = [self._seen(view).to(self.device) for view in (images, images.flip(3))]
                said = torch.stack([network(view).float().softmax(1) for view in views])
                found.append(said.mean(0).cpu())
                advance(len(images), "")
        return torch.cat(found)

    def _seen(self, images: Tensor) -> Tensor:
        """What the output depends on of the images: the rest costs a quarter of a step."""
        return images[..., : REACH[self.model], : REACH[self.model]]

    @contextmanager
    def _climbed(self, images: Tensor, targets: Tensor) -> Iterator[None]:
        """Moves the weights up the loss of some of the photographs, and back on leaving."""
        few = slice(max(1, round(self.recipe.sam_share * self.recipe.batch)))
        with frozen_statistics(self.network):
            self._backward(images[few], targets[few])
        gradients = self._gradients()
        length = nn.utils.get_total_norm(gradients.values())
        before = {parameter: parameter.detach().clone() for parameter in gradients}
        with torch.no_grad():
            for parameter, gradient in gradients.items():
                parameter.add_(gradient * (self.recipe.sam_rho / (length + 1e-12)))
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in before.items():
                    parameter.copy_(value)

    def _backward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits; the parameters hold the gradient of this loss alone."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, logits = self._loss(images, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

    def _gradients(self) -> dict[nn.Parameter, Tensor]:
        return {p: p.grad for p in self.network.parameters() if p.grad is not None}

    def _loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        every = self.recipe.first_block_every
        resting = not every or self.step % every
        block = _first_block(self.network) if resting else 0
        with self._autocast():
            with torch.no_grad():
                inner = self.network[:block](images)
            logits = self.network[block:](inner).float()
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.smoothing), logits

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _update_average(self) -> None:
        keep = min(self.recipe.average, self.step / (self.step + 9))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if keep and value.is_floating_point():
                    self.average[name].lerp_(value, 1 - keep)
                else:
                    self.average[name].copy_(value)

    def close_epoch(self, validation: FaceDataset) -> dict[str, float]:
        """Measures the averaged network and adds the epoch's row to the history.

        Raises:
            ModelError: The averaged network's loss is not finite.
        """
        held_loss, held_accuracy = self.measure(validation)
        if not math.isfinite(held_loss):
            raise ModelError(
                f"expected a finite validation loss after step {self.step}, got {held_loss:g}: "
                "the run diverged; its last checkpoint stays; start a new one with a lower --lr"
            )
        running = self.running
        self.history.append(
            {
                "epoch": self.step // self.batches.per_epoch,
                "step": self.step,
                "lr": self.recipe.rate_at(self.step - 1, self.steps),
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
        loss = right = 0.0
        with torch.inference_mode():
            for start in range(0, len(data), EVALUATED):
                part = data.subset(range(start, min(start + EVALUATED, len(data))))
                logits = network(self._seen(part.images).to(self.device)).cpu()
                loss += float(F.cross_entropy(logits, part.labels, reduction="sum"))
                right += int((logits.argmax(1) == part.labels).sum())
        return loss / len(data), right / len(data)

    def export(self) -> nn.Sequential:
        """The averaged network without normalization, exactly the study's, in eval mode.

        Part of its weights are those of the start, as the recipe says.
        """
        with preserve_process(0):
            chain = _BUILDERS[self.model]()
            if self.recipe.batch_norm:
                chain = normalized(chain)
        chain.load_state_dict({name: value.cpu() for name, value in self.average.items()})
        plain = folded(chain).eval()
        for name, kept in self._kept.items():
            plain.state_dict()[name].lerp_(kept, self.recipe.weight_interpolation)
        return plain

    def save_weights(self, path: Path) -> None:
        """Writes the averaged network as weights that ``--model`` and `load_model` take.

        Raises:
            StorageError: They can't be written.
        """
        metadata = {ARCHITECTURE: f"fer_hw3/{self.model}"}
        checkpoint.write(path, self.export().state_dict(), metadata)

    def save(self, folder: Path) -> None:
        """Writes the state into a folder, atomically.

        Raises:
            StorageError: It can't be written.
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
        tensors |= {f"kept.{k}": v for k, v in self._kept.items()}
        progress = {
            "epochs": self.epochs,
            "step": self.step,
            "history": self.history,
            "seconds": self._seconds,
        }
        checkpoint.save(folder / checkpoint.FILE, tensors, self._facts | progress)

    def resume(self, folder: Path) -> None:
        """Goes on from a folder's state.

        Raises:
            StorageError: There is none, it is of another run, or that has gone further.
        """
        path = folder / checkpoint.FILE
        tensors, saved = checkpoint.load(path)
        differing = checkpoint.differing(self._facts, saved)
        if differing:
            raise StorageError(
                f"{path} is of another run: {'; '.join(differing)}; resume with the options it "
                "was started with, or choose another --out"
            )
        if saved["step"] > self.steps:
            raise StorageError(
                f"expected a run of at least {-(-saved['step'] // self.batches.per_epoch)} epochs, "
                f"which {path} has begun, got --epochs {self.epochs}"
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
        self._kept = checkpoint.under(tensors, "kept.")
        self._sums.copy_(tensors["sums"])
        self.step, self.history, self._seconds = saved["step"], saved["history"], saved["seconds"]


def _first_block(network: nn.Sequential) -> int:
    """Number of layers up to the first pooling, which is the end of the first block."""
    kinds = [isinstance(layer, nn.MaxPool2d) for layer in network]
    return kinds.index(True) + 1 if True in kinds else 0


def _fast(network: nn.Sequential) -> nn.Sequential:
    """The same network in the layout in which convolutions run fastest."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it, else None: single precision."""
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
