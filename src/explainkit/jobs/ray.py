"""Runs shards on a Ray cluster: Ray places workers and notices deaths; plan and store are ours.

Ray (Moritz et al. 2018, arXiv:1712.05889) gets one shard per task. Its own checkpoints and writers
are not used: they hold every id in memory and read all input again on resume.
"""

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from explainkit.errors import InputError, ModelError, StorageError, line
from explainkit.jobs.plan import Plan
from explainkit.jobs.pool import Answer, Employee, Served, Stop, run_pool
from explainkit.jobs.worker import Job, Report

PATIENCE = 300.0
"""Seconds that a cluster may take to start a first worker; adding a machine takes minutes."""

TOLD = 30.0
"""Seconds between two lines about that."""

SPARE_CPUS = 2
"""Logical CPUs of a cluster of our own beyond those of the workers: with none, Ray may wait for
ever."""

STORE_BYTES = 80 << 20
"""The smallest object store that Ray accepts; only the job goes through it, not the images."""


def check_ray() -> None:
    """Checks that Ray is there.

    Raises:
        InputError: It is not installed.
    """
    if find_spec("ray") is None:
        raise InputError(
            "engine: expected the package ray, which is not installed: "
            "pip install 'explainkit-vision[ray]'"
        )


def run_ray(
    job: Job,
    shards: Sequence[int],
    workers: int,
    done: Callable[[Report], None],
    stop: Stop,
    address: str | None = None,
) -> dict[int, str]:
    """Computes shards by the workers of a Ray cluster.

    The machines share the store's folder, and paths mean the same on all of them. A worker takes as
    many CPUs as it has threads, and a GPU if the model runs on one. The rest is as in `run_pool`.

    Args:
        job: The job.
        shards: Their numbers.
        workers: Workers, each with the model.
        done: Called after each shard.
        stop: Whether to stop.
        address: Of a running cluster, as `ray.init` takes it. None: the one that this process is
            connected to, or else one of our own, which listens on the loopback only, has no
            dashboard, and ends with the job.

    Raises:
        StorageError: The cluster can't be reached or has no room for a worker.
    """
    if not shards:
        return {}
    check_ray()
    needs = {"num_cpus": job.plan.threads, "num_gpus": int(job.plan.device == "cuda")}
    # each process sees its own device alone, as the first one
    job = replace(job, store=job.store.resolve(), device=torch.device(job.device).type)
    cpus = workers * job.plan.threads + SPARE_CPUS
    with _connected(address, cpus):
        return run_pool(_Cluster(job, needs, stop), shards, workers, done, stop)


class _Remote:
    """What runs on the cluster."""

    def __init__(self, folder: str) -> None:
        if Path(folder).is_dir():  # paths may be relative to it
            os.chdir(folder)
        self.served: Served | None = None

    def ready(self) -> None:
        """Returns as soon as the cluster had room for this worker."""

    def run(self, job: list[Any], shard: int) -> Answer:
        """Computes a shard of a job, which is a reference to its bytes."""
        import ray

        if self.served is None:
            served = Served(ray.cloudpickle.loads(ray.get(job[0])))
            store, plan = served.job.store, served.job.plan
            if not store.exists() or Plan.load(store).hash != plan.hash:
                return StorageError(
                    f"expected the store {store} also on {platform.node()}: it must be a folder "
                    "that all machines share"
                )
            self.served = served
        return self.served(shard)


class _Cluster:
    """A cluster that this process is connected to."""

    def __init__(self, job: Job, needs: dict[str, int], stop: Stop) -> None:
        import ray

        try:
            self.job = [ray.put(ray.cloudpickle.dumps(job))]
        except (TypeError, AttributeError, ValueError) as error:
            raise ModelError(
                "expected a model and images that can be sent to other machines, but they can't be "
                f"pickled: {line(error)}; name the model"
            ) from error
        self.needs, self.stop = needs, stop
        self.actor = ray.remote(**needs)(_Remote)
        self.waited = self.told = time.monotonic()

    def hire(self) -> "_Actor":
        """Asks for a worker."""
        return _Actor(self.actor.remote(str(Path.cwd())), self.job)

    def wait(self, employees: Sequence[Employee]) -> list[Employee]:
        """Waits for an answer, a death or a worker that has started.

        Raises:
            StorageError: No worker has started for too long.
        """
        import ray

        actors = {
            one.task: one for one in cast(Sequence[_Actor], employees) if one.task is not None
        }
        found, _ = ray.wait(list(actors), timeout=1.0)
        if found or any(one.ready for one in employees):
            self.waited = self.told = time.monotonic()
        elif (now := time.monotonic()) - self.waited > PATIENCE:
            raise StorageError(f"no worker has started for {PATIENCE:.0f} s: {self._lacking()}")
        elif now - self.told > TOLD:
            self.told = now
            self.stop.say(f"waiting for room on the Ray cluster: {self._lacking()}")
        return [actor for task in found if (actor := actors[task]).take()]

    def _lacking(self) -> str:
        import ray

        free, whole = ray.available_resources(), ray.cluster_resources()
        return "; ".join(
            f"a worker needs {self.needs[f'num_{name.lower()}s']} {name}, the cluster has "
            f"{whole.get(name, 0):g}, of which {free.get(name, 0):g} free"
            for name in ("CPU", "GPU")
            if self.needs[f"num_{name.lower()}s"]
        )


class _Actor:
    """A worker on the cluster."""

    def __init__(self, handle: Any, job: list[Any]) -> None:
        self.handle, self.job = handle, job
        self.shard: int | None = None
        self.ready = False
        self.task: Any = handle.ready.remote()
        self.found: Answer = None
        self.died = ""

    def start(self, shard: int) -> None:
        """Hands out a shard."""
        self.shard = shard
        self.task = self.handle.run.remote(self.job, shard)

    def take(self) -> bool:
        """Takes what its task returned; False if that is only that the cluster has room for it."""
        import ray

        task, self.task = self.task, None
        try:
            self.found = ray.get(task)
        except ray.exceptions.RayError as error:
            self.found, self.died = None, line(getattr(error, "cause", None) or error)
            return True
        was, self.ready = self.ready, True
        return was

    def answer(self) -> Answer:
        """What it returned; None if it died."""
        return self.found

    def death(self) -> str:
        """The error that Ray reports."""
        return f"with {self.died}"

    def end(self) -> None:
        """Ends it, whatever it does."""
        import ray

        ray.kill(self.handle)


@contextmanager
def _connected(address: str | None, cpus: int) -> Iterator[None]:
    """A connection to a cluster while the block runs; one of our own, if there is none.

    What Ray changes in this process is put back: its environment, and how SIGTERM ends it.
    """
    import ray

    if ray.is_initialized():
        if address is not None:
            raise InputError("ray_address: this process is already connected to a cluster: omit it")
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    environment, ended = dict(os.environ), signal.getsignal(signal.SIGTERM)
    own = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    with ExitStack() as stack:
        stack.callback(_put_back, environment)
        stack.enter_context(_quiet())
        stack.callback(ray.shutdown)
        try:
            with nullcontext() if address else _on_loopback():
                ray.init(
                    address or "local", log_to_driver=False, configure_logging=False,
                    **({} if address else own),
                )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"at {address}" if address else "on this machine"
            raise StorageError(f"expected a Ray cluster {where}: {line(error)}") from error
        finally:
            if main:
                signal.signal(signal.SIGTERM, ended)
        yield


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets a cluster that starts listen on 127.0.0.1 only, which Ray by itself does off Linux."""
    import ray
    from ray._private import ray_constants

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the cluster's processes
    with _changed(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield
        if (found := ray.util.get_node_ip_address()) != "127.0.0.1":
            raise ConnectionError(f"it listens on {found} instead of the loopback")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray from printing: it reports deaths of workers on stdout, and so do we, in a line."""
    from ray._private import worker

    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _changed(worker, "print_to_stdstream", lambda *_args, **_options: None):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _changed(module: Any, name: str, value: Any) -> Iterator[None]:
    """Changes a setting of Ray that has no public name, while the block runs."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _put_back(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
