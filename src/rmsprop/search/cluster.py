"""Trials on a Ray cluster: one CPU each on any of its machines, one of which may go without loss."""

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rmsprop.search.workers import (
    Config,
    Evaluate,
    Event,
    Pruned,
    evaluated,
    late,
    reported,
)

CONNECT = 10.0  # seconds for a machine to answer at all
LOOK = 1.0  # seconds between counts of the CPUs that are there
START = (
    "start one with `ray start --head`, and on each other machine `ray start --address=HEAD:6379`"
)
_CLIENT_PORT = 10001
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and no settings
_SETTINGS = 4  # the kind of frame that an HTTP/2 server, as each of Ray's is, begins with


class Cluster:
    """Trials as tasks on a Ray cluster; this process alone talks to the study's storage.

    Each trial takes one CPU and one thread. Where a machine or process dies, its trials are "lost", and the
    search tries them again. A trial that reports waits for the answer, as in `Processes`: pruning is exact.

    Parameters
    ----------
    evaluate
        The objective, sent once. Every machine needs the same Python, Ray and rmsprop and, at the same paths,
        the files that the objective names: code is not sent. Trials work in this process's folder where a
        machine has it, and with the environment variables (RMSPROP_DATA) of its `ray start`.
    address
        "auto": the cluster that RAY_ADDRESS names, or that this machine is part of. "host:6379": that of a
        head, from one of its machines. "ray://host:10001": the same from a machine outside. "local": one that
        is started on this machine and ends with the search. Where this process is connected to a cluster by
        `ray.init`, "auto" is that one, and it stays connected.
    seconds
        A trial may take before its process is killed, from when it has begun; None sets no limit.

    Attributes
    ----------
    size
        CPUs of the machines that are alive, 1 at least; `wait` counts them anew as machines come and go.

    Raises
    ------
    ModuleNotFoundError
        Where Ray is not installed.
    ConnectionError
        Where there is no cluster, it does not answer, or it runs another version; from `wait`, where it
        is gone.
    TypeError
        For an objective that cannot be sent.
    ValueError
        For an address that is none of these.

    Examples
    --------
    >>> from rmsprop.search import tune
    >>> square = lambda config, report: config["x"] ** 2
    >>> found = tune(square, {"x": (-1.0, 1.0)}, trials=100, ray="auto")  # doctest: +SKIP
    """

    def __init__(self, evaluate: Evaluate, address: str = "auto", seconds: float | None = None):
        self._ray = _import()
        address = _checked(address)
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, address)
        elif address != "auto":
            raise ConnectionError(
                f"ray={address!r}, but this process has called ray.init already: use ray='auto' for that "
                "cluster, or call ray.shutdown() first"
            )
        self._seconds, self._tasks = seconds, dict[Any, _Task]()
        try:
            self._open(evaluate)
        except BaseException:
            self._leave()
            raise

    def _open(self, evaluate: Evaluate) -> None:
        ray = self._ray
        try:
            self._objective = {"key": uuid.uuid4().hex, "objective": ray.put(evaluate)}
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise TypeError(
                f"the objective cannot be sent to other machines ({str(error).strip().splitlines()[0]}): "
                "name it as module:function or path/to/file.py:function"
            ) from error
        # With this process, as another machine may go; begun anew, with the calls that wait, if it is killed.
        here = ray.get_runtime_context().get_node_id()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        mailbox = ray.remote(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=near
        )
        self._mailbox = mailbox(Mailbox).remote()
        self._trial = ray.remote(num_cpus=1, max_retries=0)(_trial)
        self._taking = self._mailbox.take.remote()
        self._count()

    def submit(self, number: int, config: Config) -> None:
        reference = self._trial.remote(self._objective, self._mailbox, number, config, os.getcwd())
        self._tasks[reference] = _Task(number)

    def wait(self, seconds: float) -> list[Event]:
        if not self._tasks:
            time.sleep(seconds)
            return []
        try:
            self._ray.wait([self._taking, *self._tasks], timeout=self._patience(seconds))
            found = self._told() + self._ended()
            lost = any(event.kind == "lost" for event in found)
            if lost or time.monotonic() - self._counted > LOOK:
                self._count()
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise ConnectionError(
                f"the Ray cluster is gone ({_first_line(error)}): what has ended is kept, and the same "
                "command goes on once the cluster is back"
            ) from error
        return found + self._late()

    def answer(self, number: int, prune: bool) -> None:
        self._mailbox.answer.remote(number, prune)

    def close(self) -> None:
        for reference in self._tasks:
            self._cancel(reference)
        self._tasks.clear()
        with contextlib.suppress(Exception):  # a cluster that is gone has none
            # A call that still waits would be said to be tried again.
            self._mailbox.post.remote(Event(-1, "closed"))
            self._ray.get(self._taking, timeout=0.2)
            self._ray.kill(self._mailbox)
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            with contextlib.suppress(Exception):
                self._ray.shutdown()
            self._ray._private.worker._worker_logs_enabled = True

    def _count(self) -> None:
        self._counted = time.monotonic()
        alive = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        self.size = max(1, int(sum(alive)))  # where there is none, a trial waits for one

    def _patience(self, seconds: float) -> float:
        if self._seconds is None:
            return seconds
        began = [task.began for task in self._tasks.values() if task.began is not None]
        return min([seconds, *(max(0.0, b + self._seconds - time.monotonic()) for b in began)])

    def _told(self) -> list[Event]:
        """What the trials under way have reported."""
        ready, _ = self._ray.wait([self._taking], timeout=0)
        if not ready:
            return []
        found = self._ray.get(self._taking)
        self._taking = self._mailbox.take.remote()
        for event in found:
            for task in self._tasks.values():
                if task.number == event.number and task.began is None:
                    task.began = time.monotonic()
        return [event for event in found if event.kind == "report"]

    def _ended(self) -> list[Event]:
        references = list(self._tasks)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._end(reference) for reference in ready]

    def _end(self, reference: Any) -> Event:
        number = self._tasks.pop(reference).number
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except (
            errors.RayTaskError
        ) as error:  # not of the objective: rmsprop or its code is not there
            return Event(number, "failed", why=f"it could not be begun: {_last_line(error)}")
        except errors.RayError as error:
            return Event(number, "lost", why=f"{type(error).__name__}: {_first_line(error)}")

    def _late(self) -> list[Event]:
        if self._seconds is None:
            return []
        now, found = time.monotonic(), []
        for reference, task in list(self._tasks.items()):
            if task.began is not None and now - task.began > self._seconds:
                del self._tasks[reference]
                self._cancel(reference)
                found.append(Event(task.number, "failed", why=late(self._seconds)))
        return found

    def _cancel(self, reference: Any) -> None:
        with contextlib.suppress(Exception):  # it has ended, or the cluster is gone
            self._ray.cancel(reference, force=True)


@dataclass
class _Task:
    """A trial that the cluster has; `began` is unknown while it waits for a CPU."""

    number: int
    began: float | None = None


class Mailbox:
    """An actor through which trials report to the search, and wait for its answer."""

    def __init__(self) -> None:
        self._news, self._events = asyncio.Event(), list[Event]()
        self._answers: dict[int, asyncio.Future[bool]] = {}

    async def post(self, event: Event) -> None:
        """Tell the search, without an answer."""
        self._events.append(event)
        self._news.set()

    async def ask(self, event: Event) -> bool:
        """Tell the search, and wait for what it answers: whether the trial is to end."""
        answer = self._answers[event.number] = asyncio.get_running_loop().create_future()
        await self.post(event)
        return await answer

    async def take(self) -> list[Event]:
        """What was told since the last time, as soon as there is something."""
        await self._news.wait()
        self._news.clear()
        found, self._events = self._events, []
        return found

    async def answer(self, number: int, prune: bool) -> None:
        """Answer the trial that asked."""
        waiting = self._answers.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(prune)


_objectives: dict[str, Evaluate] = {}  # the last one: with the data that it has loaded


def _trial(sent: Config, mailbox: Any, number: int, config: Config, folder: str) -> Event:
    """What a process of the cluster does, for one trial."""
    import ray

    def report(step: int, value: float) -> None:
        if ray.get(mailbox.ask.remote(reported(number, step, value))):
            raise Pruned

    _one_thread()
    with contextlib.suppress(OSError):
        os.chdir(folder)  # what the objective names, it names from there
    if sent["key"] not in _objectives:
        _objectives.clear()
        _objectives[sent["key"]] = ray.get(sent["objective"])
    # What an objective prints is for the log of its machine.
    with contextlib.redirect_stdout(sys.stderr):
        mailbox.post.remote(Event(number, "started"))
        return evaluated(_objectives[sent["key"]], number, config, report)


@functools.cache
def _one_thread() -> None:
    """As `ledger.one_thread`, without what is Ray's: it keeps Ctrl-C away, and ends with its cluster."""
    import numba
    from threadpoolctl import threadpool_limits

    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # of libraries that are not loaded yet
    numba.set_num_threads(1)
    threadpool_limits(1)


# The way to the cluster.


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"A search on a cluster needs {error.name}: pip install 'rmsprop[ray]'", name=error.name
        ) from error
    return ray


def _checked(address: str) -> str:
    """The address, "auto" resolved as far as the environment does; ValueError for what is none."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address in ("auto", "local"):
        return address
    found = re.fullmatch(r"(ray://)?([^/\s]+):(\d{1,5})", str(address))
    if found is None:
        raise ValueError(
            f"ray must be auto, local, HOST:6379 or ray://HOST:{_CLIENT_PORT}; got {address!r}"
        )
    if found[1] is None and int(found[3]) == _CLIENT_PORT:
        raise ValueError(
            f"{address!r} is the port for machines outside of the cluster: ray://{address}"
        )
    return address


def _connect(ray: Any, address: str) -> None:
    if ":" in address:
        _answers(address)
    options = {"include_dashboard": False} if address == "local" else {}
    # Ray would print what its daemons log to our standard output, whatever log_to_driver says.
    ray._private.worker._worker_logs_enabled = False
    try:
        with warnings.catch_warnings(), _terminable():
            warnings.simplefilter("ignore")  # of what Ray means to change
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        what = "no Ray cluster is running here" if address == "auto" else f"no Ray at {address}"
        raise ConnectionError(f"{what} ({_first_line(error)}): {START}") from error


def _answers(address: str) -> None:
    """Raise ConnectionError where nothing or something else answers: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_HELLO)
            is_ray = connection.recv(9)[3:4] == bytes([_SETTINGS])
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address} ({error}): {START}") from error
    if not is_ray:
        raise ConnectionError(f"what answers at {address} is not a Ray cluster: {START}")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Keep what this process does on SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
