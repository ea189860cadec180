"""Hands out shards to workers, wherever they run; a shard whose worker dies is done again."""

import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Protocol, TypeAlias

from explainkit.engine.failures import out_of_memory
from explainkit.errors import ExplainkitError, StorageError, line
from explainkit.jobs.worker import Job, Report, Worker, computing

ATTEMPTS = 3
"""How often a shard is tried whose worker dies."""

Answer: TypeAlias = "Report | str | ExplainkitError | None"
"""What became of a shard: a report; why it could not be computed; an error that would meet every
shard; or None if the worker died."""


class Stop:
    """Whether to stop: after Ctrl-C, when the current shards are done; after another, at once.

    Ctrl-C is only handled in the main thread, and where nobody else handles it.

    Args:
        say: Called with a line for the user after the first Ctrl-C, and while a cluster has no
            room for a worker.
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
        self.say("finishing the current shards; Ctrl-C again stops at once")


class Employee(Protocol):
    """A worker in a process of its own, here or on another machine.

    Attributes:
        shard: What it computes; None: it waits.
        ready: Whether it takes shards; one that waits for room on a cluster does not.
    """

    shard: int | None
    ready: bool

    def start(self, shard: int) -> None:
        """Hands out a shard."""
        ...

    def answer(self) -> Answer:
        """What became of the shard, once there is news."""
        ...

    def death(self) -> str:
        """How it died."""
        ...

    def end(self) -> None:
        """Ends it, whatever it does."""
        ...


class Employer(Protocol):
    """Where workers run."""

    def hire(self) -> Employee:
        """Starts a worker."""
        ...

    def wait(self, employees: Sequence[Employee]) -> Iterable[Employee]:
        """Waits until some workers have answered, died or become ready, or for a while.

        Returns:
            Those that have answered or died.
        """
        ...


class Served:
    """What a worker's process does: loads the model for its first shard, and answers.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker: Worker | None = None

    def __call__(self, shard: int) -> Answer:
        """Computes a shard and writes it."""
        try:
            with computing(self.job.plan.threads):
                if self.worker is None:
                    worker = Worker(self.job)
                    worker.check_model()
                    self.worker = worker
                return self.worker.run(shard)
        except Exception as error:
            if lacks_memory(error):
                return line(error)
            if isinstance(error, ExplainkitError):
                return error
            raise


def run_pool(
    employer: Employer,
    shards: Sequence[int],
    workers: int,
    done: Callable[[Report], None],
    stop: Stop,
) -> dict[int, str]:
    """Computes shards by workers in processes of their own.

    Args:
        employer: Where they run.
        shards: Numbers of the shards.
        workers: How many workers, at most.
        done: Called after each shard.
        stop: Whether to stop.

    Returns:
        Why shards could not be computed. Others are missing only after a stop.

    Raises:
        ExplainkitError: The model can't be loaded, the store can't be written, or no worker starts.
    """
    waiting = deque(shards)
    undone: dict[int, str] = {}
    deaths: Counter[int] = Counter()
    employees: list[Employee] = []
    try:
        while True:
            if stop.requested:
                waiting.clear()
            busy = sum(one.shard is not None for one in employees)
            if not busy and not waiting:
                return undone
            while len(employees) < min(workers, busy + len(waiting)):
                employees.append(employer.hire())
            for one in employees:
                if waiting and one.ready and one.shard is None:
                    one.start(waiting.popleft())
            for one in employer.wait(employees):
                shard, one.shard = one.shard, None
                answer = one.answer()
                if isinstance(answer, Exception):
                    raise answer
                if isinstance(answer, Report):
                    done(answer)
                elif shard is None:
                    raise StorageError(f"a worker could not start: {one.death()}")
                elif answer is not None:
                    undone[shard] = answer
                else:
                    employees.remove(one)
                    deaths[shard] += 1
                    if deaths[shard] < ATTEMPTS:
                        waiting.appendleft(shard)
                    else:
                        undone[shard] = f"its worker died {ATTEMPTS} times, {one.death()}"
                    one.end()
    finally:
        for one in employees:
            one.end()


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, in the model or around it."""
    return any(map(out_of_memory, filter(None, (error, error.__cause__))))
