"""Peak memory of a process."""

import subprocess
import sys
from pathlib import Path


def peak_mb() -> float:
    """The high-water mark of this process in megabytes (Linux).

    Not ``getrusage``: a child process inherits its parent's mark there.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def printed_by(script: str, *arguments: object) -> float:
    """The number that a benchmark prints in a fresh process: its peak memory in megabytes."""
    command = [sys.executable, script, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
