"""``summary``: the layers of a network with their shapes, parameters and operations."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from explainkit_fer_hw3.commands import options

if TYPE_CHECKING:
    from torch import nn


def summary(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="cnn, dnn, or a .safetensors weights file. Repeatable. By default: both networks."
        ),
    ] = None,
    out: options.Out = options.OUT,
    as_json: options.Json = False,
) -> None:
    """List the layers of a network with shapes, parameters and operations, and draw it.

    For example:

        explainkit run fer_hw3 summary

        explainkit run fer_hw3 summary --model cnn --json
    """
    from explainkit.render.diagram import architecture_figure
    from explainkit.render.figure import save_figure

    found = []
    names = model or ["cnn", "dnn"]
    tags = options.model_tags(names)
    options.claim(context, out, *(f"summary-{tag}" for tag in tags))
    for name, tag in zip(names, tags, strict=True):
        rows = layers(options.load_model(name, "cpu"))
        title = f"{tag}: {sum(row['parameters'] for row in rows):,} parameters"
        blocks = [(r["name"], r["kind"], tuple(r["output"]), r["parameters"]) for r in rows]
        figure = save_figure(architecture_figure(blocks, title), out / f"summary-{tag}.png")
        found.append(
            {
                "model": name,
                "parameters": sum(row["parameters"] for row in rows),
                "multiply_adds": sum(row["multiply_adds"] for row in rows),
                "layers": rows,
                "figure": str(figure),
            }
        )
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, "models": found}))
        return
    for facts in found:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    table = Table(
        "layer", "kind", "output", box=None, title=escape(facts["model"]), title_justify="left"
    )
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds", justify="right")
    for row in facts["layers"]:
        shape = " × ".join(map(str, row["output"]))
        counts = (f"{row[key]:,}" if row[key] else "" for key in ("parameters", "multiply_adds"))
        table.add_row(row["name"], escape(row["kind"]), shape, *counts)
    totals = (f"{facts[key]:,}" for key in ("parameters", "multiply_adds"))
    table.add_row("total", "", "", *totals, style="bold")
    options.show(table)
    typer.echo(f"figure: {facts['figure']}\n")


def layers(model: "nn.Module") -> list[dict[str, Any]]:
    """One row per leaf layer, in the order in which they run.

    Multiply-adds are counted per image, for convolutions and linear layers.
    """
    import torch
    from torch import nn

    from explainkit.layers import capture
    from explainkit_fer_hw3.data.source import SIDE

    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    with torch.inference_mode(), capture(model, leaves) as outputs:
        model(torch.zeros(1, 1, SIDE, SIDE, device=next(model.parameters()).device))
    rows = []
    for name, module in leaves.items():
        (output,) = outputs[name]
        weights = [p for key, p in module.named_parameters() if key.endswith("weight")]
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        counted = isinstance(module, nn.Conv2d | nn.Linear)
        rows.append(
            {
                "name": name,
                "kind": _kind(module),
                "output": list(output.shape[1:]),
                "parameters": sum(p.numel() for p in module.parameters()),
                "multiply_adds": sum(w.numel() for w in weights) * positions if counted else 0,
            }
        )
    return rows


def _kind(module: "nn.Module") -> str:
    """A layer's kind, such as ``3×3 convolution`` or ``dropout 0.3``."""
    from torch import nn

    match module:
        case nn.Conv2d():
            height, width = module.kernel_size
            padding = ", padded" if any(module.padding) else ""
            return f"{height}×{width} convolution{padding}"
        case nn.MaxPool2d():
            return f"{module.kernel_size}×{module.kernel_size} max pooling"
        case nn.Dropout():
            return f"dropout {module.p:g}"
        case nn.Dropout2d():
            return f"channel dropout {module.p:g}"
        case nn.Linear():
            return "linear"
        case nn.ReLU():
            return "ReLU"
    return type(module).__name__.lower()
