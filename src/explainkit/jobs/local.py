"""Runs shards on this machine: in this process, or by several spawned workers."""

import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import cast

from explainkit.errors import ModelError, line
from explainkit.jobs.pool import Answer, Employee, Served, Stop, lacks_memory, run_pool
from explainkit.jobs.worker import Job, Report, Worker, computing

STOP_SECONDS = 5.0
"""How long a worker may take to end."""


def run_local(
    job: Job, shards: Sequence[int], workers: int, done: Callable[[Report], None], stop: Stop
) -> dict[int, str]:
    """Computes shards on this machine, by this process if there is one worker; see `run_pool`."""
    if workers == 1:
        return _in_process(job, shards, done, stop)
    return run_pool(_Machine(job), shards, workers, done, stop)


def _in_process(
    job: Job, shards: Sequence[int], done: Callable[[Report], None], stop: Stop
) -> dict[int, str]:
    undone: dict[int, str] = {}
    with computing(job.plan.threads):
        worker = Worker(job)
        for shard in shards:
            if stop.requested:
                break
            try:
                done(worker.run(shard, stop.keep))
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                undone[shard] = line(error)
    return undone


class _Machine:
    """This machine, on which workers are spawned."""

    def __init__(self, job: Job) -> None:
        try:
            self.job = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ModelError(
                "expected a model and images that can be sent to other processes, but they can't "
                f"be pickled: {line(error)}; name the model, or use workers=1"
            ) from error

    def hire(self) -> "_Process":
        """Spawns a worker."""
        return _Process(self.job)

    def wait(self, employees: Sequence[Employee]) -> list[Employee]:
        """Waits for an answer or a death."""
        pipes = {
            one.pipe: one for one in cast(Sequence[_Process], employees) if one.shard is not None
        }
        return [pipes[cast(Connection, pipe)] for pipe in wait(list(pipes))]


class _Process:
    """A spawned worker."""

    ready = True

    def __init__(self, job: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(job, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.shard: int | None = None

    def start(self, shard: int) -> None:
        """Hands out a shard."""
        self.shard = shard
        # if it has died, this is seen when its answer is read
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(shard)

    def answer(self) -> Answer:
        """What it sent; None if it died."""
        try:
            return cast(Answer, self.pipe.recv())
        except (EOFError, ConnectionResetError):
            return None

    def death(self) -> str:
        """Its exit code."""
        self.process.join(STOP_SECONDS)
        return f"with exit code {self.process.exitcode}"

    def end(self) -> None:
        """Ends it, whatever it does."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


def _serve(pickled: bytes, pipe: Connection) -> None:
    """A worker's process: computes the shards that it is sent, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to workers, too
    try:
        served = Served(pickle.loads(pickled))  # noqa: S301 - of the process that started this one
        while True:
            pipe.send(served(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the process that started this one has ended
