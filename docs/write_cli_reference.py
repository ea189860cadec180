"""Prints the command-line reference: the help text of every command."""

import os

os.environ |= {"COLUMNS": "76", "TERMINAL_WIDTH": "76", "NO_COLOR": "1", "TERM": "dumb"}

from typer.testing import CliRunner  # reads the width when it is imported

from explainkit.cli.app import app

COMMANDS = [
    [], ["explain"], ["batch"], ["evaluate"], ["concepts"], ["status"], ["report"], ["export"],
    ["verify"], ["list"], ["describe"], ["plugins"], ["new-plugin"], ["doctor"],
    ["gallery", "build"], ["run", "fer_hw3"],
    ["run", "fer_hw3", "summary"], ["run", "fer_hw3", "evaluate"], ["run", "fer_hw3", "confusion"],
    ["run", "fer_hw3", "compare"], ["run", "fer_hw3", "saliency"], ["run", "fer_hw3", "filters"],
    ["run", "fer_hw3", "classes"], ["run", "fer_hw3", "concepts"],
    ["run", "fer_hw3", "activations"], ["run", "fer_hw3", "train"], ["run", "fer_hw3", "report"],
]  # fmt: skip


def help_of(command: list[str]) -> str:
    """The output of ``--help``."""
    done = CliRunner().invoke(app, [*command, "--help"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def main() -> None:
    print("# Command line\n")
    print(
        "Exit codes: 0 success; 1 failure; 2 the command is wrong: a name, a value or a file that"
    )
    print("can't be used; 130 interrupted by Ctrl-C, SIGTERM or SIGHUP. An error is one line on")
    print(
        "stderr; `--traceback`, at any position, shows the full traceback. `--json` prints one JSON"
    )
    print("value to stdout and nothing else.")
    for command in COMMANDS:
        name = " ".join(["explainkit", *command])
        print(f"\n## {name}\n\n```text\n{help_of(command)}\n```")


if __name__ == "__main__":
    main()
