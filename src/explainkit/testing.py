"""For method authors: small models of many kinds, and a check of the method contract."""

import copy
import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from explainkit.api import explain
from explainkit.catalog.factories import load_method, method_name
from explainkit.errors import ExplainkitError, ExplainkitWarning
from explainkit.interfaces import Method
from explainkit.methods.contract import is_seed
from explainkit.results.explanation import Explanation
from explainkit.scores import as_scores

SHAPE = (3, 12, 10)
"""Channel, height, width of the toy models' images; not square, to reveal mixed-up axes."""

CLASSES = 5


def toy_models() -> dict[str, tuple[nn.Module, Tensor]]:
    """Small networks with random weights that cover the ways in which models differ.

    Returns:
        Name to model and four images ``[4, 3, 12, 10]``, the same in every call. All are in eval
        mode except ``"batch_norm"``.

    Examples:
        >>> model, images = toy_models()["vit"]
        >>> model(images).shape
        torch.Size([4, 5])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models: dict[str, nn.Module] = {
            "plain": nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 3, CLASSES),
            ),
            "functional": _Functional(),
            "in_place": nn.Sequential(
                nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3),
                nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                nn.Linear(24, CLASSES),
            ),
            "reused": _Reused(),
            "residual": _Residual(),
            "batch_norm": nn.Sequential(
                nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
                nn.Flatten(), nn.Linear(480, CLASSES),
            ),
            "mlp": nn.Sequential(
                nn.Flatten(), nn.Linear(360, 32), nn.GELU(), nn.Linear(32, CLASSES)
            ),
            "tuple": _Tuple(),
            "vit": _VisionTransformer(),
        }  # fmt: skip
        images = torch.rand(4, *SHAPE)
        for module in models["batch_norm"].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn(6) / 10
                module.running_var = torch.rand(6) + 0.5
    return {
        name: (model.train(name == "batch_norm"), images.clone()) for name, model in models.items()
    }


class _Functional(nn.Module):
    """Functional ReLUs, which module hooks can't see."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 8, 3, stride=2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = F.relu(self.second(x)).mean((2, 3))
        out: Tensor = self.head(x)
        return out


class _Reused(nn.Module):
    """One ReLU module, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 6, 3)
        self.hidden = nn.Linear(6 * 8 * 6, 16)
        self.head = nn.Linear(16, CLASSES)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.second(self.relu(self.first(x))))
        out: Tensor = self.head(self.relu(self.hidden(x.flatten(1))))
        return out


class _Residual(nn.Module):
    """A sum of two branches, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.branch(x)
        y += x
        out: Tensor = self.head(F.relu(y).mean((2, 3)))
        return out


class _Tuple(nn.Module):
    """Returns logits and spatial features, as many classifiers do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AvgPool2d(2))
        self.head = nn.Linear(120, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.head(features.flatten(1)), features


class _VisionTransformer(nn.Module):
    """A vision transformer: 2×2 patches, a class token, two blocks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width) / 5)
        self.position = nn.Parameter(torch.randn(1, 31, width) / 5)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x[:, 0])
        return out


def _dead(scores: Tensor) -> Tensor:
    """Dead outputs: zero, without gradient."""
    return F.relu(scores.tanh() - 2)


def _saturated(scores: Tensor) -> Tensor:
    """Saturated outputs: probabilities of one, with nearly zero gradient."""
    return torch.sigmoid(scores.tanh() + 40)


class _Squashed(nn.Module):
    """A model whose scores pass through a squashing function."""

    def __init__(self, model: nn.Module, squash: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.squash = squash

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(as_scores(self.model(x), len(x)))


class _PlantedError(Exception):
    """Raised inside a model to test the cleanup."""


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(x)
        return out


def check_method(
    method: str | Method, models: dict[str, tuple[nn.Module, Tensor]] | None = None
) -> None:
    """Checks that a method honors explainkit's contract.

    A field named ``seed`` must be marked as one. On every model: the map has the shape and dtype of
    the images and is finite; the same seed gives the same map; an image's map depends neither on
    the other images nor on its position in the batch; memory layout does not matter; a constant
    target tensor is equivalent to its number; a dead or saturated output never gives a zero map
    without a warning. In all cases (success, an invalid target, an input with NaN, an error or a
    KeyboardInterrupt in the model's first, middle or last call), the model, images, modes and
    random generators are restored bit for bit. After an interrupt, a result marked as partial is
    also allowed.

    Args:
        method: A registered name, or a method.
        models: Name to model and images ``[batch ≥ 2, …]``; `toy_models` by default.

    Raises:
        AssertionError: The method violates the contract; the message names the model and the rule.

    Examples:
        >>> check_method("saliency", {"plain": toy_models()["plain"]})
    """
    ready = load_method(method)
    for name, (model, images) in (models or toy_models()).items():
        _Check(ready, model, images, f"{method_name(ready)} on {name}").run()


@dataclass(frozen=True)
class _Check:
    """One method on one model."""

    method: Method
    model: nn.Module
    images: Tensor
    where: str

    def run(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExplainkitWarning)
            self.contract()
            self.result()
            self.neighbors()
            self.layouts()
            self.precision()
            self.degenerate()
            self.faults()

    def map(self, images: Tensor, target: Any = 1, **options: Any) -> Tensor:
        found: Explanation = explain(self.model, images, target, self.method, **options)
        return found.attribution

    def expect(self, condition: bool, violation: str) -> None:
        if not condition:
            raise AssertionError(f"{self.where}: {violation}")

    def contract(self) -> None:
        for field in dataclasses.fields(self.method):
            self.expect(
                field.name != "seed" or is_seed(field),
                "its field seed is not marked as one, so that explain(seed=…) ignores it: "
                'seed: int = field(default=0, metadata={"seed": True})',
            )

    def result(self) -> None:
        with self.unchanged("after a successful call"):
            found = self.map(self.images)
        batch, channels, height, width = self.images.shape
        shapes = {(batch, channels, height, width), (batch, 1, height, width)}
        self.expect(found.shape in shapes, f"the map is {list(found.shape)}")
        self.expect(found.dtype == self.images.dtype, f"the map is {found.dtype}")
        self.expect(not found.requires_grad, "the map is still attached to a graph")
        self.expect(bool(torch.isfinite(found).all()), "the map is not finite")
        self.expect(bool((found != 0).any()), "the map is zero everywhere")
        torch.manual_seed(1)
        self.expect(torch.equal(found, self.whole), "the same seed gives a different map")
        same = torch.full((batch,), 1)
        self.expect(
            torch.equal(found, self.map(self.images, same)),
            "a tensor of equal targets gives a different map than their number",
        )

    def neighbors(self) -> None:
        images, found = self.images, self.whole
        order = torch.arange(len(images)).flip(0)
        self.close(
            self.map(images[order]), found[order], "the map depends on the order of the batch"
        )
        self.close(self.map(images[:1]), found[:1], "the map depends on the rest of the batch")
        fixed = self.map(images, batch_size=len(images))
        padded = self.map(images[:-1], batch_size=len(images))
        self.expect(
            torch.equal(padded, fixed[:-1]),
            "with chunks of one size, an image's map depends on the other images",
        )
        self.close(self.map(images, batch_size=1), found, "the map depends on the chunk size")

    def layouts(self) -> None:
        images, found = self.images, self.whole
        last = images.to(memory_format=torch.channels_last)
        self.close(self.map(last), found, "channels_last gives a different map")
        strided = images.repeat_interleave(2, 3)[..., ::2]
        self.close(self.map(strided), found, "a non-contiguous tensor gives a different map")

    def precision(self) -> None:
        for dtype in (torch.float64, torch.bfloat16):
            model, images = copy.deepcopy(self.model).to(dtype), self.images.to(dtype)
            found = explain(model, images, 1, self.method).attribution
            self.expect(found.dtype == dtype, f"{dtype} images give a map in {found.dtype}")
            self.expect(bool(torch.isfinite(found).all()), f"in {dtype} the map is not finite")

    def degenerate(self) -> None:
        for squash in (_dead, _saturated):
            try:
                found = explain(_Squashed(self.model, squash), self.images, 1, self.method)
            except ExplainkitError:
                continue
            lit = bool((found.attribution != 0).flatten(1).any(1).all())
            warned = bool(found.diagnostics.get("warnings"))
            self.expect(
                lit or warned, f"a {squash.__name__[1:]} output gives a zero map without a warning"
            )

    def close(self, one: Tensor, other: Tensor, violation: str) -> None:
        scale = float(other.abs().max()) or 1.0
        difference = float((one - other).abs().max())
        self.expect(
            difference <= max(1e-5 * scale, self.rounding),
            f"{violation} (by {difference / scale:.1e} of the largest value)",
        )

    @cached_property
    def explanation(self) -> Explanation:
        """Of all images, for class 1."""
        found: Explanation = explain(self.model, self.images, 1, self.method)
        return found

    @property
    def whole(self) -> Tensor:
        """The map of all images, for class 1."""
        return self.explanation.attribution

    @cached_property
    def rounding(self) -> float:
        """Rounding error of a score, which bounds the accuracy of differences of scores."""
        logits = self.explanation.logits
        return 8 * torch.finfo(logits.dtype).eps * float(logits.abs().max())

    def faults(self) -> None:
        with self.counted() as calls:
            self.map(self.images)
        (count,) = calls
        for call in sorted({1, (count + 1) // 2, count}):
            for planted in (_PlantedError("planted"), KeyboardInterrupt()):
                with self.unchanged(f"after {type(planted).__name__} in call {call} of {count}"):
                    raised = self.fail(
                        lambda: explain(self.model, self.images, 1, self.method), planted, call
                    )
                self.expect(raised is planted, f"{planted!r} in the model becomes {raised!r}")
        nan, infinite = self.images.clone(), self.images.clone()
        nan[0, 0, 0, 0], infinite[-1, -1, -1, -1] = torch.nan, torch.inf
        cases: dict[str, Callable[[], Any]] = {
            "a target out of range": lambda: self.map(self.images, 10**6),
            "an input with NaN": lambda: self.map(nan),
            "an infinite input": lambda: self.map(infinite),
            "an input on another device": lambda: self.map(self.images.to("meta")),
            "too few targets": lambda: self.map(self.images, torch.zeros(1, dtype=torch.int64)),
            "integer input": lambda: self.map(self.images.to(torch.uint8)),
            "an empty batch": lambda: self.map(self.images[:0]),
            "a missing batch axis": lambda: self.map(self.images[0]),
        }
        for name, case in cases.items():
            with self.unchanged(f"after {name}"):
                error = self.fail(case)
            self.expect(isinstance(error, ExplainkitError), f"{name} raises {error!r}")
            self.expect("\n" not in str(error), f"{name} raises an error of several lines")

    @contextmanager
    def counted(self, planted: BaseException | None = None, at: int = 0) -> Iterator[list[int]]:
        """Counts the model's calls, and raises an error in one of them."""
        calls = [0]

        def count(*_: Any) -> None:
            calls[0] += 1
            if planted and calls[0] == at:
                raise planted

        handle = self.model.register_forward_pre_hook(count)
        try:
            yield calls
        finally:
            handle.remove()

    def fail(
        self, call: Callable[[], Any], planted: BaseException | None = None, at: int = 0
    ) -> BaseException | None:
        """Runs a call that must fail, optionally by an error raised in a call of the model."""
        try:
            with self.counted(planted, at) as calls:
                found = call()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            return error
        if isinstance(planted, KeyboardInterrupt):
            # a sampling method may return what it has, marked as partial
            self.expect(found.diagnostics.get("partial", False), "an interrupt is suppressed")
            return planted
        self.expect(planted is not None and calls[0] < at, "a call that must fail succeeds")
        return None

    @contextmanager
    def unchanged(self, when: str) -> Iterator[None]:
        """Checks that the block changes nothing."""
        before = _state(self.model, self.images)
        yield
        after = _state(self.model, self.images)
        for what, value in before.items():
            self.expect(_equal(value, after[what]), f"{what} is changed {when}")


def _state(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Everything that a call might change."""
    found: dict[str, Any] = {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "torch's generator": torch.get_rng_state(),
        "numpy's generator": repr(np.random.get_state(legacy=False)),
        "python's generator": random.getstate(),
        "global module hooks": [
            dict(value)
            for name, value in vars(torch_module).items()
            if name.startswith("_global_") and isinstance(value, dict)
        ],
        "images": images.clone(),
        "images.requires_grad": images.requires_grad,
        "images.grad": images.grad,
    }
    for name, module in model.named_modules():
        attributes = vars(module)
        found[f"attributes of module {name!r}"] = list(attributes)
        for attribute, value in attributes.items():
            if isinstance(value, dict):
                value = [(key, id(inner)) for key, inner in value.items()]
            elif isinstance(value, Tensor):
                value = (id(value), value.clone())
            found[f"attribute {attribute} of module {name!r}"] = value
    for name, tensor in model.state_dict(keep_vars=True).items():
        found[f"value of {name}"] = tensor.detach().clone()
        found[f"requires_grad of {name}"] = tensor.requires_grad
        found[f"grad of {name}"] = tensor.grad if tensor.grad is None else tensor.grad.clone()
    return found


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return all(map(_equal, one, other))
    return bool(one == other)
