"""The result of an explanation: maps with everything needed to interpret and reproduce them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from explainkit.catalog.builtin import SCORECARD
from explainkit.catalog.registry import resolve
from explainkit.catalog.synonyms import bare_name, plain
from explainkit.errors import InputError, RenderError, UnknownNameError, clipped
from explainkit.expressions.text import shortened
from explainkit.scores import NOUNS, Outputs, Task

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import nn

    from explainkit.adapters.geometry import Geometry
    from explainkit.render.heatmap import Reduce, Scaling
    from explainkit.render.slices import Slices
    from explainkit.results.evaluation import Evaluation
    from explainkit.results.origin import Origin
    from explainkit.results.scorecard import Scorecard


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """A batch of explained images, with everything needed to interpret and reproduce it.

    Attributes:
        inputs: Images ``[batch, channel, height, width]`` in model-input space; volumes and clips
            ``[batch, channel, depth, height, width]``.
        attribution: Signed map ``[batch, channel or 1, height, width]`` in the method's own unit,
            of volumes with their depth; with the shape of the layer's output if ``at`` names one.
        target: Explained class of each image, int64 ``[batch]``; 0 for a function or expression.
        score: The explained score of each image, ``[batch]``. A single logit z has two classes
            with the scores −z and z, so that the score of the predicted one is never negative.
        logits: The model's outputs, ``[batch, classes]``, or ``[batch, 1]`` for a single logit.
        method: Qualified name of the method.
        params: Its hyper-parameters, nested methods included.
        model: Qualified name of the model, or module and class if it is not registered.
        layer: Dotted path of the layer that the method used; None if it used none.
        at: Dotted path of the layer whose output was explained; None: the image.
        expression: Text of the explained expression, or the name of the explained function; None
            if a class was explained.
        seed: The method's random seed.
        task: What the logits decide: ``"classification"``, ``"binary"`` for a single logit,
            ``"multilabel"``, or ``"regression"`` for values.
        output: Which of the model's outputs they are; None if it was not ambiguous.
        squashed: Whether the model ends in a softmax or sigmoid, so that they are probabilities.
        precision: Of the method's forwards, if it was lower than that of the model:
            ``"bfloat16"``. None: the dtype of ``inputs``, as for ``score`` and ``logits``.
        class_names: In the order of the classes; empty if they have no names.
        mean: Per channel, for the normalization ``(pixel / 255 - mean) / std``; None if unknown.
        std: Per channel; None if unknown.
        originals: Each image as it was loaded, uint8 RGB ``[height, width, 3]`` of its own size;
            None if the images were given as a tensor.
        geometries: Where the pixels of each input lie in its original; None as above.
        names: Of the images, such as file names; empty if they have none.
        coverage: The operators that the method's rules covered; None for methods without rules.
        diagnostics: Further results, such as completeness gaps, standard errors and warnings.
        versions: Versions of Python, torch, explainkit and the plugins involved.
        receipt: What it was made from, filled in when it is saved: hashes of the weights and of
            each image, the preprocessing, device and dtype, and the command.
        input: Name of the explained input of a model that has several; None: it has one.
    """

    inputs: Tensor
    attribution: Tensor
    target: Tensor
    score: Tensor
    logits: Tensor
    method: str
    params: Mapping[str, Any]
    model: str
    layer: str | None = None
    at: str | None = None
    expression: str | None = None
    seed: int = 0
    task: Task = "classification"
    output: int | str | None = None
    squashed: bool = False
    precision: str | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    originals: "tuple[NDArray[np.uint8], ...] | None" = None
    geometries: "tuple[Geometry, ...] | None" = None
    names: tuple[str, ...] = ()
    coverage: Mapping[str, Any] | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    receipt: Mapping[str, Any] | None = None
    input: str | None = None

    _origin: "ClassVar[Origin | None]" = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int | slice) -> "Explanation":
        """The explanation of one or several images, with the batch axis."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"explanation {index} of {len(self)}")
            start = index % len(self)
            index = slice(start, start + 1)

        def cut(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(self)
            return value[index] if batched else value

        changes = {f.name: cut(getattr(self, f.name)) for f in fields(self)}
        changes["diagnostics"] = {name: cut(value) for name, value in self.diagnostics.items()}
        for name in ("originals", "geometries", "names"):
            changes[name] = changes[name] and changes[name][index]
        if self.receipt is not None:
            changes["receipt"] = {**self.receipt, "images": self.receipt["images"][index]}
        found = Explanation(**changes)
        return found if self._origin is None else found.coming_from(self._origin.of(index))

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.attribution.shape))
        return f"<Explanation {self.method} of {self.model}: map {shape}, target {self._targets()}>"

    def _targets(self) -> str:
        shown = [clipped(self.target_name(i)) for i in range(min(len(self), 4))]
        return ", ".join(shown) + (", …" if len(self) > 4 else "")

    def coming_from(self, origin: "Origin") -> "Explanation":
        """This explanation, with what a scorecard needs of the call that made it."""
        object.__setattr__(self, "_origin", origin)  # not a field: it is neither saved nor compared
        return self

    def with_receipt(self, command: str | None = None) -> "Explanation":
        """This explanation with its receipt, unless it has one or comes from nowhere.

        Args:
            command: The command line that made it.
        """
        receipt = self.receipt
        if receipt is None and self._origin is not None:
            receipt = self._origin.receipt(self, self._origin.rows)
        if receipt is None:
            return self
        found = replace(self, receipt={**receipt, "command": command or receipt.get("command")})
        return found if self._origin is None else found.coming_from(self._origin)

    def target_name(self, index: int) -> str:
        """What was explained for one image: class name, class index, or expression.

        Long lists of numbers in an expression, as of a direction, are left out.
        """
        if self.expression is not None:
            return shortened(self.expression)
        label = int(self.target[index])
        return self.class_names[label] if self.class_names else str(label)

    def class_name(self, label: int) -> str:
        """Name of a class, or its kind and number: "class 2", "label 2", "output 2"."""
        return self.class_names[label] if self.class_names else f"{NOUNS[self.task]} {label}"

    @property
    def probabilities(self) -> Tensor | None:
        """Probability of each class, ``[batch, classes]``; None for a regression.

        A softmax over classes; for a single logit z, σ(−z) and σ(z); for labels, a sigmoid each.

        Examples:
            >>> import torch, explainkit as ek
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1)).eval()
            >>> e = ek.explain(net, torch.rand(3, 1, 2, 2), class_names=("no", "yes"))
            >>> torch.equal(e.probabilities[:, 1], e.logits[:, 0].sigmoid())
            True
        """
        return self._outputs.probabilities(self.logits)

    @property
    def predicted(self) -> Tensor | None:
        """The predicted class, int64 ``[batch]``; None for a regression.

        For labels, bool ``[batch, labels]``: those whose logit is above 0.
        """
        return self._outputs.predicted(self.logits)

    def predicted_classes(self, index: int) -> list[int]:
        """The predicted classes of one image: one, any number of labels, or none of values."""
        if (found := self.predicted) is None:
            return []
        row = found[index]
        return [int(row)] if row.dim() == 0 else row.nonzero()[:, 0].tolist()

    @property
    def classes(self) -> int:
        """The number of classes: that of the logits, or 2 for a single logit."""
        return 2 if self.task == "binary" else self.logits.shape[1]

    @property
    def _outputs(self) -> Outputs:
        return Outputs(self.output, self.task, self.class_names, self.squashed)

    def _explains(self, target: object) -> bool:
        """Whether ``target`` (a class or an expression) was explained for all images."""
        if self.expression is not None:
            return str(target) == self.expression
        names = {self.target_name(i).casefold() for i in range(len(self))}
        return names == {str(target).casefold()} or set(self.target.tolist()) == {target}

    def heatmap(self, reduce: "Reduce" = "sum") -> Tensor:
        """Reduces the map's channels to one.

        Args:
            reduce: ``"sum"`` keeps the sign; ``"abs_sum"`` = Σ|a|; ``"abs_max"`` = max|a|;
                ``"norm"`` = √Σa².

        Returns:
            ``[batch, height, width]`` in the method's own unit; of volumes
            ``[batch, depth, height, width]``.
        """
        values = self.attribution
        match reduce:
            case "sum":
                return values.sum(1)
            case "abs_sum":
                return values.abs().sum(1)
            case "abs_max":
                return values.abs().amax(1)
            case "norm":
                return values.square().sum(1).sqrt()
        raise ValueError(f"reduce: expected sum, abs_sum, abs_max or norm, got {reduce!r}")

    def on_original(self, reduce: "Reduce" = "sum") -> list[Tensor]:
        """Each map at the resolution of the image as it was loaded, aligned to its pixels.

        The map is interpolated linearly between the centers of the input's pixels; resizing,
        cropping and padding are undone (`explainkit.adapters.geometry`).

        Args:
            reduce: How channels are reduced to one, as in `heatmap`.

        Returns:
            ``[height, width]`` of each original, in the method's own unit; NaN where the model did
            not see the image.

        Raises:
            InputError: The images were given as a tensor, so that their originals are unknown.

        Examples:
            >>> import numpy as np, torch, explainkit as ek
            >>> from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3)).eval()
            >>> net = ek.adapt(net, preprocessing=Preprocessing((Resize(16), CenterCrop(16))))
            >>> photo = np.zeros((30, 40, 3), np.uint8)
            >>> [found] = ek.explain(net, photo).on_original()
            >>> found.shape, int(found.isnan().sum())
            (torch.Size([30, 40]), 300)
        """
        from explainkit.render.heatmap import over_images

        if self.geometries is None:
            raise InputError(
                "expected an explanation of loaded images, got one of a tensor, whose originals "
                "are unknown: ek.explain(model, paths) or ek.load_images(paths, model) keeps them"
            )
        maps = over_images(self, reduce)
        return [
            geometry.to_original(values)
            for geometry, values in zip(self.geometries, maps, strict=True)
        ]

    def plot(
        self,
        *,
        scaling: "Scaling | str" = "percentile",
        reduce: "Reduce" = "sum",
        ax: "Axes | None" = None,
        cmap: str | None = None,
        alpha: float = 0.85,
        columns: int = 1,
        card: "Scorecard | None" = None,
        slices: "Slices | None" = None,
    ) -> "Figure":
        """Draws each image next to its heatmap, with a color bar in the method's unit.

        Of a volume, slices are drawn in a row, with the map over each of them, and where they cut
        the volume.

        Args:
            scaling: How values are mapped to colors, by name (`explainkit.render.heatmap`).
            reduce: How channels are reduced to one, as in `heatmap`.
            ax: Draw only the heatmap over the image, into these axes; for one image.
            cmap: Name of a matplotlib color map; None: red and blue for signed values.
            alpha: Opacity of the strongest values over the image.
            columns: Images side by side.
            card: The scorecard of these maps, whose verdicts stand below them.
            slices: Of volumes: up to six slices that are spaced evenly (``"even"``, the default),
                or those with the largest Σ|a| (``"strongest"``); or a list of their numbers.
        """
        style: Any = {"scaling": scaling, "reduce": reduce, "cmap": cmap, "alpha": alpha}
        if self.inputs.ndim > 4:
            from explainkit.render.volume import draw_strongest, volume_figure

            if ax is not None:
                return draw_strongest(self, ax, **style)
            return volume_figure([self], slices=slices or "even", **style)
        from explainkit.render.figure import plot

        _refuse_slices(slices)
        return plot(self, ax=ax, columns=columns, card=card, **style)

    def overlays(
        self,
        *,
        scaling: "Scaling | str" = "percentile",
        reduce: "Reduce" = "sum",
        cmap: str | None = None,
        alpha: float = 0.85,
    ) -> "list[Image]":
        """Each map over its image in gray, at the resolution of the image as it was loaded.

        What the model did not see is hatched.

        Args:
            scaling: How values are mapped to colors, by name (`explainkit.render.heatmap`).
            reduce: How channels are reduced to one, as in `heatmap`.
            cmap: Name of a matplotlib color map; None: red and blue for signed values.
            alpha: Opacity of the strongest values over the image.

        Returns:
            Pillow images, in RGB.

        Examples:
            >>> import numpy as np, torch, explainkit as ek
            >>> from explainkit.adapters.preprocessing import Preprocessing, Resize
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3)).eval()
            >>> net = ek.adapt(net, preprocessing=Preprocessing((Resize(16, "exact"),)))
            >>> photo = np.zeros((300, 400, 3), np.uint8)
            >>> ek.explain(net, photo).overlays()[0].size  # width and height; .save("map.png")
            (400, 300)
        """
        from explainkit.render.overlays import overlays

        return overlays(self, scaling=scaling, reduce=reduce, cmap=cmap, alpha=alpha)

    def scorecard(
        self,
        seed: int = 0,
        *,
        model: "str | Path | nn.Module | None" = None,
        reduce: "Reduce" = "sum",
        power: bool | None = None,
    ) -> "Scorecard":
        """Tests whether each map predicts what hiding parts of its image does to the score.

        A method that hides parts of the image itself is judged on a grid that is moved by half a
        cell.

        Args:
            seed: Random seed of what is hidden.
            model: The explained model. It is needed for loaded explanations, and if the model no
                longer exists or has changed.
            reduce: How channels are reduced to one, as in `heatmap`: a map is judged as it is
                drawn.
            power: Measure the positive control; None: for a batch of at least 10 images, where it
                can tell whether the network has too little power.

        Raises:
            ModelError: The model is needed, or is not the one that was explained.
            MethodError: The map is that of a layer.

        Examples:
            >>> import torch, explainkit as ek
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24 * 24, 3)).eval()
            >>> x = torch.rand(2, 1, 24, 24)
            >>> card = ek.explain(net, x, method="input_x_gradient").scorecard()
            >>> len(card.verdict), card.grid
            (2, (6, 6))
        """
        key = ("scorecard", seed, reduce, power)
        known = {} if self._origin is None or model is not None else self._origin.results
        if key not in known:
            judge: Any = resolve(SCORECARD, "explainkit offers the scorecard")
            known[key] = judge(self, self._origin, model, reduce=reduce, power=power, seed=seed)
        card: Scorecard = known[key]
        return card

    def report(
        self,
        path: str | Path,
        *,
        beside: "Sequence[Explanation]" = (),
        labels: "Sequence[int | None] | None" = None,
        names: Sequence[str] | None = None,
        command: str | None = None,
        reduce: "Reduce" = "sum",
        cards: "Sequence[Scorecard]" = (),
        evaluation: "Evaluation | None" = None,
    ) -> Path:
        """Writes an interactive report as one HTML file, which works offline; returns its path.

        Args:
            path: The file.
            beside: Other explanations of the same images, for comparison.
            labels: True class of each image; None or −1 if unknown.
            names: Names of the images; None: those of the explanation.
            command: The command line that reproduces the report.
            reduce: How channels are reduced to one, as in `heatmap`.
            cards: The scorecard of each explanation, whose verdicts stand below its maps; or none.
            evaluation: What is known of the methods from many images, in a section of its own.
        """
        from explainkit.render.report import report

        return report(
            [self, *beside], path, labels=labels, names=names, command=command, reduce=reduce,
            cards=cards, evaluation=evaluation,
        )  # fmt: skip

    def save(self, directory: str | Path, *, command: str | None = None) -> Path:
        """Writes tensors as safetensors and the rest as JSON, atomically; returns the folder.

        The record has a receipt: what `explainkit verify` needs to tell whether the weights, the
        images, the library or the numbers have changed since. The hash of the weights is taken now,
        and left out if the model is gone or its parameters were written since the call.

        Args:
            directory: The folder.
            command: The command line that made the explanation, for the receipt.
        """
        from explainkit.results.storage import save

        return save(self.with_receipt(command), Path(directory))

    @staticmethod
    def load(directory: str | Path) -> "Explanation":
        """Loads what `save` wrote; an incomplete or changed folder is an error."""
        from explainkit.results.storage import load

        return load(Explanation, Path(directory))

    def _repr_html_(self) -> str:
        from explainkit.render.html import to_html

        return to_html([self])


def _refuse_slices(slices: object) -> None:
    if slices is not None:
        raise RenderError(f"slices: expected volumes to choose slices of, got images: {slices!r}")


class Explanations(list[Explanation]):
    """The explanations of one call, by several methods or of several targets."""

    def get(
        self,
        *,
        method: str | None = None,
        target: object = None,
        input: str | None = None,  # noqa: A002 - the field's name
        at: str | None = None,
    ) -> Explanation:
        """The explanation by a method, of a target, of an input or layer, or of several of these.

        Args:
            method: Its name, qualified or not; None: any.
            target: A class by name or index, or an expression or its text; None: any.
            input: Name of the explained input, of a model with several; None: any.
            at: Dotted path of the explained layer; None: any.

        Raises:
            UnknownNameError: None matches, or several do.

        Examples:
            >>> import torch, explainkit as ek
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
            >>> found = ek.explain(net, torch.rand(2, 1, 4, 4), method="saliency", targets="all")
            >>> found.get(target=2).target
            tensor([2, 2])
        """
        matching = [
            one
            for one in self
            if (
                method is None or plain(method) in {plain(one.method), plain(bare_name(one.method))}
            )
            and (target is None or one._explains(target))
            and input in {None, one.input}
            and at in {None, one.at}
        ]
        if len(matching) == 1:
            return matching[0]
        listed = ", ".join(
            f"{bare_name(one.method)} of {one._targets()}"
            + (f" for input {one.input}" if one.input else "")
            + (f" at {one.at}" if one.at else "")
            for one in matching or self
        )
        raise UnknownNameError(
            "expected method=, target=, input= and at= to match one explanation, got "
            f"{len(matching)} matches: "
            f"{'' if matching else 'available: '}{listed or 'none'}"
        )

    def plot(
        self,
        *,
        labels: "Sequence[int | None] | None" = None,
        scaling: "Scaling | str" = "percentile",
        reduce: "Reduce" = "sum",
        cmap: str | None = None,
        alpha: float = 0.85,
        columns: int | None = None,
        cards: "Sequence[Scorecard]" = (),
        slices: "Slices | None" = None,
    ) -> "Figure":
        """Draws the images, and one row of maps per explanation; each map is normalized separately.

        Args:
            labels: True class of each image; None or −1 if unknown.
            scaling: How values are mapped to colors, by name (`explainkit.render.heatmap`).
            reduce: How channels are reduced to one, as in `Explanation.heatmap`.
            cmap: Name of a matplotlib color map; None: red and blue for signed values.
            alpha: Opacity of the strongest values over the image.
            columns: Images side by side; of a single image, its maps side by side.
            cards: The scorecard of each explanation, whose verdicts stand below its maps; or none.
            slices: Of volumes, as in `Explanation.plot`.
        """
        style: Any = {"scaling": scaling, "reduce": reduce, "cmap": cmap, "alpha": alpha}
        if self and self[0].inputs.ndim > 4:
            from explainkit.render.volume import volume_figure

            return volume_figure(self, slices=slices or "even", labels=labels, **style)
        from explainkit.render.compare import comparison_figure

        _refuse_slices(slices)
        return comparison_figure(self, labels=labels, columns=columns, cards=cards, **style)

    def scorecards(self, seed: int = 0, **options: Any) -> "list[Scorecard]":
        """The scorecard of each, as `Explanation.scorecard` makes it.

        Where several methods explain the same target, their p-values are adjusted for that.
        """
        from explainkit.results.scorecard import together

        cards = [one.scorecard(seed, **options) for one in self]
        for target in dict.fromkeys(card.target for card in cards):
            same = [i for i, card in enumerate(cards) if card.target == target]
            if len(same) > 1:
                for i, card in zip(same, together([cards[i] for i in same]), strict=True):
                    cards[i] = card
        return cards

    def report(self, path: str | Path, **options: Any) -> Path:
        """Writes a report that shows them side by side, as `Explanation.report` does."""
        first, *others = self
        return first.report(path, beside=others, **options)

    def _repr_html_(self) -> str:
        from explainkit.render.html import to_html

        return to_html(self) if self else ""
