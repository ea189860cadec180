"""``explainkit describe``: what is known about a method, a metric, a model or a data set."""

import dataclasses
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from explainkit.catalog import discovery
from explainkit.catalog.synonyms import metric_hint
from explainkit.cli import model_options, options
from explainkit.cli.printing import mention_broken
from explainkit.errors import UnknownNameError


def describe(
    name: Annotated[
        str,
        typer.Argument(
            help=f"A method, metric, data set or maximizer, or a model: {model_options.SOURCES}"
        ),
    ],
    depth: Annotated[
        int, typer.Option(min=1, help="For a model, the levels of nested layers to list.")
    ] = 2,
    as_json: options.JsonValue = False,
) -> None:
    """Describe a method or metric (formula, parameters, source), a data set, or a model.

    For a model: its classes, preprocessing and layers, and the layer that class activation maps use
    by default. Its weights are not loaded.
    """
    kind, full, value = "model", name, None
    if ":" not in name and not Path(name).is_file():  # else a model that is not registered
        kind, full, value = _find(name)
    mention_broken()
    record: dict[str, Any] = {"kind": kind, "name": full}
    if value is not None:
        record |= _registered(value)
    if kind == "model":
        from explainkit.cli.model_facts import facts

        record["model"] = facts(full, depth)
    if as_json:
        typer.echo(json.dumps(record, indent=2, default=str))
        return
    console = Console(emoji=False)
    console.print(f"[bold]{escape(full)}[/bold] ({kind})\n")
    if text := record.get("text"):
        console.print(escape(text), highlight=False, soft_wrap=True, end="\n\n")
    if kind == "model":
        _print_model(record["model"])
    elif fields := record["fields"]:
        third = "value" if kind == "dataset" else "default"
        table = Table("field", "type", third, box=None)
        for field, about in fields.items():
            table.add_row(field, escape(about["type"]), escape(str(about["default"])))
        console.print(table)


def _registered(value: Any) -> dict[str, Any]:
    """The text and the fields of something registered."""
    from explainkit.catalog.factories import defaults

    if discovery.is_metric(value):
        return {"text": inspect.getdoc(value), "fields": _options(value)}
    text = inspect.getdoc(value) if isinstance(value, type) else discovery.summary(value)
    values = defaults(value) if isinstance(value, type) else vars(value)
    fields = {
        field.name: {"type": _type(field.type), "default": values.get(field.name, "(required)")}
        for field in dataclasses.fields(value)
        if field.name != "summary"
    }
    return {"text": text, "fields": fields}


def _options(function: Any) -> dict[str, dict[str, Any]]:
    """The parameters of a metric, of which those by position are given with the images."""
    return {
        name: {
            "type": _type(one.annotation),
            "default": one.default if one.kind is one.KEYWORD_ONLY else "(given)",
        }
        for name, one in inspect.signature(function).parameters.items()
    }


def _print_model(facts: dict[str, Any]) -> None:
    """Prints what is known about a model, and its layers as a table."""
    names = facts["class_names"]
    shown = ": " + ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else ""
    typer.echo(f"classes: {facts['classes']}{shown}")
    for key in ("task", "output", "preprocessing", "input", "parameters", "default layer"):
        value = facts[key.replace(" ", "_")]
        if value is not None:
            typer.echo(f"{key}: {f'{value:,}' if isinstance(value, int) else value}")
    table = Table("layer", "kind", "output", box=None)
    table.add_column("parameters", justify="right")
    for row in facts["layers"]:
        shape = " × ".join(map(str, row["output"] or ()))
        count = f"{row['parameters']:,}" if row["parameters"] else ""
        table.add_row(row["name"], escape(row["kind"]), shape, count)
    if facts["layers"]:
        typer.echo("")
        options.show(table)


def _find(name: str) -> tuple[str, str, Any]:
    """The kind, qualified name and object of anything registered."""
    for kind, singular in discovery.KINDS.items():
        registry = discovery.registry(kind)
        if registry.candidates(name):
            full = registry.qualify(name)
            return singular, full, registry.get(full)
    hint = discovery.registry("metrics" if metric_hint(name) else "methods").hint(name)
    raise UnknownNameError(f"nothing is named {name!r}: {hint} 'explainkit list' shows all")


def _type(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(annotation)))
    return text
