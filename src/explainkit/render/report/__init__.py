"""The one-file report: an interactive HTML page without network access or a framework."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from explainkit.errors import RenderError
from explainkit.files import write_file
from explainkit.render.heatmap import Reduce
from explainkit.render.report.content import gather
from explainkit.render.report.page import page
from explainkit.render.shown_image import LONGEST

_FEW = 8
"""Largest number of images that are shown in full size."""

if TYPE_CHECKING:
    from explainkit.results.evaluation import Evaluation
    from explainkit.results.explanation import Explanation
    from explainkit.results.scorecard import Scorecard


def report(
    explanations: "Explanation | Sequence[Explanation]",
    path: str | Path,
    *,
    labels: Sequence[int | None] | None = None,
    names: Sequence[str] | None = None,
    command: str | None = None,
    reduce: Reduce = "sum",
    cards: "Sequence[Scorecard]" = (),
    evaluation: "Evaluation | None" = None,
) -> Path:
    """Writes explanations as one self-contained, interactive HTML file.

    The file opens from disk, loads nothing, and shows its images without scripts too. Scripts add
    opacity, threshold, sign and scaling, the values at the pointer and, for several images, an
    index with sorting and filters. Maps of loaded images are shown over the originals, with at
    most 1024 pixels on the longer side, or 512 for more than eight images; what the model did not
    see is hatched. The file has a receipt and its own sha256, for `explainkit verify`.

    Args:
        explanations: One, or several of the same images to show side by side: different methods,
            targets, or models with the same classes.
        path: The file; it is written atomically.
        labels: True class of each image; None or −1 if unknown.
        names: Names of the images; None: those of the explanation.
        command: The command line that reproduces the report; the Python call is always included.
        reduce: How channels are reduced to one.
        cards: The scorecard of each explanation, whose verdicts stand below its maps; or none.
        evaluation: What is known of these methods from many images, in a section of its own.

    Returns:
        The path.

    Raises:
        RenderError: The images or classes of the explanations differ, the number of labels or
            names is not the number of images, or the file can't be written.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> maps = [ek.explain(net, torch.rand(1, 1, 4, 4), method="saliency")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report(maps, f"{folder}/report.html").name
        'report.html'
    """
    listed = list(explanations) if isinstance(explanations, Sequence) else [explanations]
    given = [one.with_receipt(command) for one in listed]
    longest = LONGEST if len(given[:1]) and len(given[0]) <= _FEW else LONGEST // 2
    content = gather(given, labels, names, reduce, longest, cards)
    text = page(content, command, evaluation)
    return write_file(path, text.encode(), RenderError)
