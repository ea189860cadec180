"""Snippets of docs/how-to/write-a-plugin.md; run by tests/test_docs.py."""

# --8<-- [start:specs]
from torch import nn

from explainkit.interfaces import ModelSpec


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


DIGITS = ModelSpec(
    build=build,
    weights=None,  # or a function that returns a state_dict
    class_names=tuple("0123456789"),
    image_shape=(1, 28, 28),
    mean=(0.1307,),
    std=(0.3081,),
    summary="One linear layer on handwritten digits.",
)
# --8<-- [end:specs]

# --8<-- [start:commands]
import typer

app = typer.Typer(help="Commands of my plugin.")


@app.command()
def saliency(index: int = 0) -> None:
    """Explain one image."""
    import explainkit as ek  # inside the command, so that --help is fast

    typer.echo(f"{index}: {', '.join(ek.list_methods())}")


# --8<-- [end:commands]

from typer.testing import CliRunner

result = CliRunner().invoke(app, ["--index", "3"])
assert result.exit_code == 0, result.output
assert result.output.startswith("3: explainkit/")
