"""Many independent runs over several processes, each kept on disk as it ends."""

import contextlib
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from rmsprop import files

Record = dict[str, Any]
Progress = Callable[[int, int, str], None]
"""Called with how many runs are done, of how many, and what they are."""


class Interrupted(Exception):
    """Ctrl-C: what is finished has been kept.

    Attributes
    ----------
    done, total
        Runs that are finished, of those asked for.
    """

    def __init__(self, done: int, total: int):
        super().__init__(f"interrupted: {done} of {total} runs are finished")
        self.done, self.total = done, total


class Ledger:
    """Finished runs by key, in a file of one JSON line each, or only in memory.

    Parameters
    ----------
    path
        The file; None keeps nothing on disk.
    resume
        Read the runs that are there. Otherwise a file that is there is kept aside as `.bak`.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.add("a", {"score": 1.0})
    >>> ledger.get("a"), ledger.get("b")
    ({'score': 1.0}, None)
    """

    def __init__(self, path: str | Path | None = None, *, resume: bool = False):
        self._path = None if path is None else Path(path)
        self._known: dict[str, Record] = {}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if resume:
            self._known = dict(_read(self._path))
        elif (
            self._path.exists() and self._path.stat().st_size
        ):  # an empty one would displace a full .bak
            self._path.replace(self._path.with_suffix(".bak"))
        # Anew, as half a line may stand at the end; as a whole, so that a kill now loses no run.
        files.write_text(self._path, "".join(_line(k, run) for k, run in self._known.items()))

    def get(self, key: str) -> Record | None:
        """The run with this key, if it is finished."""
        return self._known.get(key)

    def count(self, keys: Collection[str]) -> int:
        """How many of these runs are kept: on disk, if there is a file."""
        kept = self._known if self._path is None else dict(_read(self._path))
        return len(set(keys) & set(kept))

    def add(self, key: str, record: Record) -> None:
        """Keep a finished run; it is on disk when this returns."""
        self._known[key] = record
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(key, record))
                file.flush()
                os.fsync(file.fileno())


def key_of(*parts: Any) -> str:
    """A short name for what a run is made of; equal parts, equal names."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def run_all(
    work: Callable[..., Record],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    *,
    processes: int = 1,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
    what: str = "runs",
) -> list[Record]:
    """`work(*arguments)` for each job that the ledger does not have, in the order of the jobs.

    Parameters
    ----------
    work
        A module-level function that returns a JSON-able dict.
    jobs
        (key, arguments) each.
    processes
        1 works in this process; more start fresh ones, of one thread each.
    ledger, progress, what
        Where runs are kept, whom to tell, and what to call them.

    Raises
    ------
    Interrupted
        On Ctrl-C, after what has finished was kept.
    ChildProcessError
        Where a process was killed, as for want of memory; what had finished is kept.
    """
    ledger = ledger or Ledger()
    missing = {key: arguments for key, arguments in jobs if ledger.get(key) is None}
    done = len({key for key, _ in jobs}) - len(missing)
    total = done + len(missing)
    if progress:
        progress(done, total, what)
    try:
        with contextlib.closing(_results(work, missing, processes)) as results:
            for key, record in results:
                ledger.add(key, record)
                done += 1
                if progress:
                    progress(done, total, what)
    except KeyboardInterrupt:
        # Not `done`: the interrupt may have come between the file and the count.
        raise Interrupted(ledger.count([key for key, _ in jobs]), total) from None
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a process was killed, perhaps for want of memory: {done} of {total} {what} are finished; try "
            "fewer processes (--jobs), and resume (--resume) if they were kept"
        ) from error
    return [record for key, _ in jobs if (record := ledger.get(key)) is not None]


def _results(
    work: Callable[..., Record], jobs: dict[str, tuple[Any, ...]], processes: int
) -> Generator[tuple[str, Record]]:
    if processes <= 1 or len(jobs) <= 1:
        for key, arguments in jobs.items():
            yield key, work(*arguments)
        return
    pool = ProcessPoolExecutor(min(processes, len(jobs)), get_context("spawn"), one_thread)
    try:
        with interrupts_blocked():  # in the processes that `submit` starts, for good
            futures: dict[Future[Record], str] = {
                pool.submit(work, *arguments): key for key, arguments in jobs.items()
            }
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def one_thread() -> None:
    """Each process has one core to itself: more threads would only take turns."""
    import numba

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of libraries that are not loaded yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    numba.set_num_threads(1)
    threadpool_limits(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A parent that is killed cannot stop its pool, whose processes would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """So that Ctrl-C reaches this process alone, and workers finish what they are at.

    Processes inherit the blocked signal. Here it waits until the block ends; it is not lost.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read(path: Path) -> Iterator[tuple[str, Record]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # A process that was killed while it wrote leaves half a line: that run is done again.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            yield entry["key"], dict(entry["run"])


def _line(key: str, record: Record) -> str:
    return json.dumps({"key": key, "run": record}, allow_nan=False) + "\n"
