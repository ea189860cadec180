"""LeGrad: the sensitivity of each layer's score to that layer's attention."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.engine.model import unwrapped
from explainkit.engine.passes import Needs
from explainkit.errors import MethodError
from explainkit.graph.tape import RecordedForward, recording, refuse_scripted
from explainkit.interfaces import Attribution
from explainkit.methods.attention.matrices import KEEP, arriving, attention_nodes, per_head
from explainkit.methods.attention.rollout import TokenMap


@dataclass(eq=False)
class _Block:
    """One of a numbered sequence of layers.

    Attributes:
        path: Its dotted path.
        module: The layer.
        began: Autograd's sequence number at the start of each call.
        ended: Autograd's sequence number at the end of each call.
        output: Its last output.
    """

    path: str
    module: nn.Module
    began: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    output: Any = None

    @property
    def tokens(self) -> Any:
        """What it passes on: tokens ``[batch, token, channel]``, if `has_tokens`."""
        return self.output[0] if isinstance(self.output, tuple) and self.output else self.output

    @property
    def has_tokens(self) -> bool:
        """Whether it ran once and its output is tokens."""
        tokens = self.tokens
        return len(self.ended) == 1 and isinstance(tokens, Tensor) and tokens.dim() == 3

    def with_tokens(self, tokens: Tensor) -> Any:
        """Its output with other tokens."""
        return (tokens, *self.output[1:]) if isinstance(self.output, tuple) else tokens


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[_Block]]:
    """Records when each numbered layer with submodules runs, and its output."""
    blocks = [
        _Block(path, module)
        for path, module in model.named_modules()
        if path[-1:].isdigit() and next(module.children(), None) is not None
    ]

    def begin(block: _Block) -> Any:
        return lambda *_: block.began.append(_number())

    def end(block: _Block) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            block.ended.append(_number())
            block.output = output

        return keep

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.module.register_forward_pre_hook(begin(block)).remove)
            hooks.callback(block.module.register_forward_hook(end(block)).remove)
        yield blocks


def _number() -> int:
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def _sequence(blocks: list[_Block], attentions: list[int]) -> list[_Block]:
    """The longest sequence of blocks with attention.

    Raises:
        MethodError: There is none, or its tokens change from block to block.
    """
    sequences: dict[str, list[_Block]] = {}
    for block in blocks:
        if block.has_tokens and any(block.began[0] <= n < block.ended[0] for n in attentions):
            sequences.setdefault(block.path.rpartition(".")[0], []).append(block)
    if not sequences:
        raise MethodError(
            "legrad: expected a transformer with numbered blocks (blocks.0, blocks.1, …) that "
            "output tokens [batch, token, channel], got none with attention: use gradient_rollout, "
            "which needs no blocks"
        )
    sequence = max(sequences.values(), key=len)
    shapes = {tuple(block.tokens.shape[1:]) for block in sequence}
    if len(shapes) > 1:
        raise MethodError(
            f"legrad: expected blocks with tokens of one shape, got {sorted(shapes)}: the head "
            "cannot be applied to earlier blocks; use libragrad, another gradient method or a "
            "class activation map"
        )
    return sequence


@contextmanager
def _short_cut(sequence: Sequence[_Block], tokens: Tensor) -> Iterator[None]:
    """Skips all blocks: the last one outputs these tokens."""

    def constant(output: Any) -> Any:
        return lambda *_args, **_kwargs: output

    own = [vars(block.module).get("forward") for block in sequence]
    try:
        for block in sequence[:-1]:
            block.module.forward = constant(block.output)
        sequence[-1].module.forward = constant(sequence[-1].with_tokens(tokens))
        yield
    finally:
        for block, forward in zip(sequence, own, strict=True):
            vars(block.module).pop("forward", None)
            if forward is not None:
                block.module.forward = forward


@dataclass(frozen=True)
class LeGrad(TokenMap):
    """The positive gradient of each layer's score with respect to its attention (LeGrad).

    ``a = 1/L Σ_l mean_{h,q} (∂s_l / ∂A_l)⁺``, where ``s_l`` is the target's score when the
    classification head is applied to the tokens of block l, and the mean is over attention heads
    and query tokens. If the head pools tokens by attention, its attention takes the place of
    ``A_l``.

    The paper's figures are scaled to [0, 1]; the values here are not.

    Attributes:
        upsample: Interpolation from patches to the size of the image (``align_corners=False``).
        patch_grid: Height and width of the patch grid, if it cannot be inferred from the model.
        prefix_tokens: Number of class and register tokens before the patches, likewise.
        layers: Use only this many of the last blocks; None: all.

    Raises:
        MethodError: The model has no numbered blocks with attention among all tokens.

    References:
        Bousselham, Boggust, Chaybouti, Strobelt and Kuehne (2024), "LeGrad: An Explainability
        Method for Vision Transformers via Feature Formation Sensitivity", arXiv:2404.03214.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["vit"], 0, "legrad")
        >>> e.diagnostics["blocks"]
        ['blocks.0', 'blocks.1']
    """

    layers: int | None = field(default=None, metadata={"layer": True, "least": 1})

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """Nothing that other methods share: its forward observes the blocks."""
        return Needs()

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, not negative, score per unit of attention."""
        refuse_scripted(model)
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad(), recording(KEEP) as tape:
            with _watched(unwrapped(model)) as blocks:
                scores = model(leaf)
            whole = RecordedForward(leaf, scores, tape.records)
            sequence = _sequence(
                blocks, [node._sequence_nr() for node in attention_nodes(whole, "legrad")]
            )
            chosen = sequence[-self.layers :] if self.layers else sequence
            scored = []
            for block in chosen:
                with _short_cut(sequence, block.tokens):
                    scored.append(scores if block is sequence[-1] else model(leaf))
        parts = [_sensitivity(RecordedForward(leaf, s, tape.records), target) for s in scored]
        found = self.upsampled(torch.stack(parts).mean(0), model, inputs)
        return found.saying(blocks=[block.path for block in chosen])


def _sensitivity(trace: RecordedForward, target: Tensor) -> Tensor:
    """Sensitivity of one block's score to the last attention before it, ``[batch, key]``."""
    node, call = list(attention_nodes(trace, "legrad").items())[-1]
    batch = len(trace.inputs)
    values = per_head(call, batch, "legrad")
    gradient = arriving(trace, target, [node]).get(node)
    if gradient is None:
        return torch.zeros_like(values[:, 0, 0])
    return call.keys_last(gradient).reshape(values.shape).to(values).clamp(min=0).mean((1, 2))
