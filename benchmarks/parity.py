"""The parity table: our maps beside those of Captum, pytorch-grad-cam and zennit, in one run.

Install the peers into an environment of their own; the last two without their dependencies, since
they ask for a torchvision of which nothing is used here (``stand_ins`` has the names they import):

    pip install -c constraints.txt -e . -e plugins/fer_hw3 captum==0.9.0
    pip install opencv-python-headless scikit-learn scipy ttach tqdm click
    pip install --no-deps grad-cam==1.5.7 zennit==1.0.0
    OMP_NUM_THREADS=1 python benchmarks/parity.py

It prints the page and writes it to docs/reference/parity.md, unless a difference is larger than its
tolerance, or one of ours is not the truth: then it says which and writes nothing.
"""

import argparse
import platform
import sys
import warnings
from importlib.metadata import metadata, version
from pathlib import Path

from packaging.specifiers import SpecifierSet
from peer_rows import captum_inner, captum_rows, gradcam_rows, wrong, zennit_rows
from peer_rows.rows import RELATIVE, Row
from peer_rows.wrong import Fault

from explainkit.catalog import discovery

PAGE = Path(__file__).parents[1] / "docs/reference/parity.md"
PEERS = ("captum", "grad-cam", "zennit")

INTRODUCTION = """\
# Parity with other libraries

Our maps beside those of Captum, pytorch-grad-cam and zennit, where one of them computes the same.
All numbers on this page were printed by one run of

```sh
OMP_NUM_THREADS=1 python benchmarks/parity.py
```

with {versions}, on the CPU.{remark} `tests/test_parity.py` runs Captum's rows again with every test
run.

## Where all agree

The largest difference over all pixels and images, as a share of the peer's largest value, or, for
sampled methods, in standard errors of the difference. "CNN" is a small seeded network of
convolutions, rectifiers, max pooling and linear layers in float64; "transformer" has two blocks of
attention in float64; "fer_hw3/cnn" is the plugin's trained network in float32, on synthetic faces. The
explained class is the predicted one. The last column says what was done to compare, and what we do
otherwise on purpose.
"""

WRONG = """\
## Where a peer is wrong

Networks small enough to be explained by hand. "Truth" is what the method's own formula gives;
`benchmarks/peer_rows/wrong.py` has the networks and the reasoning. For DeepLIFT the truth also sums
to the score's change, and for ε-LRP without biases to the score, which the peer's maps miss. An
error's name is what the peer raised instead of a map. Where the truth is a difference of 0, each is
compared with itself, on the small CNN above: compiled or plain, with one chunk size or another.
"""

REST = """\
## Methods without a row

None of the three has these, or none has them in a form that computes the same; they are tested
against closed forms, axioms and their papers' formulas: {names}.

`full_gradient` is among them although pytorch-grad-cam has a FullGrad: that one scales each channel
to [0, 1] before it sums, takes absolute values and leaves linear layers out, so that its map no
longer adds up to the score, which is what ours is for.
"""


def all_rows() -> list[Row]:
    """Every row, in the order of the page."""
    return [
        *captum_rows.gradient_rows(), *captum_rows.path_rows(), *captum_rows.propagation_rows(),
        *captum_inner.layer_rows(), *captum_inner.neuron_rows(), *captum_inner.perturbation_rows(),
        *zennit_rows.rows(), *gradcam_rows.rows(),
    ]  # fmt: skip


def all_faults() -> list[Fault]:
    """Every case in which a peer is wrong, in the order of the page."""
    return [*wrong.captum_faults(), *wrong.zennit_faults(), *wrong.gradcam_faults()]


def without_row(rows: list[Row]) -> list[str]:
    """Names of the core's methods that no row compares, under this name or another."""
    registry = discovery.registry("methods")
    compared = {registry.get(row.method) for row in rows}
    names = [name for name in registry.names() if name.startswith("explainkit/")]
    return sorted(n.partition("/")[2] for n in names if registry.get(n) not in compared)


def number(value: float, unit: str = RELATIVE) -> str:
    """A difference as a cell shows it."""
    if unit != RELATIVE:
        return f"{value:.2g} standard errors"
    return f"{value:.1e}".replace(".0e", "e") if value else "0"


def cells(row: Row) -> str:
    """What a row's line starts with."""
    return f"| `{row.method}` | {row.peer} | {row.network} |"


def line(row: Row, difference: float) -> str:
    """A row of the first table."""
    shown, bound = number(difference, row.unit), number(row.tolerance, row.unit)
    return f"{cells(row)} {shown} | {bound} | {escaped(row.how)} |"


def escaped(text: str) -> str:
    """A bar in a cell would end it."""
    return text.replace("|", "\\|")


def fault_line(fault: Fault, ours: str, theirs: str) -> str:
    """A row of the second table."""
    return (
        f"| {escaped(fault.case)} | {fault.measured} | {fault.truth} | {ours} | {theirs} "
        f"({fault.peer}) |"
    )


def page(lines: list[str], faults: list[str], rest: list[str]) -> str:
    """The page's Markdown."""
    names = ("torch", "numpy", *PEERS, "explainkit-vision")
    python = platform.python_version()
    versions = ", ".join([f"Python {python}", *(f"{n} {version(n)}" for n in names)])
    asked = [
        f"{n} {version(n)} asks for {metadata(n)['Requires-Python']}"
        for n in PEERS
        if python not in SpecifierSet(metadata(n)["Requires-Python"] or "")
    ]
    remark = f" ({'; '.join(asked)}, and was installed all the same.)" if asked else ""
    return "\n".join(
        [
            "---\nhide: [toc]\n---\n",
            INTRODUCTION.format(versions=versions, remark=remark),
            "| method | peer | network | largest difference | tolerance | compared, and why |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            WRONG,
            "| case | measured | truth | ours | theirs |",
            "|---|---|---|---|---|",
            *faults,
            "",
            REST.format(names=", ".join(f"`{name}`" for name in rest)),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers' own, about hooks and gradients
    rows, failed, lines, fault_lines = all_rows(), [], [], []
    for row in rows:
        difference = row.difference()
        lines.append(line(row, difference))
        print(lines[-1])
        if not difference <= row.tolerance:
            failed.append(lines[-1])
    for fault in all_faults():
        ours, theirs = fault.answers()
        fault_lines.append(fault_line(fault, ours, theirs))
        print(fault_lines[-1])
        if ours != fault.truth or theirs == fault.truth:
            failed.append(fault_lines[-1])
    if failed:
        sys.exit("nothing written; not as the page claims:\n" + "\n".join(failed))
    options.out.write_text(page(lines, fault_lines, without_row(rows)))


if __name__ == "__main__":
    main()
