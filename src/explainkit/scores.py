"""What a model's outputs mean: which of them holds the scores, for which task, of which classes."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from explainkit.errors import ModelError, TargetError

Task = Literal["classification", "binary", "multilabel", "regression"]
"""One of several classes (softmax), one of two sides of a single logit (sigmoid), any number of
labels (a sigmoid each), or values without probabilities."""

TASKS: tuple[Task, ...] = ("classification", "binary", "multilabel", "regression")

NOUNS: Mapping[Task, str] = {
    "classification": "class", "binary": "class", "multilabel": "label", "regression": "output",
}  # fmt: skip
"""What one of a model's scores is for."""

_FEW = 32
"""Class names that an error lists; of more, it lists similar ones."""

_SCORE_KEYS = ("out", "output", "scores")

_VIEWS = (
    "Alias", "Clone", "Permute", "Reshape", "Select", "Slice", "Squeeze", "TBackward", "ToCopy",
    "Transpose", "Unsqueeze", "UnsafeView", "View",
)  # fmt: skip
"""Beginnings of the names of autograd nodes that leave values as they are."""


@dataclass(frozen=True)
class Outputs:
    """Which of a model's outputs holds its scores, and what they mean.

    By default the outputs are values, which are scores as they are.

    Attributes:
        output: Index, key or attribute of the scores among several outputs, as a dotted path if
            they are nested; None: the only output that can be scores.
        task: What the scores decide.
        class_names: In the order of the classes; empty if they have no names.
        squashed: Whether the model ends in a softmax or sigmoid, so that it returns probabilities.
    """

    output: int | str | None = None
    task: Task = "regression"
    class_names: tuple[str, ...] = ()
    squashed: bool = False

    def logits(self, output: Any, batch: int) -> Tensor:
        """The model's own scores ``[batch, outputs]``, from what it returned; see `as_scores`."""
        return as_scores(output, batch, self.output)

    def resolved(self, logits: Tensor) -> "Outputs":
        """With what only a forward shows: a single logit is binary, and the last operator.

        Args:
            logits: ``[batch, outputs]``, attached to the graph.

        Raises:
            ModelError: A binary model has several outputs.
            TargetError: The number of class names is not the number of classes.
        """
        found = replace(self, squashed=_is_squashed(logits))
        count = logits.shape[1]
        if self.task == "classification" and count == 1:
            found = replace(found, task="binary")
        elif self.task == "binary" and count != 1:
            raise ModelError(
                f"expected one logit for task='binary', got {count} outputs: omit task= for "
                "classes of a softmax"
            )
        classes = 2 if found.task == "binary" else count
        if self.class_names and len(self.class_names) != classes:
            raise TargetError(
                f"expected {classes} class names for {count} output{'s' * (count > 1)} of this "
                f"{found.task} model, got {len(self.class_names)}"
            )
        return found

    def scores(self, logits: Tensor) -> Tensor:
        """One score per class: the logits, or for a single logit z both sides, ``(−z, z)``.

        The sides' scores are their log odds. Where the model returns a probability p instead of a
        logit, they are ``(1 − p, p)``.
        """
        if logits.shape[1] != 1 or self.task not in {"classification", "binary"}:
            return logits
        # a product with a constant, which rules on operators merge with the last layer
        sides = logits * logits.new_tensor([-1.0, 1.0])
        return sides + logits.new_tensor([1.0, 0.0]) if self.squashed else sides

    def probabilities(self, logits: Tensor) -> Tensor | None:
        """``[batch, classes]``: softmax over classes, or a sigmoid of each logit.

        None for values without probabilities.
        """
        if self.task == "regression":
            return None
        if self.task == "classification":
            return logits if self.squashed else logits.softmax(1)
        found = logits if self.squashed else logits.sigmoid()
        return torch.cat([1 - found, found], 1) if self.task == "binary" else found

    def predicted(self, logits: Tensor) -> Tensor | None:
        """The predicted class of each image, int64 ``[batch]``.

        For labels, bool ``[batch, labels]``: those more probable than not. None for values.
        """
        if self.task == "regression":
            return None
        if self.task == "multilabel":
            return logits > (0.5 if self.squashed else 0)
        return (self.scores(logits) if self.task == "binary" else logits).argmax(1)


VALUES = Outputs()
"""Outputs that are scores as they are."""


def _is_squashed(logits: Tensor) -> bool:
    """Whether the last operator, apart from changes of shape, is a softmax or a sigmoid.

    Without a graph, as in a black box, only values can tell: those of a softmax sum to 1.
    """
    node = logits.grad_fn
    if node is None and logits.shape[1] > 1:
        sums = logits.sum(1, dtype=torch.float64)
        return bool((logits >= 0).all() and ((sums - 1).abs() < 1e-3).all())
    while node is not None and node.name().startswith(_VIEWS):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(("Softmax", "Sigmoid"))


def as_scores(output: Any, batch: int, name: int | str | None = None) -> Tensor:
    """Finds ``[batch, classes]`` in what a model returned.

    A tensor is taken as it is, and ``[batch]`` counts as one class. Of an object or a dict,
    ``logits`` is taken; of a dict without logits, ``out``, ``output`` or ``scores``, or its only
    tensor; of a tuple or list, the only tensor that fits.

    Args:
        output: What the model returned.
        batch: The number of images.
        name: Index, key or attribute of the scores, or a dotted path; None: as above.

    Raises:
        ModelError: Nothing fits, or several do; the message lists what the model returned.

    Examples:
        >>> import torch
        >>> as_scores({"logits": torch.zeros(2, 7), "features": torch.zeros(2, 64)}, 2).shape
        torch.Size([2, 7])
        >>> as_scores((torch.zeros(2, 4), torch.zeros(2, 2)), 2, 1).shape
        torch.Size([2, 2])
        >>> as_scores((torch.zeros(2, 4), torch.zeros(2, 2)), 2)
        Traceback (most recent call last):
        explainkit.errors.ModelError: expected one output that can be scores [batch, classes], got
        tuple with 0 float32 [2, 4], 1 float32 [2, 2]: choose one, such as output=0
    """
    found = _candidates(output) if name is None else {name: part_of(output, name)}
    fitting = {key: value for key, value in found.items() if _fits(value, batch)}
    if len(fitting) == 1 and (len(found) == 1 or not isinstance(output, Mapping)):
        scores: Tensor = next(iter(fitting.values()))
        return scores if scores.dim() == 2 else scores.reshape(batch, -1)
    if fitting:
        raise ModelError(
            f"expected one output that can be scores [batch, classes], got {described(output)}: "
            f"choose one, such as output={next(iter(fitting))!r}"
        )
    got = described(output if name is None else found[name])
    where = "the model" if name is None else f"output {name!r}"
    raise ModelError(
        f"expected scores [batch, classes] = [{batch}, …] from {where}, got {got}; "
        "pass a function from the output to one score per image as target"
    )


def _fits(value: Any, batch: int) -> bool:
    """Whether a value can be scores ``[batch, classes]``."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
        return False
    return len(value) == batch and (value.dim() == 1 or value[0].numel() == value.shape[1])


def _candidates(output: Any) -> Mapping[int | str, Any]:
    """The outputs among which scores are looked for, by name."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return {"logits": logits}
    if isinstance(output, Mapping):
        tensors = {key: value for key, value in output.items() if isinstance(value, Tensor)}
        if "logits" in tensors:
            return {"logits": tensors["logits"]}
        return {key: tensors[key] for key in _SCORE_KEYS if key in tensors} or tensors
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def part_of(output: Any, name: int | str) -> Any:
    """The part of an output at an index, key, attribute or dotted path.

    Raises:
        ModelError: It has no such part.
    """
    found: Any = output
    steps: Sequence[int | str] = name.split(".") if isinstance(name, str) else [name]
    if isinstance(output, Mapping) and name in output:
        steps = [name]  # a key may contain dots
    for step in steps:
        place = int(step) if isinstance(step, str) and step.isdecimal() else step
        try:
            if isinstance(found, Mapping) and step in found:
                found = found[step]
            elif isinstance(found, tuple | list) and isinstance(place, int):
                found = found[place]
            else:
                found = getattr(found, str(step))
        except (AttributeError, IndexError):
            raise ModelError(
                f"expected output={name!r} in what the model returns, got {described(output)}"
            ) from None
    return found


def described(output: Any) -> str:
    """What a model returned, as text: types, names, dtypes and shapes."""
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    kind = type(output).__name__
    parts = [*output.items()] if isinstance(output, Mapping) else []
    if isinstance(output, tuple | list):
        parts = [*enumerate(output)]
    listed = [f"{key} {described(value)}" for key, value in parts[:8]]
    return f"{kind} with {', '.join(listed)}" if listed else kind


def class_index(name: str | int, classes: int, class_names: Sequence[str] = ()) -> int:
    """The index of a class.

    Args:
        name: A class name or one of several that are separated by commas, as in "tench, Tinca
            tinca", ignoring case; or an index.
        classes: The model's number of classes.
        class_names: In the order of the logits.

    Raises:
        TargetError: No such class, or several of that name.

    Examples:
        >>> class_index("sad", 3, ("happy", "sad", "calm"))
        1
    """
    if isinstance(name, str):
        found = _named(name.casefold(), [known.casefold() for known in class_names])
        if len(found) > 1:
            raise TargetError(
                f"expected the name of one class, got {name!r} of classes "
                f"{', '.join(map(str, found))}: use an index"
            )
        if not found:
            raise TargetError(
                f"expected a class name of the model ({_listed(name, class_names)}), got {name!r}"
            )
        (name,) = found
    if not 0 <= name < classes:
        raise TargetError(
            f"expected targets from 0 to {classes - 1} (the model has {classes} classes), "
            f"got {name}"
        )
    return name


def _named(name: str, names: Sequence[str]) -> list[int]:
    """The classes of a name, or else those of which it is one of several names."""
    exact = [i for i, known in enumerate(names) if known == name]
    return exact or [i for i, known in enumerate(names) if name in map(str.strip, known.split(","))]


def _listed(name: str, names: Sequence[str]) -> str:
    """The names of all classes if they are few, otherwise similar ones."""
    if len(names) <= _FEW:
        return ", ".join(names) or "none: this model's classes have no names"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"one of {len(names)}" + (f", such as {', '.join(near)}" if near else "")
