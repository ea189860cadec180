"""Snippets of docs/how-to/write-a-plugin.md; run by tests/test_docs.py."""

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
