"""The processes that a build starts; none outlives it."""

import subprocess
from collections.abc import Sequence
from threading import Lock
from typing import Any

from explainkit.errors import GalleryError


class Children:
    """Runs processes, also from several threads, and kills those that are left."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = Lock()

    def run(self, command: Sequence[str], seconds: float, **options: Any) -> tuple[int, str]:
        """Runs a process to its end.

        Returns:
            Its exit code, and what it wrote to stderr.

        Raises:
            TimeoutExpired: It has not ended in time, and was killed.
        """
        with self._lock:
            if self._stopped:
                raise GalleryError("the build has ended")
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace", **options,
            )  # fmt: skip
            self._running.add(process)
        try:
            _, printed = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, printed

    def stop(self) -> None:
        """Kills what still runs, and starts nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()
