"""Who evaluates trials: this process, or several, one of which can be killed without loss."""

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection as mp_connection
from typing import Any, Protocol

from rmsprop.ledger import interrupts_blocked, one_thread

LOADING = 120.0  # seconds that a process may take to load the objective, beyond a time limit
MOST_STEPS = 2**31  # what a database keeps of a step

Config = dict[str, Any]
Report = Callable[[int, float], None]
Evaluate = Callable[[Config, Report], Any]
"""An objective: of a config and a function that it may tell (step, value) as it goes."""


class Pruned(Exception):
    """Raised by `report` where a trial is not worth going on with: let it pass."""


class Diverged(Exception):
    """Raised by an objective whose loss ran away: the trial is kept, and counts as worse than all."""

    def __init__(self, more: Config):
        super().__init__("diverged")
        self.more = more


class TimeLimit(BaseException):
    """A trial took longer than it may; not an Exception, so that an objective's `except` lets it pass."""


@dataclass(frozen=True)
class Result:
    """What our own objectives return: the value, and what else there is to know, ready for JSON."""

    value: float
    more: Config = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What happened to the trial of a number.

    Attributes
    ----------
    kind
        "report" (answer with `Workers.answer`), or how it ended: "done", "pruned", "failed" or "lost".
    value, more
        Of "report" the value, and {"step": ...}; of "done" the value and what else there is to know.
    why
        Of "failed" and "lost".
    """

    number: int
    kind: str
    value: float = math.nan
    more: Config = field(default_factory=dict)
    why: str = ""


class Workers(Protocol):
    """What the search asks of those who evaluate."""

    size: int
    """How many trials they take at a time."""

    def submit(self, number: int, config: Config) -> None:
        """Take a trial, which must not block for long."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """What has happened, or nothing after so long."""
        ...

    def answer(self, number: int, prune: bool) -> None:
        """Whether the trial that reported is to end."""
        ...

    def close(self) -> None:
        """Stop all at once."""
        ...


def evaluated(evaluate: Evaluate, number: int, config: Config, report: Report) -> Event:
    """One trial, whatever becomes of it: what the objective raises is told, not raised."""
    try:
        found = evaluate(config, report)
    except Pruned:
        return Event(number, "pruned")
    except Diverged as error:
        return Event(number, "pruned", more=error.more | {"diverged": True})
    except TimeLimit as error:
        return Event(number, "failed", why=str(error))
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {_text(str, error)}"
        place = f"{os.path.basename(where.filename)}, line {where.lineno}"
        return Event(number, "failed", why=f"{text} ({place})")
    value, more = (found.value, found.more) if isinstance(found, Result) else (found, {})
    kind, text = type(value).__name__, _text(repr, value)
    try:
        if isinstance(value, str | bytes):  # which float would read
            raise TypeError
        value = float(value)
    except Exception:  # whatever the types of others raise
        return Event(number, "failed", why=f"it must return a number; got {kind} {text}")
    if not math.isfinite(value):
        return Event(number, "failed", why=f"it returned {value}", more=more)
    return Event(number, "done", value, more)


def _text(how: Callable[[Any], str], what: Any) -> str:
    """An object of the user's in words, cut short; whose own words may fail."""
    try:
        return f"{how(what):.300}"
    except Exception:
        return "without words"


def reported(number: int, step: Any, value: Any) -> Event:
    """What an objective reports, checked; TypeError or ValueError goes to the objective."""
    try:
        whole = -1 if isinstance(step, bool | str) or int(step) != step else int(step)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if not 0 <= whole < MOST_STEPS:
        raise ValueError(
            f"report(step, value) takes a step that is a whole number, 0 or more; got {step!r}"
        )
    try:
        return Event(number, "report", float(value), {"step": whole})
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"report(step, value) takes a value that is a number; got {value!r:.60}"
        ) from None


class Here:
    """One trial at a time, in this process: for functions that cannot be sent to another.

    Parameters
    ----------
    evaluate
        The objective.
    seconds
        A trial may take; None sets no limit. It needs the main thread of a system with alarms, and ends what
        Python does, not a call that hangs in C.
    """

    size = 1

    def __init__(self, evaluate: Evaluate, seconds: float | None = None):
        if seconds is not None and not _has_alarm():
            raise ValueError(
                "a time limit here needs the main thread and alarms: use processes (jobs=2 or more)"
            )
        self._evaluate, self._seconds = evaluate, seconds
        self._waiting: list[tuple[int, Config]] = []
        self.on_report: Callable[[Event], bool] = lambda event: False

    def submit(self, number: int, config: Config) -> None:
        self._waiting.append((number, config))

    def wait(self, seconds: float) -> list[Event]:
        if not self._waiting:
            time.sleep(seconds)
            return []
        number, config = self._waiting.pop()

        def report(step: int, value: float) -> None:
            if self.on_report(reported(number, step, value)):
                raise Pruned

        try:
            with _alarm(self._seconds):
                return [evaluated(self._evaluate, number, config, report)]
        except TimeLimit as error:  # which rang as it ended
            return [Event(number, "failed", why=str(error))]

    def answer(self, number: int, prune: bool) -> None:
        raise AssertionError("reports are answered at once")

    def close(self) -> None:
        self._waiting.clear()


class Processes:
    """Trials in processes of their own, of one thread each; a killed or hanging one is replaced.

    Parameters
    ----------
    evaluate
        The objective; it must be possible to pickle it.
    size
        How many processes.
    seconds
        A trial may take before its process is killed; None sets no limit.

    Raises
    ------
    TypeError
        For an objective that cannot be sent to another process.
    """

    def __init__(self, evaluate: Evaluate, size: int, seconds: float | None = None):
        try:
            pickle.dumps(evaluate)
        except Exception as error:  # whatever the user's objects raise
            raise TypeError(
                f"the objective cannot be sent to another process ({error}): name it as module:function or "
                "path/to/file.py:function, or use jobs=1"
            ) from error
        self.size, self._evaluate, self._seconds = size, evaluate, seconds
        self._workers: list[_Worker] = []

    def submit(self, number: int, config: Config) -> None:
        free = next((w for w in self._workers if w.number is None), None)
        if free is None:
            free = _Worker(self._evaluate)
            self._workers.append(free)
        free.give(number, config)

    def wait(self, seconds: float) -> list[Event]:
        busy = [w for w in self._workers if w.number is not None]
        if not busy:
            time.sleep(seconds)
            return []
        if self._seconds is not None:
            seconds = min(seconds, max(0.0, min(w.began for w in busy) + self._seconds - _now()))
        ready = mp_connection.wait([x for w in busy for x in (w.pipe, w.process.sentinel)], seconds)
        found = [event for w in busy for event in w.read(ready)]
        ended = {event.number for event in found if event.kind != "report"}
        for w in busy:
            if self._seconds is None or w.number is None or w.number in ended:
                continue
            if _now() - w.began > self._seconds:
                found.append(Event(w.number, "failed", why=late(self._seconds)))
                w.kill()
        # One that died since has a trial, which the next look finds lost.
        self._workers = [
            w
            for w in self._workers
            if not w.dead and (w.number is not None or w.process.is_alive())
        ]
        return found

    def answer(self, number: int, prune: bool) -> None:
        for w in self._workers:
            if w.number == number:
                with contextlib.suppress(OSError):  # it died meanwhile, which `wait` will see
                    w.pipe.send(prune)

    def close(self) -> None:
        for w in self._workers:
            w.kill()
        self._workers.clear()


def late(seconds: float) -> str:
    """What is said of a trial that took too long."""
    return f"it took longer than the time limit of {seconds:g} s"


class _Worker:
    """A process, and the trial that it has."""

    def __init__(self, evaluate: Evaluate):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(evaluate, theirs))
        with interrupts_blocked():  # Ctrl-C is for the search, which then stops its processes
            self.process.start()
        theirs.close()
        self.number: int | None = None
        self.began, self.dead, self.loaded = 0.0, False, False

    def give(self, number: int, config: Config) -> None:
        # Until it says that it has begun: a process loads the objective first.
        self.number, self.began = number, _now() + LOADING
        with contextlib.suppress(OSError):  # it died meanwhile, which `read` will see
            self.pipe.send((number, config))

    def read(self, ready: list[Any]) -> list[Event]:
        found: list[Event] = []
        try:
            while self.pipe in ready and self.pipe.poll():
                event = self.pipe.recv()
                if event.kind == "started":  # importing the objective is not a trial's time
                    self.began, self.loaded = _now(), True
                    continue
                found.append(event)
        except (EOFError, OSError):
            self.dead = True
        if found and found[-1].kind != "report":
            self.number = None
        if self.number is not None and (self.dead or self.process.sentinel in ready):
            self.process.join(5)
            found.append(Event(self.number, "lost", why=_death(self.process.exitcode, self.loaded)))
            self.kill()
        return found

    def kill(self) -> None:
        self.number, self.dead = None, True
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # it has no group yet, or is gone
                os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(evaluate: Evaluate, pipe: Any) -> None:
    """What a process does: trials, until it is killed or its parent is gone."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that what the objective starts is killed with it
    one_thread()
    sys.stdout = sys.stderr  # what an objective prints does not mix with what the command prints
    turn = threading.Lock()  # an objective may report from several threads

    def report(step: int, value: float) -> None:
        event = reported(number, step, value)
        with turn:
            pipe.send(event)
            prune = pipe.recv()
        if prune:
            raise Pruned

    with contextlib.suppress(EOFError, OSError):
        while True:
            number, config = pipe.recv()
            pipe.send(Event(number, "started"))
            pipe.send(evaluated(evaluate, number, config, report))


def _death(code: int | None, loaded: bool) -> str:
    if code is not None and code < 0:
        return f"its process was killed by signal {-code}, perhaps for want of memory"
    text = f"its process ended with code {code}"
    if loaded:
        return text
    return f"{text} as it began: with jobs, a script must call tune under if __name__ == '__main__'"


def _now() -> float:
    return time.monotonic()


def _has_alarm() -> bool:
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TimeLimit(late(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
