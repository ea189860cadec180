"""The parity tables: our maps and metrics compared with those of other libraries, in one run.

    make peers
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/parity.py

It prints the tables and writes the page to docs/reference/parity.md. It writes nothing and reports
the rows if a difference exceeds its tolerance, a result of ours is not the truth, or a peer is not
installed. ``--smoke`` takes one row in 25, reports missing peers and writes nothing.
"""

import argparse
import importlib.util
import platform
import sys
import warnings
from importlib.metadata import metadata, version
from pathlib import Path

from packaging.specifiers import SpecifierSet
from peer_rows import captum_inner, captum_rows, gradcam_rows, metric_rows, wrong, zennit_rows
from peer_rows.rows import RELATIVE, Fault, Row, missing
from timing import parse

from explainkit.catalog import discovery

PAGE = Path(__file__).parents[1] / "docs/reference/parity.md"
PEERS = ("captum", "grad-cam", "zennit", "quantus")

COLUMNS = """\
| {} | peer | network | largest difference | tolerance | how compared |
|---|---|---|---|---|---|"""

INTRODUCTION = """\
# Parity with other libraries

Our maps compared with those of Captum, pytorch-grad-cam and zennit, for every method that one of
them also computes, and our metrics with those of Quantus and Captum. All numbers on this page were
printed by one run of

```sh
OMP_NUM_THREADS=1 python benchmarks/parity.py
```

with {versions}, on the CPU.{note} `tests/test_parity.py` repeats Captum's rows in every test run,
`tests/metrics/test_parity.py` those of metrics.

## Where all agree

The largest difference over all pixels and images, as a share of the peer's largest value or, for
sampled methods, in standard errors of the difference. "CNN" is a small seeded network of
convolutions, ReLUs, max pooling and linear layers in float64. "transformer" has two attention
blocks in float64. "fer_hw3/cnn" is the plugin's trained network in float32, on synthetic faces. The
predicted class is explained. The last column says how the maps were made comparable, and where
ours differs on purpose.
"""

METRICS = """\
### Metrics

On one convolution in float32 and four random images.
"""

WRONG = """\
## Where a peer is wrong

Networks small enough to be explained by hand. "Truth" is the value of the method's own formula;
`benchmarks/peer_rows/wrong.py` has the networks and the derivations, `metric_rows.py` the cases of
metrics. For DeepLIFT the true map also
sums to the change of the score, and for ε-LRP without biases to the score; the peer's map does not.
An exception's name means that the peer raised it instead of returning a map. Where the truth is a
difference of 0, each library is compared with itself: compiled and plain, or with two chunk or
batch sizes.
"""

REST = """\
## Methods without a row

None of the three libraries has these methods, or none computes the same formula. They are tested
against closed forms, axioms and the formulas of their papers: {names}.

`full_gradient` is among them although pytorch-grad-cam has a FullGrad. That one scales each channel
to [0, 1] before it sums, takes absolute values and omits linear layers, so its map does not sum to
the score. Ours does.
"""


def all_rows() -> list[Row]:
    """Every row, in the order of the page."""
    return [
        *captum_rows.gradient_rows(), *captum_rows.path_rows(), *captum_rows.propagation_rows(),
        *captum_inner.layer_rows(), *captum_inner.neuron_rows(), *captum_inner.perturbation_rows(),
        *zennit_rows.rows(), *gradcam_rows.rows(), *metric_rows.rows(),
    ]  # fmt: skip


def all_faults() -> list[Fault]:
    """Every case where a peer is wrong, in the order of the page."""
    return [
        *wrong.captum_faults(), *wrong.zennit_faults(), *wrong.gradcam_faults(),
        *metric_rows.faults(),
    ]  # fmt: skip


def without_row(rows: list[Row]) -> list[str]:
    """Names of the core's methods that no row compares, aliases included."""
    registry = discovery.registry("methods")
    names = [name for name in registry.names() if name.startswith("explainkit/")]
    rowed = {f"explainkit/{row.method}" for row in rows}
    compared = {registry.get(name) for name in names if name in rowed}
    return sorted(n.partition("/")[2] for n in names if registry.get(n) not in compared)


def number(value: float, unit: str = RELATIVE) -> str:
    """A difference as text."""
    if unit != RELATIVE:
        return f"{value:.2g} standard errors"
    return f"{value:.1e}".replace(".0e", "e") if value else "0"


def cells(row: Row) -> str:
    """The first three cells of a row."""
    return f"| `{row.method}` | {row.peer} | {row.network} |"


def line(row: Row, difference: float) -> str:
    """A row of the first table."""
    shown, bound = number(difference, row.unit), number(row.tolerance, row.unit)
    return f"{cells(row)} {shown} | {bound} | {escaped(row.how)} |"


def escaped(text: str) -> str:
    """Text with its bars escaped: a bar would end the cell."""
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
    note = f" ({'; '.join(asked)}, and was installed anyway.)" if asked else ""
    metrics = len(lines) - len(metric_rows.rows())
    return "\n".join(
        [
            "---\nhide: [toc]\n---\n",
            INTRODUCTION.format(versions=versions, note=note),
            COLUMNS.format("method"),
            *lines[:metrics],
            "",
            METRICS,
            COLUMNS.format("metric"),
            *lines[metrics:],
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
    parser.add_argument("--every", type=int, default=1, help="take one row in so many")
    options = parse(parser, every=25)
    warnings.simplefilter("ignore")  # the peers' own, about hooks and gradients
    rows, wrong_rows, absent, lines, fault_lines = all_rows(), [], [], [], []
    for row in rows[:: options.every]:
        if missing(row.peer) or (row.requires and importlib.util.find_spec(row.requires) is None):
            absent.append(f"{cells(row)} not installed |")
            print(absent[-1])
            continue
        try:
            difference = row.difference()
        except Exception as error:  # noqa: BLE001 - reported with the others
            wrong_rows.append(f"{cells(row)} {type(error).__name__}: {error} |")
            print(wrong_rows[-1])
            continue
        lines.append(line(row, difference))
        print(lines[-1])
        if not difference <= row.tolerance:
            wrong_rows.append(lines[-1])
    for fault in all_faults()[:: options.every]:
        if missing(fault.peer):
            absent.append(f"| {escaped(fault.case)} | {fault.peer}: not installed |")
            print(absent[-1])
            continue
        ours, theirs = fault.results()
        fault_lines.append(fault_line(fault, ours, theirs))
        print(fault_lines[-1])
        if ours != fault.truth or theirs == fault.truth:
            wrong_rows.append(fault_lines[-1])
    if wrong_rows:
        sys.exit("nothing written; not as the page claims:\n" + "\n".join(wrong_rows))
    if options.every > 1:
        return
    if absent:
        sys.exit(
            f"nothing written; {len(absent)} rows need peers that are not installed: make peers"
        )
    PAGE.write_text(page(lines, fault_lines, without_row(rows)))


if __name__ == "__main__":
    main()
