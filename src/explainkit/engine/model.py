"""Wraps any image model as one that returns scores ``[batch, classes]``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from explainkit.engine.failures import failing_as_model_error
from explainkit.engine.inner_layer import InnerLayer
from explainkit.engine.texts import embeddings_of
from explainkit.errors import ModelError, TargetError
from explainkit.expressions import Expression, Scope, evaluate_each
from explainkit.graph.autograd import prepare
from explainkit.layers import Members, capture, members_of, single
from explainkit.scores import VALUES, Outputs


@dataclass(eq=False)
class Forward:
    """The engine's forward pass over a chunk of images, which methods share.

    Attributes:
        inputs: The images, a leaf that requires grad.
        scores: ``[batch, classes]``, attached to the graph.
        needs: What was recorded during the pass.
        from_layers: Whether the graph begins at the layers of ``needs``, not at the images.
        activations: Output of each layer of ``needs``, attached to the graph.
        records: Operators by sequence number, if ``needs`` asks for them.
        gradients: Results of `passes.gradients`, by the id of the target tensor.
        evaluations: Mask evaluations that methods have made of these images.
    """

    inputs: Tensor
    scores: Tensor
    needs: Any = None
    from_layers: bool = False
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    records: Mapping[int, list[Any]] | None = None
    gradients: dict[int, tuple[Tensor, Any]] = field(default_factory=dict)
    evaluations: list[Any] = field(default_factory=list)

    def has(self, layers: Iterable[str]) -> bool:
        """Whether the outputs of all these layers were recorded."""
        return set(layers) <= self.activations.keys()


class Run(NamedTuple):
    """What one forward of a model gives.

    Attributes:
        scores: The explained scores ``[batch, classes]``; ``[batch, 1]`` for a function or
            expression.
        logits: The model's own outputs ``[batch, outputs]``, or the scores again if none of them
            can be scores.
        has_logits: Whether they are the model's own.
        scope: What an expression was computed from; None: a class or a function was.
    """

    scores: Tensor
    logits: Tensor
    has_logits: bool
    scope: Scope | None


class ScoreModel(nn.Module):
    """The model that a method is called with.

    It returns ``[batch, classes]`` whatever the caller's model returns, and protects its input from
    changes in place. Called on the same tensor object that the engine ran, it returns the engine's
    own forward with its graph, so that a method which needs the score and the gradient of the
    unchanged images costs no second pass.

    Attributes:
        module: What runs: the caller's model, or the part of it after a layer.
        owner: The caller's model, which layer paths refer to.
        members: What the caller's model consists of.
        outputs: What the model's outputs mean; `run` completes it.
        batch_size: Images run at once; None: as many as fit the budget.
        precision: Of the method's own forwards; None: the model's. The engine's forward, whose
            scores a result reports, always has that of the model.
        shared: Whether more than one computation uses the engine's forward, so that its graph must
            be retained.
        found: What methods have found out about the model in this call, by what it is about.
        interrupted: Whether the user has interrupted: what remains is computed with the fewest
            possible samples.
    """

    def __init__(
        self,
        module: nn.Module,
        score: "Callable[[Any], Tensor] | Expression | None" = None,
        batch_size: int | None = None,
        outputs: Outputs = VALUES,
        owner: nn.Module | None = None,
        precision: torch.dtype | None = None,
        members: Members | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.owner = module if owner is None else owner
        self.members = members or members_of(self.owner)
        self.outputs = outputs
        self.batch_size = batch_size
        self.precision = precision
        self.shared = False
        self.found: dict[Any, Any] = {}
        self.interrupted = False
        self._score = score
        self._embeddings = (
            embeddings_of(score.texts, self.owner) if isinstance(score, Expression) else {}
        )
        self._ready: Forward | None = None

    def after(self, inner: InnerLayer) -> "ScoreModel":
        """The same scores, computed from the output of a layer."""
        return ScoreModel(
            inner, self._score, self.batch_size, self.outputs, self.module, members=self.members
        )

    def hold(self, forward: Forward | None) -> None:
        """Stores a forward for `ready`; None releases it."""
        self._ready = forward

    def ready(self, inputs: Tensor) -> Forward | None:
        """The engine's forward of this tensor object, if there is one."""
        return self._ready if self._ready is not None and self._ready.inputs is inputs else None

    def run(self, inputs: Tensor) -> Run:
        """Runs the model once."""
        output, activations = self._output(inputs)
        has_logits = True
        try:
            logits = self.outputs.logits(output, len(inputs))
        except ModelError:
            if self._score is None:
                raise
            self.outputs = replace(self.outputs, task="regression")
            scores = logits = self._scores(output, activations, inputs)
            has_logits = False
        else:
            self.outputs = self.outputs.resolved(logits)
            scores = self._scores(output, activations, inputs)
        scope = None
        if isinstance(self._score, Expression):
            scope = self._scope(output, None, activations, inputs)
        return Run(scores, logits, has_logits, scope)

    def boxes(self, run: Run) -> Tensor | None:
        """The boxes that an expression is about, as in `Expression.shown_boxes`.

        They are no part of `run`, whose operators methods may record.
        """
        if run.scope is None or not isinstance(self._score, Expression):
            return None
        with torch.no_grad():
            return self._score.shown_boxes(run.scope)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores ``[batch, classes]`` of images ``[batch, channel, height, width]``."""
        if self.precision is not None:
            with torch.autocast(inputs.device.type, self.precision):
                found = self._output(inputs)
            # what follows is cheap, and exact in the images' own dtype
            output, activations = tree_map_only(
                Tensor, lambda v: v.to(inputs) if v.is_floating_point() else v, found
            )
            return self._scores(output, activations, inputs)
        ready = self.ready(inputs)
        if ready is not None and not torch.is_grad_enabled():
            return ready.scores.detach()
        if ready is not None and not (self.shared or ready.from_layers):
            self._ready = None  # the caller may free its graph
            return ready.scores
        output, activations = self._output(inputs)
        return self._scores(output, activations, inputs)

    def precise(self) -> "ScoreModel":
        """The same scores in the model's own precision."""
        # one image needs no larger batch than one, but a model may run on no larger one
        size = 1 if self.batch_size == 1 else None
        made = ScoreModel(self.module, self._score, size, self.outputs, self.owner)
        made.interrupted = self.interrupted
        return made

    @property
    def reads_output_only(self) -> bool:
        """Whether the scores depend on the model's output alone, not on inner layers or images."""
        score = self._score
        return not isinstance(score, Expression) or not (score.layers or score.uses_images)

    @property
    def reads_logits_only(self) -> bool:
        """Whether the scores are the model's logits, or an expression of nothing else."""
        score = self._score
        return score is None or (
            isinstance(score, Expression) and self.reads_output_only and not score.uses_output
        )

    def scores_of(
        self,
        output: Any,
        batch: int,
        activations: Mapping[str, Tensor] | None = None,
        images: Tensor | None = None,
    ) -> Tensor:
        """Converts the model's output to scores ``[batch, classes]``.

        Args:
            output: The model's own output.
            batch: The number of images.
            activations: Outputs of inner layers; not needed if `reads_output_only`.
            images: The model's input; not needed if `reads_output_only`.

        Raises:
            ModelError: The output cannot be interpreted as scores.
            TargetError: The target function does not return one score per image.
        """
        if self._score is None:
            return self.outputs.scores(self.outputs.logits(output, batch))
        if isinstance(self._score, Expression):
            logits = None
            if self._score.uses_logits:
                logits = self.outputs.scores(self.outputs.logits(output, batch))
            scope = self._scope(output, logits, activations or {}, images)
            scores = evaluate_each([self._score] * batch, scope)
        else:
            scores = self._score(output)
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if not isinstance(scores, Tensor) or shape not in {(batch,), (batch, 1)}:
            raise TargetError(
                f"expected the target function to return one score per image, [{batch}], "
                f"got {shape}"
            )
        return scores.reshape(batch, 1)

    def _scope(
        self,
        output: Any,
        logits: Tensor | None,
        activations: Mapping[str, Tensor],
        images: Tensor | None,
    ) -> Scope:
        return Scope(
            logits, activations, images, self.outputs.class_names,
            output=output, embeddings=self._embeddings,
        )  # fmt: skip

    def _output(self, inputs: Tensor) -> tuple[Any, Mapping[str, Tensor]]:
        """The model's own output, and the outputs of the layers that the score uses."""
        layers = self._score.layers if isinstance(self._score, Expression) else ()
        count = len(inputs)
        with (
            capture(self.owner, layers, count=count) as calls,
            failing_as_model_error(self.module, inputs),
        ):
            output = self.module(inputs.clone())
        return output, {path: single(outputs, path) for path, outputs in calls.items()}

    def _scores(self, output: Any, activations: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        scores = self.scores_of(output, len(inputs), activations, inputs)
        if scores.grad_fn is not None:
            prepare(scores)
        return scores


def unwrapped(model: nn.Module) -> nn.Module:
    """The caller's model, which layer paths name."""
    return model.owner if isinstance(model, ScoreModel) else model


def shapes_of_one(model: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    """Shapes that a value for a single image can have: image, spatial, and layer shapes.

    Args:
        model: What a method is called with.
        inputs: ``[batch, channel, height, width]``.
    """
    shapes = [tuple(inputs.shape[1:]), tuple(inputs.shape[2:])]
    if isinstance(model, ScoreModel) and isinstance(inner := model.module, InnerLayer):
        shapes += [inner.image_shape, inner.shape]
    return shapes


def as_input(model: nn.Module, value: float | Tensor, field: str) -> float | Tensor:
    """Converts a baseline to the space of the method's inputs: images, or a layer's outputs.

    Args:
        model: What the method is called with.
        value: The caller's value.
        field: Name of the method's field, for errors.

    Raises:
        MethodError: Its shape fits neither the images nor the layer.
    """
    if isinstance(model, ScoreModel) and isinstance(inner := model.module, InnerLayer):
        return inner.baseline(value, field)
    return value
