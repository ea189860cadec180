"""The layers of class activation maps: those named, or the default."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from explainkit.engine.model import ScoreModel, unwrapped
from explainkit.errors import ModelError
from explainkit.graph.cached import Cached
from explainkit.graph.tape import nodes_from
from explainkit.interfaces import spec_of
from explainkit.isolation import preserve_model, preserve_process, uncompiled
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import paths_of
from explainkit.methods.cam.layout import PatchGrid, layout_of, structure_of

ENOUGH = 0.1
"""The share of a layer's positions that a score should read: more than a single detection."""

_NO_FEATURES = re.compile("Pool|Softmax")

_defaults = Cached[tuple[str, ...]]()


def layers_of(
    layer: str | nn.Module | Sequence[str | nn.Module] | None,
    model: nn.Module,
    inputs: Tensor,
    patch_grid: PatchGrid | None = None,
    prefix_tokens: int | None = None,
) -> tuple[str, ...]:
    """The layers to use: those named, else the one of the model's spec, else the default.

    Args:
        layer: Dotted path, or the module, or several; None: the ``layer`` of the model's
            `ModelSpec`, or `default_layers`, which are determined once per model, and for a target
            function or an expression of layers once per call.
        model: What the method is called with.
        inputs: ``[batch, channel, height, width]``.
        patch_grid: Height and width of the layer's map, if the caller knows it.
        prefix_tokens: Number of tokens before the patches, if the caller knows it.

    Raises:
        ModelError: No layer's output has spatial positions.
    """
    owner = unwrapped(model)
    if layer is not None:
        return paths_of(owner, layer)
    spec = spec_of(owner)
    if spec is not None and spec.layer is not None:
        return (spec.layer,)
    scorer = model if isinstance(model, ScoreModel) else ScoreModel(model)
    key = (default_layers, patch_grid, prefix_tokens, inputs.shape[1:])
    if key not in scorer.found:
        scorer.found[key] = _default_layers(scorer, inputs, patch_grid, prefix_tokens)
    found: tuple[str, ...] = scorer.found[key]
    return found


def _default_layers(
    scorer: ScoreModel, inputs: Tensor, patch_grid: PatchGrid | None, prefix_tokens: int | None
) -> tuple[str, ...]:
    """The default layers, determined once per model if the score reads its output alone."""

    def find() -> tuple[str, ...]:
        with preserve_process(0):  # in the first call only
            return default_layers(scorer, inputs, patch_grid, prefix_tokens)

    if not scorer.reads_logits_only:
        return find()
    return _defaults.once(
        scorer.owner,
        (patch_grid, prefix_tokens, scorer.outputs.output, inputs.shape[1:]),
        find,
        structure_of(scorer.members.modules),
    )


@dataclass(frozen=True, eq=False)
class _Output:
    """The output of one call of a layer.

    Attributes:
        path: Path of the layer; of one among several outputs, the text of its `LayerTensor`.
        edge: Where autograd's graph holds it, whatever is written to its memory later; None if it
            does not depend on the image differentiably.
        shape: Its shape, ``[1, …]``.
        is_block: Whether it is tokens, and the layer one of a numbered sequence of layers with
            submodules.
    """

    path: str
    edge: GradientEdge | None
    shape: tuple[int, ...]
    is_block: bool

    @property
    def node(self) -> Node:
        """The operator that computed it."""
        assert self.edge is not None
        return self.edge.node

    @property
    def is_map(self) -> bool:
        """A map, or tokens."""
        return len(self.shape) != 3


def default_layers(
    model: nn.Module,
    example: Tensor,
    patch_grid: PatchGrid | None = None,
    prefix_tokens: int | None = None,
) -> tuple[str, ...]:
    """The last layers with spatial positions that the score reads.

    A layer qualifies if its output is a map ``[batch, channel, height, width]`` (or channels last)
    or patch tokens ``[batch, token, channel]`` whose places on the image are known, and if the
    score's gradient reaches more than a tenth of its positions (or any, if no layer has that many).
    So the last block of a transformer that classifies by its class token does not qualify, nor do a
    detector's queries. The last one to run is chosen:

    - A value is named after the outermost layer that computes it, with its activation if a module
      applies it, in place or inside a normalization: ``layer4`` of ResNet. If the activation is a
      function called between modules (``F.relu(self.norm(x))``), no layer holds its value, and the
      layer before it is chosen. Before a ReLU, maps that multiply the output and its gradient at
      each position (HiResCAM, LayerCAM) are those after it; Grad-CAM also sees negative values.
    - Pooling and softmax compute no features: the last ReLU before the pooling of VGG.
    - Of tokens, only the outputs of numbered blocks count, and nothing inside these blocks. Without
      such blocks, all tokens count.
    - Of a tuple the first tensor counts, or, where that has no row for each image, the first tokens
      that have: the patches of TNT, not their pixels.
    - Layers that run several times are skipped.

    Where several branches reach the score (two streams, an ensemble, the scales of a detector), the
    last layer of each is chosen.

    Args:
        model: Any module that returns scores; it runs once on one image.
        example: Images ``[batch, channel, height, width]``.
        patch_grid: As in `layers_of`.
        prefix_tokens: As in `layers_of`.

    Returns:
        Dotted paths of the layers, in the order in which they run.

    Raises:
        ModelError: No layer's output has spatial positions.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        >>> default_layers(net, torch.rand(1, 1, 8, 8))
        ('1',)
    """
    scorer = model if isinstance(model, ScoreModel) else ScoreModel(model)
    owner, image = scorer.owner, example[:1].detach().clone()
    with preserve_model(owner), uncompiled(), torch.inference_mode(False), torch.enable_grad():
        calls, score = _run(scorer, image.requires_grad_())
        given = patch_grid, prefix_tokens
        found = _Search(owner, image.detach(), score, *given).last(_candidates(calls, image.dim()))
    if not found:
        raise _none_found(owner, calls, image.dim())
    return tuple(output.path for output in found)


def _run(scorer: ScoreModel, images: Tensor) -> tuple[list[_Output], Tensor]:
    """Runs the model. Returns what its layers compute, call by call, and a scalar score."""
    outputs: list[_Output] = []
    entered: dict[str, GradientEdge | None] = {}

    def enter(path: str) -> Any:
        def remember(_module: nn.Module, inputs: Any) -> None:
            entered[path] = _edge(inputs[0]) if inputs else None

        return remember

    def leave(path: str) -> Any:
        def record(module: nn.Module, _inputs: Any, output: Any) -> None:
            text, value = _passed_on(path, output, len(images))
            edge = _edge(value)
            # dropout and the like pass on what they are given
            if isinstance(value, Tensor) and (edge is None or edge != entered[path]):
                stack, _, name = path.rpartition(".")
                numbered = name.isdigit() or (
                    name[-1:].isdigit() and isinstance(modules[stack], nn.Sequential)
                )
                composite = next(module.children(), None) is not None
                block = numbered and composite and value.dim() == 3
                outputs.append(_Output(text, edge, tuple(value.shape), block))

        return record

    modules = dict(scorer.owner.named_modules())
    with ExitStack() as hooks:
        for path, module in modules.items():
            if path and not isinstance(module, torch.jit.ScriptModule):  # which take no hooks
                hooks.callback(module.register_forward_pre_hook(enter(path)).remove)
                hooks.callback(module.register_forward_hook(leave(path)).remove)
        scores = scorer(images)
    # not constant weights: probabilities always sum to one
    weights = torch.arange(scores.numel(), device=scores.device).to(scores).cos()
    return outputs, (scores.flatten() * weights).sum()


def _passed_on(path: str, output: Any, count: int) -> tuple[str, Any]:
    """The text of what a layer returns, and its value.

    Of a tuple, that is the first tensor, which is a block's hidden state; or, where the first has
    no row for each image, like the pixels of TNT, the first tokens that have.
    """
    if not isinstance(output, tuple) or not output:
        return path, output
    for i, value in enumerate(output):
        fits = isinstance(value, Tensor) and value.shape[:1] == (count,)
        if fits and (i == 0 or value.dim() == 3):
            return str(LayerTensor(path, part=str(i))) if i else path, value
    return path, output[0]


def _edge(value: Any) -> GradientEdge | None:
    """Where autograd's graph holds a value; in-place changes of its memory come later."""
    return get_gradient_edge(value) if isinstance(value, Tensor) and value.requires_grad else None


def _candidates(calls: list[_Output], axes: int) -> list[_Output]:
    """Maps and tokens that layers compute, each once, in the order in which they run.

    Args:
        calls: All outputs.
        axes: Of the images, 4, or of volumes, 5, and so of maps.
    """
    times = Counter(call.path for call in calls)
    values: dict[tuple[Any, int], list[_Output]] = {}
    for call in calls:
        if call.edge is not None and times[call.path] == 1 and len(call.shape) in (3, axes):
            values.setdefault((call.edge.node, call.edge.output_nr), []).append(call)
    # what a block of tokens computes inside, such as attention, is not what it passes on
    blocks = tuple(f"{LayerTensor.of(call.path).layer}." for call in calls if call.is_block)
    found = []
    for same in values.values():
        outermost = next((call for call in reversed(same) if call.is_block), same[-1])
        inside = outermost.path.startswith(blocks) and not outermost.is_block
        if not inside and not _NO_FEATURES.search(outermost.node.name()):
            found.append(outermost)
    return found


@dataclass(frozen=True)
class _Search:
    """Looks for the layers that a score reads last.

    Attributes:
        model: The caller's model.
        image: ``[1, channel, height, width]``.
        score: A scalar, with its graph.
        patch_grid: As in `layers_of`.
        prefix_tokens: As in `layers_of`.
    """

    model: nn.Module
    image: Tensor
    score: Tensor
    patch_grid: PatchGrid | None
    prefix_tokens: int | None

    def last(self, candidates: list[_Output]) -> list[_Output]:
        """The last candidate of each branch that reaches the score, in forward order."""
        root = self.score.grad_fn
        users = nodes_from(root) if root is not None else {}
        reached = [c for c in candidates if c.node in users]
        first_map = [c for c in reached if c.is_map][:1]
        for least in (ENOUGH, 0.0):
            pool = [c for c in reached if c.is_map or c.is_block]
            last = self._last_read(pool, least)
            if last in (None, *first_map):
                # in a transformer without numbered blocks, the first map is the patch embedding
                pool, last = reached, self._last_read(reached, least)
            found = []
            while last is not None:
                found.append(last)
                related = {*nodes_from(last.node), *_downstream(last.node, users)}
                pool = [c for c in pool if c.node not in related]
                last = self._last_read(pool, least)
            if found:
                return sorted(found, key=candidates.index)
        return []

    def _last_read(self, pool: list[_Output], least: float) -> _Output | None:
        return next((c for c in reversed(pool) if self._share(c) > least), None)

    def _share(self, output: _Output) -> float:
        """The share of an output's positions that the score reads; 0 if they are not known."""
        assert output.edge is not None
        (gradient,) = torch.autograd.grad(
            self.score, output.edge, retain_graph=True, allow_unused=True
        )
        if gradient is None or not gradient.any():
            return 0.0
        try:
            given = self.patch_grid, self.prefix_tokens
            layout = layout_of(gradient, output.path, self.model, self.image, *given)
        except ModelError:
            return 0.0
        read = (layout.to_nchw(gradient) != 0).any(1)
        return read.float().mean().item() if read.numel() > 1 else 0.0


def _downstream(node: Node, users_first: Iterable[Node]) -> set[Node]:
    """A node, and those that use its results."""
    found = {node}
    for other in reversed([*users_first]):
        if any(below in found for below, _ in other.next_functions):
            found.add(other)
    return found


def _none_found(model: nn.Module, calls: list[_Output], axes: int) -> ModelError:
    """Why a model has no default layer, and what to do."""
    name = type(model).__name__
    times = Counter(call.path for call in calls)
    spatial = [times[call.path] for call in calls if len(call.shape) in (3, axes)]
    other = "use a method of the image, such as integrated_gradients or occlusion"
    if not calls:
        return ModelError(
            f"expected a model whose layers are modules, but {name} runs none (a scripted or "
            f"exported model, or functions alone), so there is no layer to name: {other}"
        )
    if not spatial:
        return ModelError(
            f"expected a layer of {name} whose output has more than one spatial position, but "
            f"there is none: {other}"
        )
    if min(spatial) > 1:
        repeated = [path for path, count in times.items() if count > 1]
        outer = [p for p in repeated if not p.startswith(tuple(f"{one}." for one in repeated))]
        inside = f"explain model.{outer[0]} itself, or " if len(outer) == 1 else ""
        return ModelError(
            f"expected a layer of {name} that runs once, but all with spatial positions run "
            "several times for one image, as in test-time augmentation or with shared weights: "
            f"{inside}{other}"
        )
    return ModelError(
        f"expected a layer of {name} with spatial positions that the score's gradient reaches, "
        "found none: name the layer (for tokens with patch_grid=; eigencam and kpca_cam use no "
        "gradient), or use another method"
    )
