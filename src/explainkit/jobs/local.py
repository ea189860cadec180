"""Runs shards on this machine: in this process, or by several spawned workers."""

import multiprocessing
import pickle
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from explainkit.engine.failures import out_of_memory
from explainkit.errors import ExplainkitError, ModelError, line
from explainkit.jobs.worker import Job, Report, Worker, computing

ATTEMPTS = 3
"""How often a shard is tried whose worker dies."""

STOP_SECONDS = 5.0
"""How long a worker may take to end."""


class Stop:
    """Whether to stop: after Ctrl-C, when the shards at hand are done; after another, at once.

    Ctrl-C is only handled in the main thread, and where nobody else handles it.

    Args:
        say: Called with a line for the user after the first Ctrl-C.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.times = 0

    @property
    def requested(self) -> bool:
        """Whether no further shard should start."""
        return self.times > 0

    def keep(self) -> bool:
        """Whether a shard that has ended was not cut short."""
        return self.times < 2

    def __enter__(self) -> "Stop":
        main = threading.current_thread() is threading.main_thread()
        self.handles = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.handles:
            signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.times += 1
        if self.times > 1:
            signal.default_int_handler(number, frame)
        self.say("finishing the shards at hand; Ctrl-C again stops at once")


def run_local(
    job: Job,
    shards: Sequence[int],
    workers: int,
    done: Callable[[Report], None],
    stop: Stop,
) -> dict[int, str]:
    """Computes shards.

    Args:
        job: The job.
        shards: Their numbers.
        workers: Processes; 1: this one.
        done: Called after each shard.
        stop: Whether to stop.

    Returns:
        Why shards could not be computed. Others are missing only after a stop.

    Raises:
        ExplainkitError: The model can't be loaded, or the store can't be written.
    """
    if workers == 1:
        return _in_process(job, shards, done, stop)
    return _Pool(job, min(workers, max(len(shards), 1))).run(shards, done, stop)


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
                if not _lacks_memory(error):
                    raise
                undone[shard] = line(error)
    return undone


class _Process:
    """A worker in a process of its own, and the shard that it computes."""

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

    def answer(self) -> Any:
        """What it found; None if it died."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None

    def end(self) -> None:
        """Ends it, whatever it does."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


class _Pool:
    """Workers that compute the shards of a job; a shard whose worker dies is done again."""

    def __init__(self, job: Job, workers: int) -> None:
        try:
            self.job = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ModelError(
                "expected a model and images that can be sent to other processes, but they can't "
                f"be pickled: {line(error)}; name the model, or use workers=1"
            ) from error
        self.workers = workers
        self.undone: dict[int, str] = {}
        self.deaths: Counter[int] = Counter()

    def run(
        self, shards: Sequence[int], done: Callable[[Report], None], stop: Stop
    ) -> dict[int, str]:
        """Computes shards."""
        waiting = deque(shards)
        processes: list[_Process] = []
        try:
            while True:
                if stop.requested:
                    waiting.clear()
                idle = [one for one in processes if one.shard is None]
                while waiting and (idle or len(processes) < self.workers):
                    if not idle:
                        processes.append(_Process(self.job))
                        idle = processes[-1:]
                    idle.pop().start(waiting.popleft())
                busy = {one.pipe: one for one in processes if one.shard is not None}
                if not busy:
                    return self.undone
                for pipe in wait(list(busy)):
                    process = busy[pipe]  # type: ignore[index]
                    if not self._received(process, waiting, done):
                        processes.remove(process)
                        process.end()
        finally:
            for process in processes:
                process.end()

    def _received(
        self, process: _Process, waiting: deque[int], done: Callable[[Report], None]
    ) -> bool:
        """Takes a worker's answer; False if it died."""
        shard, process.shard = process.shard, None
        assert shard is not None
        match process.answer():
            case Report() as report:
                done(report)
            case str() as reason:
                self.undone[shard] = reason
            case Exception() as error:
                raise error
            case _:
                process.process.join(STOP_SECONDS)
                self.deaths[shard] += 1
                if self.deaths[shard] < ATTEMPTS:
                    waiting.appendleft(shard)
                else:
                    code = process.process.exitcode
                    self.undone[shard] = f"its worker died {ATTEMPTS} times, with exit code {code}"
                return False
        return True


def _serve(pickled: bytes, pipe: Connection) -> None:
    """A worker's process: computes the shards that it is sent, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to workers, too
    worker: Worker | None = None
    try:
        job: Job = pickle.loads(pickled)  # noqa: S301 - of the process that started this one
        with computing(job.plan.threads):
            while True:
                shard = pipe.recv()
                try:
                    if worker is None:
                        worker = Worker(job)
                        worker.check_model()
                    pipe.send(worker.run(shard))
                except Exception as error:
                    if _lacks_memory(error):
                        pipe.send(line(error))
                    elif isinstance(error, ExplainkitError):
                        pipe.send(error)
                    else:
                        raise
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the process that started this one has ended


def _lacks_memory(error: BaseException) -> bool:
    return any(map(out_of_memory, filter(None, (error, error.__cause__))))
