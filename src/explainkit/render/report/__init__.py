"""The one-file report: a page to look into an explanation, with no network and no framework."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from explainkit.errors import RenderError
from explainkit.files import write_atomically
from explainkit.render.heatmap import Reduce
from explainkit.render.report.content import gather
from explainkit.render.report.page import page

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation


def report(
    explanations: "Explanation | Sequence[Explanation]",
    path: str | Path,
    *,
    labels: Sequence[int | None] | None = None,
    names: Sequence[str] | None = None,
    command: str | None = None,
    reduce: Reduce = "sum",
) -> Path:
    """Writes one HTML file in which explanations can be looked into.

    It opens from disk, loads nothing, and shows its images without scripts too. With scripts:
    opacity, threshold, sign and scaling, the values under the pointer, and for many images an
    index with sorting and filters.

    Args:
        explanations: One, or several of the same images, which then stand side by side: other
            methods, other targets, or other models of the same classes.
        path: The file; it appears whole or not at all.
        labels: True class of each image; None or −1 where it isn't known.
        names: Of the images.
        command: The command line that makes the report again; the Python call is always there.
        reduce: How channels become one.

    Returns:
        The path.

    Raises:
        RenderError: Explanations of different images or classes, labels or names that aren't
            one per image, or a file that can't be written.

    Examples:
        >>> import tempfile, torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> maps = [ek.explain(net, torch.rand(1, 1, 4, 4), method="saliency")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report(maps, f"{folder}/report.html").name
        'report.html'
    """
    given = list(explanations) if isinstance(explanations, Sequence) else [explanations]
    text = page(gather(given, labels, names, reduce), command)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise RenderError(f"can't write the report {path}: {error.strerror or error}") from error
    return path
